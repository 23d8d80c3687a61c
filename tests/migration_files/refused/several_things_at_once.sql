-- refused: line 2: vacuum
vacuum;
update orders set total = 0;
\d
