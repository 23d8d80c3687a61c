create table plans (id text primary key, price numeric(10, 2) not null);
insert into plans values ('free', 0), ('pro', 9.99);
alter table plans add column currency char(3) not null default 'EUR';
insert into plans values ('team', 49, 'USD');
update plans set price = price * 1.1 where id = 'pro';
delete from plans where id = 'free';
