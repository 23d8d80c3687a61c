create index orders_user_idx on orders (user_id);
create unique index orders_open_idx on orders (user_id, id) where status = 'open';
create index orders_tags_idx on orders using gin (tags jsonb_path_ops);
create index orders_lower_idx on orders (lower(status)) include (total);
create index if not exists orders_user_idx on orders (user_id);
drop index orders_lower_idx;
