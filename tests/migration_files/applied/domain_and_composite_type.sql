create domain public.email as text check (value ~ '^[^@;]+@[^@;]+$');
create type public.address as (street text, city text);
create table public.contacts (email public.email, home public.address);
insert into public.contacts values ('a@b.c', row('Main St; 1', 'Town'));
