-- refused: line 2: copy between database and client, which cannot become an INSERT: line 4 does not have as many values as there are columns
copy public.audit (id, what) from stdin;
11	eleven
12
\.
