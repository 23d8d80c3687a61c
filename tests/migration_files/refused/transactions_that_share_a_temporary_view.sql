-- refused: line 4: commit
create or replace temp view named as select 'a' as what;
insert into audit (what) select what from named;
commit;
insert into audit (what) select what from named;
