-- refused: line 3: deallocate all
prepare one as select 1;
deallocate all;
