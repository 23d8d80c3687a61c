create table t (a integer, b text);
copy t
from stdin;
1	one
2	\N
\.
copy t from stdin;
