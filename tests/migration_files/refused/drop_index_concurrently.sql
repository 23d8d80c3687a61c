-- refused: line 2: drop index concurrently
drop index /* ; */ concurrently orders_pkey;
