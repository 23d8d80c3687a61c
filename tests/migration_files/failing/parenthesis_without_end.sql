create table open (id int;
insert into open values (1);
