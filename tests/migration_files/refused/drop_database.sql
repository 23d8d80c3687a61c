-- refused: line 2: drop database
drop database if exists another;
