create function public.sd() returns text language sql security definer set search_path to '' as $$ select current_user::text || current_setting('search_path') $$;
create function public.sd2() returns text language plpgsql set timezone to 'UTC' set work_mem from current as $$ begin return now()::text; end $$;
alter function public.sd() set work_mem = '8MB';
insert into audit (what) values (public.sd());
alter function public.sd2() reset all;
