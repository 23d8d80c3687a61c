-- refused: line 5: begin
begin;
create table a (id int);
commit;
begin;
drop table a;
rollback;
