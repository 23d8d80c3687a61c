create trigger orders_touched before update of status, total on orders
    for each row when (old.status is distinct from new.status) execute function public.no_op();
drop trigger if exists orders_touched on orders;
drop trigger if exists orders_touched on orders;
