start transaction;
create table wrapped (id int);
commit work;
