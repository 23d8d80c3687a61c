create function public.where_names_are_found() returns text language sql
    set search_path from current as $$ select current_setting('search_path') $$;
insert into audit (what) values (public.where_names_are_found()), (current_schemas(true)::text);
-- A schema called as the role is the first one in which names are looked up.
create schema postgres;
create table kept_here (id integer);
create function postgres.lower(text) returns text language sql return 'of the schema called as the role';
insert into audit (what) values (postgres.lower('A')), (to_regclass('kept_here')::oid::regclass::text);
