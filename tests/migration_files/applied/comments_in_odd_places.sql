create /* a; */ table -- b; '
commented ( -- c;
    id int /* d; /* e; */ f; */ , -- it's an "unbalanced comment
    name text default '-- no comment; /* nor this */'
); -- done;
insert into commented (id) values (1) --;
;
