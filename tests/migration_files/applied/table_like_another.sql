create table orders_archive (like orders including all);
insert into orders_archive overriding system value select * from orders;
