create table bom (id int);
insert into bom values (1);
