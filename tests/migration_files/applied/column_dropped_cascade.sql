create view order_totals as select id, total from orders;
alter table orders drop column total cascade;
