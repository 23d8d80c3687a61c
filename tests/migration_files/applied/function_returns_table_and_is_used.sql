create function recent(n int) returns table (id bigint, total numeric) language sql stable as $$
    select id, total from public.orders order by id desc limit n;
$$;
create table snapshot as select * from recent(2);
