-- refused: line 2: delete without where
explain analyze delete from audit;
