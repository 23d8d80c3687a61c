create policy p on orders using (true);
create policy p on orders using (true);
