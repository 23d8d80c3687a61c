-- refused: line 2: update without where
update orders set status = v.status from (select 'paid' as status from audit where what = 'x') as v;
