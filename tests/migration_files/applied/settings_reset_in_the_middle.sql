-- As a dump of a schema ends, with more behind it.
set statement_timeout = 0;
select pg_catalog.set_config('search_path', '', false);
set row_security = off;
create table public.things (id integer);
reset all;

create table more_things (id integer);
create function extensions.slug_of(text) returns text language sql as $$ select lower($1) $$;
insert into audit (what) values (slug_of('Found In Extensions'));
set search_path = '';
reset search_path;
insert into audit (what) values (slug_of('Again'));
set search_path to default;
insert into audit (what) values (slug_of('And Again'));
drop function slug_of(text);
