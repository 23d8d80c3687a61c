-- refused: line 2: drop function execute_sql
drop function if exists execute_sql;
