create schema app;
set search_path to app;
create table here (id int);
create function f() returns bigint language sql as $$ select count(*) from app.here $$;
reset search_path;
create table there (id int);
