-- refused: line 3: update without where
create table fine (id int);
update orders set status = 'paid';
