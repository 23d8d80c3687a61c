create table before_it (id int);
insert into before_it values (1);
insert into before_it valeus (2);
insert into before_it values (3);
