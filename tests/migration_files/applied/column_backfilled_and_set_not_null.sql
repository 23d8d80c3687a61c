alter table orders add column region text;
update orders set region = 'eu' where region is null;
alter table orders alter column region set not null;
