create table fine (id int);
COPY public.audit (id, what) FROM stdin;
11	it's; a row
12	vacuum;
\.
insert into public.audit (what) values ('after');
