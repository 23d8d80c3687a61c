-- refused: line 2: select into
with cheap as (select id from orders) select * into cheap_orders from cheap;
