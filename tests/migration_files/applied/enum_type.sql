create type public.mood as enum ('sad', 'ok', 'it''s fine; really');
create table public.people (name text, mood public.mood default 'ok');
insert into public.people values ('Ann', 'sad');
