create table parents (id int primary key);
create table children (parent int references parents deferrable initially deferred);
insert into children values (10);
insert into parents values (10);
set constraints all immediate;
insert into children values (10);
