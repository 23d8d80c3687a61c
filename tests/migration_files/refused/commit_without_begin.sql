-- refused: line 3: commit
create table a (id int);
commit;
