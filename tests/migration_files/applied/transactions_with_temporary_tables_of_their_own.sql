begin;
create temp table picked (
    id bigint, user_id uuid, status text, kind public.order_kind, total numeric, tags jsonb
) on commit drop;
insert into picked select id, user_id, status, kind, total, tags from orders where status = 'open';
update orders as o set status = 'picked' from picked as p where p.id = o.id;
commit;
begin;
create temporary table picked on commit drop as select id from orders where status = 'picked';
insert into audit (what) select 'picked ' || count(*) from picked;
commit;
