-- refused: line 2: copy
copy (select * from orders) to stdout with (format csv);
