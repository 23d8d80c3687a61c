select * into public.orders from public.audit;
