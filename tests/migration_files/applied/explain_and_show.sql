explain (costs off) select * from orders;
show search_path;
values (1), (2);
table profiles;
