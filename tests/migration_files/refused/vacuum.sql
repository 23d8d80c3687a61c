-- refused: line 3: vacuum
delete from audit where true;
vacuum (analyze) audit;
