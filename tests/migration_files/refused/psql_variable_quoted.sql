-- refused: line 2: psql's variable :'DBNAME'
select :'DBNAME';
