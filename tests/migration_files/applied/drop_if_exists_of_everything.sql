drop table if exists nope, nope2 cascade;
drop view if exists nope;
drop function if exists nope(int, text);
drop type if exists nope;
drop policy if exists nope on orders;
drop index if exists nope;
drop schema if exists nope cascade;
alter table orders drop constraint if exists nope;
