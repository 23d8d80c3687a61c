create temporary table staging (what text) on commit drop;
insert into staging values ('staged');
insert into audit (what) select what from staging;
