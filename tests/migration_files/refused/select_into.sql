-- refused: line 3: select into
select 1;
select id, total into temp table cheap from orders where total < 10;
