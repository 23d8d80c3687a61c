create table a (id int primary key, b_id int);
create table b (id int primary key, a_id int references a deferrable initially deferred);
alter table a add constraint a_b_fkey foreign key (b_id) references b (id) deferrable initially deferred;
insert into a values (1, 1);
insert into b values (1, 1);
