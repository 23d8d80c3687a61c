-- Not CREATE INDEX CONCURRENTLY: that is only its name.
create index "concurrently" on orders (status);
comment on index "concurrently" is 'create index concurrently';
