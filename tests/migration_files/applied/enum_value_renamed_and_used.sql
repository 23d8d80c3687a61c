alter type public.order_kind rename value 'shop' to 'store';
update orders set kind = 'store' where kind = 'online';
