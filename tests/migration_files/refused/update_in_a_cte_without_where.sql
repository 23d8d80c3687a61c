-- refused: line 2: update without where
with paid as (update orders set status = 'paid' returning id)
insert into audit (what) select 'paid ' || id from paid where id > 0;
