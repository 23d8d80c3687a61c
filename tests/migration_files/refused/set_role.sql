-- refused: line 2: set role
set role authenticated;
select * from orders;
