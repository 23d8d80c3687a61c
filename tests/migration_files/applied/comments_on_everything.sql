comment on table orders is $$It's "quoted"; really$$;
comment on column orders.total is E'line one\nline two\\';
comment on schema public is null;
