-- refused: line 3: psql command
create table fine (id int);
\connect postgres
