create table closed (id int));
insert into closed values (1);
