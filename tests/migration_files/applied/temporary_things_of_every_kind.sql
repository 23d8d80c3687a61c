create function pg_temp.x() returns int language sql as 'select 1';
create temp view tv as select * from orders;
create temp sequence ts; select nextval('ts');
create type pg_temp.e as enum ('a');
insert into audit (what) select count(*)::text from tv;
