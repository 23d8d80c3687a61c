-- What existing hosted projects have since 30 October 2026: new objects in public are granted to nobody by name.
-- Run after supabase_database.sql, by the superuser. PUBLIC's own EXECUTE on new functions is PostgreSQL's, and stays.

alter default privileges for role postgres in schema public
    revoke all on tables from postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    revoke all on functions from postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    revoke all on sequences from postgres, anon, authenticated, service_role;

alter default privileges for role supabase_admin in schema public
    revoke all on tables from postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
    revoke all on functions from postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
    revoke all on sequences from postgres, anon, authenticated, service_role;
