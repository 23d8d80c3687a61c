alter type public.order_kind add value if not exists 'gift';
alter type public.order_kind add value 'sample' before 'online';
