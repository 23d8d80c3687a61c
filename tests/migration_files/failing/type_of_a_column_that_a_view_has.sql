create view public.v as select total from public.orders;
alter table public.orders alter column total type text;
