-- refused: line 2: reindex concurrently
reindex (verbose, concurrently) table orders;
