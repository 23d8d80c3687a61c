alter table orders add column if not exists note text;
alter table orders add column if not exists note text;
alter table if exists nowhere add column x int;
