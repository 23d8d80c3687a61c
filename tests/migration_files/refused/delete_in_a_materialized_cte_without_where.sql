-- refused: line 2: delete without where
with gone as materialized (delete from only audit as a returning a.what) select * from gone;
