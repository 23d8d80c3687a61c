create or replace function public.bc() returns trigger security definer language plpgsql as $$ begin perform realtime.broadcast_changes('topic:' || coalesce(new.id, old.id)::text, tg_op, tg_op, tg_table_name, tg_table_schema, new, old); return null; end $$;
create trigger bc after insert or update or delete on public.orders for each row execute function public.bc();
create policy "rt" on realtime.messages for select to authenticated using (realtime.topic() like 'topic:%');
alter publication supabase_realtime add table public.orders, public.audit;
alter publication supabase_realtime drop table public.audit;
alter table public.orders replica identity full;
