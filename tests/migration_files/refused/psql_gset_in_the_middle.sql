-- refused: line 2: psql command
select 1 as one \gset
select 2;
