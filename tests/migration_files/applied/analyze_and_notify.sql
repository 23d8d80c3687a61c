analyze public.orders;
notify pgrst, 'reload schema';
