-- refused: line 2: reindex concurrently
reindex table concurrently orders;
