-- refused: line 2: set transaction
set transaction_isolation to 'serializable';
