-- refused: line 2: delete without where
delete from audit returning (select count(*) from orders where id = 1);
