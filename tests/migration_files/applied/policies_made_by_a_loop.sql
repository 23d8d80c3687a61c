do $$
declare t text;
begin
  foreach t in array array['orders','teams','audit'] loop
    execute format('alter table public.%I enable row level security', t);
    execute format('drop policy if exists %I on public.%I', t || '_all', t);
    execute format($f$create policy %I on public.%I for all using (auth.role() = 'authenticated')$f$, t || '_all', t);
    execute format('create trigger %I before update on public.%I for each row execute function public.no_op()', t || '_u', t);
  end loop;
end $$;
