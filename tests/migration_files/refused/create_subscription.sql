-- refused: line 2: create subscription
create subscription s connection 'host=x' publication p;
