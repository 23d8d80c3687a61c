-- refused: line 2: create tablespace
create tablespace fast location '/fast';
