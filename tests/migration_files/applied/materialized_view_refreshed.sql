create materialized view totals as select user_id, sum(total) as total from orders group by user_id;
create unique index on totals (user_id);
insert into orders (user_id, total) values ('00000000-0000-0000-0000-000000000002', 5);
refresh materialized view totals;
