-- refused: line 2: create database
create database another;
