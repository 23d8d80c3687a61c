create table dollars (a text, b text, c text, d text);
insert into dollars values ($$;$$, $a$ $b$; $$ $a$, $ünï$;$ünï$, $_1$ $a; $_1$);
create table a$b$c ("$$" int);
insert into a$b$c values (1);
insert into dollars (a) select '$$' || $x$;$x$ || '$x$';
