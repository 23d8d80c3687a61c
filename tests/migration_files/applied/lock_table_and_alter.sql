lock table orders in access exclusive mode;
alter table orders add column locked boolean not null default false;
