create view v as select total from orders;
alter table orders drop column total;
