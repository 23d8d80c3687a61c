create temp table staged (id int);
insert into staged values (1), (2);
declare c cursor for select * from staged;
fetch c;
do $$ declare d cursor for select * from staged; one record; begin open d; fetch d into one; insert into audit (what) values (one.id::text); end $$;
