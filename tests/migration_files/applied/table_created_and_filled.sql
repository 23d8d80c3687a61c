create table public.a1 (id int);
insert into public.a1 values (1);
