create extension if not exists ltree with schema extensions;
create extension if not exists hstore;
create extension if not exists "fuzzystrmatch" with schema extensions cascade;
create table public.tr (p extensions.ltree, h hstore);
insert into tr values ('a.b', 'x=>1');
select * from tr where p <@ 'a';
drop extension if exists hstore cascade;
