create policy a on orders for select to authenticated using (true);
create policy b on orders for insert to authenticated with check (user_id = (select auth.uid()));
create policy c on orders for update to authenticated using (user_id = auth.uid()) with check (user_id = auth.uid());
create policy d on orders for delete to service_role using (true);
create policy e on orders as restrictive for all using (status <> 'secret;');
drop policy if exists e on orders;
alter policy a on orders rename to "All orders; read";
