-- The roles of a Supabase project, as its image's init scripts leave them (github.com/supabase/postgres, migrations/db).
-- Run once in a new cluster by its superuser, supabase_admin.

create role postgres nosuperuser createdb createrole login replication bypassrls;
create role anon nologin inherit;
create role authenticated nologin inherit;
create role service_role nologin inherit bypassrls;
create role authenticator noinherit login;
create role supabase_auth_admin noinherit login;
create role dashboard_user nologin createdb createrole replication;

grant "anon", "authenticated", "service_role" to authenticator;
grant "anon", "authenticated", "service_role" to postgres with admin option;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;

-- PostgREST logs in as authenticator, so these hold for every request; a role's own setting goes before them.
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';

alter role supabase_admin set search_path = "$user", public, auth, extensions;
alter role supabase_auth_admin set search_path = auth;
alter role postgres set search_path = "$user", public, extensions;
