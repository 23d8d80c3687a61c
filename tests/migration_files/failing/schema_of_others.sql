create table auth.mine (id int);
alter table auth.users add column mine int;
