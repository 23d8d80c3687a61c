-- refused: line 2: create index concurrently
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "orders_u" ON orders (id);
