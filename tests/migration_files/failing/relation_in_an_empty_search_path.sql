select pg_catalog.set_config('search_path', '', false);
select count(*) from orders;
