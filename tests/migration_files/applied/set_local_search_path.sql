create schema app;
set local search_path = app, public;
create table here (id int);
insert into here values (1);
