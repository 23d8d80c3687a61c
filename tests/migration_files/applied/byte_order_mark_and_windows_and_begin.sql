-- a comment first
begin;
create table bom (id int);
commit;
