-- refused: line 2: delete without where
(with gone as (delete from audit returning what) select * from gone);
