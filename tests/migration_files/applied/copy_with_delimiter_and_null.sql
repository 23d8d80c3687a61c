-- As older tools and hands write rows: other delimiters, something else for NULL, escapes in between.
create table public.menu (id int, label text, parent int);
COPY public.menu (id, label, parent) FROM stdin WITH DELIMITER '|';
1|Accounts|\N
2|a\|b\\|1
3|\\|1
4||1
\.
copy public.menu (id, label, parent) from stdin with delimiter as ',' null as '';
6,,
7,\N,1
8,\,\,,1
\.
copy public.menu from stdin with (format text, delimiter ';', null 'NULL');
9;NULL;NULL
10;"quoted";1
11;NULL\;;1
\.
copy public.menu (label) from stdin;
a\	tab
\	
null
