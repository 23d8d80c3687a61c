alter type public.order_kind add value 'phone';
commit;
insert into public.orders (user_id, total, kind) values ('00000000-0000-0000-0000-000000000001', 1, 'phone');
