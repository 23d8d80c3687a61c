-- refused: line 2: psql command
\set schema public
create table :schema.t (id int);
