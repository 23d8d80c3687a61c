create table parents (id int primary key);
create table children (id int primary key, parent int references parents deferrable initially deferred);
insert into children values (1, 10);
insert into parents values (10);
