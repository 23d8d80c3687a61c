-- Only what would stand beside ours, or take it away, is refused.
drop function if exists public.execute_sql(text);
create schema reports;
create function reports.execute_sql(query text) returns void language sql as $$ select $$;
create function execute_sql_report() returns void language sql as $$ select $$;
create table execute_sql (id bigint primary key);
comment on function reports.execute_sql is 'not in public';
drop function reports.execute_sql(text);
