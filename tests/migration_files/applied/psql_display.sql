-- What psql prints and how it does so is nothing to the database; so is what it does here anyway.
\set ON_ERROR_STOP on
\set QUIET 1
\encoding UTF8
\timing on
\pset pager off
\echo 'Creating tables; it''s quick\n'

create table public.shown (id bigint primary key);
\d public.shown
\echo :DBNAME done
insert into public.shown values (1); \echo one row
\dt+ public.*
select count(*) from public.shown;
