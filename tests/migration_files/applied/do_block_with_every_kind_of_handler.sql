do $$
declare v int;
begin
  begin v := 1/0; exception when division_by_zero then insert into audit (what) values ('caught'); end;
  begin insert into orders (user_id, total) values (gen_random_uuid(), 1); exception when foreign_key_violation then raise notice 'fk: %', sqlerrm; when others then raise; end;
  begin alter table orders add column status text; exception when duplicate_column then null; end;
  begin create type public.order_kind as enum ('x'); exception when duplicate_object then null; end;
end $$;
