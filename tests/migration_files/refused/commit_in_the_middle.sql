-- refused: line 3: commit
create table a (id int);
commit;
create table b (id int);
