do $block$
declare
    row record;
begin
    update public.orders set status = 'paid';  -- where?
    if exists (select from public.orders) then
        delete from public.audit;
    else
        update public.orders set status = 'open' where id = 1;
    end if;
    for row in update public.orders set tags = '["a"]' returning id loop
        insert into public.audit (what) values ('order ' || row.id);
        merge into public.audit as a using public.orders as o on a.id = o.id when matched then update set what = 'merged';
    end loop;
    perform from public.orders for update;
exception when division_by_zero then
    delete from public.orders;
end
$block$;
