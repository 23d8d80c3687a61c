grant select (id, status), update (status) on orders to anon;
revoke all on orders from anon;
grant usage on schema public to anon, authenticated;
grant all privileges on all tables in schema public to service_role;
grant execute on all functions in schema public to authenticated;
alter default privileges in schema public grant select on tables to anon;
alter default privileges in schema public revoke all on functions from public;
