create function public.clear_all() returns void language sql as $$ delete from public.audit $$;
create function public.nothing() returns void language sql as $$ select * from public.nowhere $$;
