-- refused: line 2: begin
begin;
create temporary table kept as select 1 as id;
commit;
create table a as select * from kept;
