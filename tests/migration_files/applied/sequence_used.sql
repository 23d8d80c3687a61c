create sequence invoice_numbers start 1000 increment 5;
create table invoices (number bigint primary key default nextval('invoice_numbers'), note text);
alter sequence invoice_numbers owned by invoices.number;
insert into invoices (note) values ('a'), ('b');
select setval('invoice_numbers', 5000);
insert into invoices (note) values ('c');
