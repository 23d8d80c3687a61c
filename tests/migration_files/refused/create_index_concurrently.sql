-- refused: line 3: create index concurrently
create table fine (id int);
create index concurrently orders_status_idx on orders (status);
