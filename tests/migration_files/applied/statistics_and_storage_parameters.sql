create statistics order_stats (dependencies) on user_id, status from orders;
alter table orders set (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
alter table orders alter column status set statistics 500;
