-- refused: line 6: `-- Rollback`, and below it SQL that would be run as well
begin;
create table a (id int);
commit;

-- Rollback
begin;
drop table a;
commit;
