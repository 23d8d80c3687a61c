-- refused: line 2: begin
begin isolation level serializable;
create table a (id int);
commit;
