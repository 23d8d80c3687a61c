-- refused: line 3: copy
create table fine (id int);
COPY public.audit (id, what) FROM stdin;
1	it's; a row
2	vacuum;
\.
insert into public.audit (what) values ('after');
