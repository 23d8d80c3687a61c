create table public.l2 (i int);
-- café
insert into public.l2 values (1);
