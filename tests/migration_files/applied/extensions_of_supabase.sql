create extension if not exists pg_trgm;
create extension if not exists unaccent with schema extensions;
create extension if not exists "citext" with schema public;
create extension if not exists btree_gist;
create extension if not exists "uuid-ossp" with schema "extensions";
create table public.docs (id uuid primary key default extensions.uuid_generate_v4(), body text, email citext);
create index on public.docs using gin (body gin_trgm_ops);
create table public.bookings (room integer, during tstzrange, exclude using gist (room with =, during with &&));
