-- refused: line 3: prepare transaction
create table a (id int);
prepare transaction 'later';
