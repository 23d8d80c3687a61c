create function note_insert() returns trigger language plpgsql as $$
begin
    insert into public.audit (what) values ('order ' || new.id);
    return new;
end $$;
create trigger orders_noted after insert on orders for each row execute function note_insert();
insert into orders (id, user_id, total) overriding system value values (100, '00000000-0000-0000-0000-000000000001', 1);
