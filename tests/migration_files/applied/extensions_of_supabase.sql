create extension if not exists vector with schema extensions;
create extension if not exists pg_trgm;
create extension if not exists unaccent with schema extensions;
create extension if not exists "citext" with schema public;
create extension if not exists btree_gist;
create table public.docs (id bigserial primary key, body text, e extensions.vector(3), em citext);
create index on public.docs using gin (body gin_trgm_ops);
create table public.bk (r int, d tstzrange, exclude using gist (r with =, d with &&));
