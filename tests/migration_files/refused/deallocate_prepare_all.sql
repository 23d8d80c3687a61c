-- refused: line 2: deallocate all
DEALLOCATE PREPARE ALL;
