-- refused: line 2: set role
SET LOCAL ROLE anon;
