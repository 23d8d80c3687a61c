create view public.vi with (security_invoker = true) as select * from orders;
create or replace view public.vi with (security_invoker = on, security_barrier) as select *, 1 as one from orders;
create materialized view public.mm as select 1 as a with no data;
refresh materialized view public.mm;
grant select on public.vi to anon;
alter view public.vi set (security_invoker = false);
create or replace view public.vi as select id from orders;
