-- Writes without WHERE, which the API refuses, where they are part of another statement.
create table orders_seen (id bigint, at date);
insert into orders_seen values (1, '2026-01-01'), (2, '2026-01-02');
create table orders_gone as
with gone as (delete from orders_seen returning id)
select id from gone;
insert into orders_seen values (3, '2026-01-03');
prepare later (integer) as update orders_seen set at = at + $1 returning id;
execute later (2);
prepare none as delete from orders_gone;
execute none;
