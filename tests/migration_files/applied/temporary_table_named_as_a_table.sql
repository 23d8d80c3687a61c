-- The temporary table comes first, and the real one stays as it is.
create temporary table orders as select * from public.orders;
update orders set status = 'seen' where true;
delete from orders where total > 50;
insert into public.audit (what) select status from orders;

create temporary table teams (id integer) on commit drop;
insert into teams values (1), (2);
insert into public.audit (what) select id::text from teams;
drop table teams;
