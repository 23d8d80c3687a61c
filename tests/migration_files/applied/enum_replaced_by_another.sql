create type public.order_kind_new as enum ('online', 'shop', 'phone');
alter table orders alter column kind drop default;
alter table orders alter column kind type public.order_kind_new using kind::text::public.order_kind_new;
alter table orders alter column kind set default 'phone';
drop type public.order_kind;
alter type public.order_kind_new rename to order_kind;
