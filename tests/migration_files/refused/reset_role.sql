-- refused: line 2: reset role
reset role;
