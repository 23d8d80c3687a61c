alter table public.orders drop constraint orders_user_id_fkey, add constraint orders_user_id_fkey foreign key (user_id) references public.profiles (id) deferrable initially deferred;
insert into public.orders (user_id, total) values ('00000000-0000-0000-0000-000000000001', 1);
alter table public.orders add column zz int;
