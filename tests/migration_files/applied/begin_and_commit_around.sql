BEGIN;

create table public.wrapped (id int);
insert into public.wrapped values (1);

COMMIT;
