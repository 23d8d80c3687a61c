-- refused: line 2: begin
begin;
create table a (id int);
rollback;
