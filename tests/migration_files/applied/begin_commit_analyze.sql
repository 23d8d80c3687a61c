-- ANALYZE behind the COMMIT reads what was made, and sees it in the same transaction as well.
begin;
create table public.analysed (id integer primary key);
insert into public.analysed select g from generate_series(1, 10) as g;
commit;
analyze public.analysed;
ANALYSE;
