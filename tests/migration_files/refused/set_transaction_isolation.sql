-- refused: line 2: set transaction
set transaction isolation level serializable;
select 1;
