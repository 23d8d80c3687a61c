create or replace function public.exec_sql(sql text) returns void language plpgsql security definer set search_path = public as $$ begin execute sql; end $$;
select exec_sql('create table public.ex (i int)');
select exec_sql('insert into public.ex values (1); insert into public.ex values (2)');
revoke all on function public.exec_sql(text) from public, anon, authenticated;
