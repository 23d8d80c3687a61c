(select id, total into cheap from orders where total < 50);
((select 1 as one into table public.ones) union all select 2) order by 1;
(with recent as (select id from orders) select * into temporary kept from recent);
create table from_kept as select * from kept;
-- And what is called so.
select 1 as into;
select 2 as into from orders;
create table odd (id integer, "into" text);
select o.into from odd as o;
(select o.into, 3 as into from odd as o);
