-- refused: line 2: copy between database and client, which cannot become an INSERT: it has the option format
copy public.audit (what) from stdin with (format csv);
"a, b"
\.
