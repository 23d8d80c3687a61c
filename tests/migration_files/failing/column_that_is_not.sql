alter table orders add column fine int;
update orders
set nonsense = 1
where id = 1;
