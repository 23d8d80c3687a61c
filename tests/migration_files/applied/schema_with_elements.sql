create schema shop
    create table products (id int primary key, name text)
    create view names as select name from products;
insert into shop.products values (1, 'pen');
