create view open_orders with (security_invoker = true) as select * from orders where status = 'open';
create or replace view open_order_count as select count(*) as n from open_orders;
grant select on open_orders to authenticated;
