begin;
create table inside (id int);
insert into inside values ('x');
commit;
