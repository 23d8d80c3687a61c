create table a (id int);
commit;
