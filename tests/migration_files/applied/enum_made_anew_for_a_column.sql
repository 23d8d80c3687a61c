alter table public.orders alter column kind drop default;
create type public.order_kind_new as enum ('online', 'shop', 'phone');
alter table public.orders alter column kind type public.order_kind_new using kind::text::public.order_kind_new;
drop type public.order_kind;
alter type public.order_kind_new rename to order_kind;
alter table public.orders alter column kind set default 'phone';
insert into public.orders (user_id, total, kind) select user_id, 1, 'phone' from public.orders limit 1;
