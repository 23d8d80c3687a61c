create or replace function public.clear_all() returns void language sql as $$ delete from public.audit; update public.orders set status = 'z'; $$;
create or replace function public.clear_p() returns void language plpgsql as $$ begin delete from audit; update orders set status = 'z'; truncate audit; end $$;
truncate table public.audit restart identity cascade;
create or replace function public.clear_old(days int default 1) returns void language 'sql' as 'delete from public.audit where what = ''x''; delete from public.audit';
set check_function_bodies = off;
create procedure public.clear_none() as e'update public.nowhere set status = \'z\'' language sql;
create function public.not_looked_at() returns int language sql as 'select n from public.nowhere';
set check_function_bodies = on;
do $$ begin assert current_setting('check_function_bodies') = 'on'; end $$;
