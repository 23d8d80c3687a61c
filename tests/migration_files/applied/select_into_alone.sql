select o.*, now() is not null as now into public.orders_backup from public.orders as o
