-- refused: line 2: copy between database and client, which cannot become an INSERT: line 4 has 1 values for 2 columns
copy public.audit (id, what) from stdin;
11	eleven
12
\.
