create temp table staged (id int) on commit drop;
insert into staged values (1);
do $$ declare d cursor for select * from staged; one record; begin open d; fetch d into one; insert into audit (what) values (one.id::text); end $$;
select 1;
