-- refused: line 2: reindex database
reindex database postgres;
