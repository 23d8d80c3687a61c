-- What a new Supabase project has in its database, as far as a migration in public can see it, made as its image's init
-- scripts make it (github.com/supabase/postgres, migrations/db). Run by the superuser in a database owned by postgres.

grant usage on schema public to postgres, anon, authenticated, service_role;

-- New objects in public: granted to the API's roles by name.
alter default privileges for role postgres in schema public
    grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
    grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
    grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
    grant all on sequences to postgres, anon, authenticated, service_role;

create schema extensions;
grant usage on schema extensions to postgres, anon, authenticated, service_role;
grant all on schema extensions to postgres, dashboard_user;

-- The users. The table belongs to the auth service; postgres has every right on it but ownership.
create schema auth;
grant usage on schema auth to anon, authenticated, service_role;
grant all on schema auth to supabase_auth_admin, postgres, dashboard_user;

create table auth.users (
    instance_id uuid,
    id uuid not null primary key,
    aud varchar(255),
    role varchar(255),
    email varchar(255) unique,
    encrypted_password varchar(255),
    email_confirmed_at timestamptz,
    invited_at timestamptz,
    last_sign_in_at timestamptz,
    raw_app_meta_data jsonb,
    raw_user_meta_data jsonb,
    is_super_admin boolean,
    created_at timestamptz,
    updated_at timestamptz
);
create index users_instance_id_idx on auth.users (instance_id);
alter table auth.users owner to supabase_auth_admin;
alter table auth.users enable row level security;
grant all on table auth.users to postgres, dashboard_user;
comment on table auth.users is 'Auth: Stores user login data within a secure schema.';

-- PostgREST puts the token's claims into one setting, as JSON; the other form is that of older versions.
create function auth.uid() returns uuid
    language sql stable
    as $$
        select coalesce(
            nullif(current_setting('request.jwt.claim.sub', true), ''),
            (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
        )::uuid
    $$;
create function auth.role() returns text
    language sql stable
    as $$
        select coalesce(
            nullif(current_setting('request.jwt.claim.role', true), ''),
            (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role')
        )::text
    $$;
create function auth.jwt() returns jsonb
    language sql stable
    as $$
        select coalesce(
            nullif(current_setting('request.jwt.claim', true), ''),
            nullif(current_setting('request.jwt.claims', true), '')
        )::jsonb
    $$;
alter function auth.uid() owner to supabase_auth_admin;
alter function auth.role() owner to supabase_auth_admin;
alter function auth.jwt() owner to supabase_auth_admin;
grant all on all routines in schema auth to postgres, dashboard_user;

-- Tell PostgREST of DDL. Both functions do what Supabase's own do, command by command.
create function extensions.pgrst_ddl_watch() returns event_trigger
    language plpgsql
    as $$
    begin
        if exists (
            select
            from pg_event_trigger_ddl_commands() as command
            where
                (
                    command.command_tag in (
                        'CREATE SCHEMA', 'ALTER SCHEMA', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE',
                        'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'CREATE VIEW', 'ALTER VIEW',
                        'CREATE MATERIALIZED VIEW', 'ALTER MATERIALIZED VIEW', 'CREATE FUNCTION', 'ALTER FUNCTION',
                        'CREATE TYPE', 'ALTER TYPE', 'CREATE RULE', 'COMMENT'
                    )
                    and coalesce(command.schema_name, '') not in ('pg_temp', 'auth', 'realtime', '_realtime', 'storage')
                )
                or (command.command_tag = 'CREATE TRIGGER' and command.object_identity not like '% pg\_temp.%')
        ) then
            notify pgrst, 'reload schema';
        end if;
    end
    $$;
create function extensions.pgrst_drop_watch() returns event_trigger
    language plpgsql
    as $$
    begin
        if exists (
            select
            from pg_event_trigger_dropped_objects() as dropped
            where
                (
                    dropped.object_type in (
                        'schema', 'table', 'foreign table', 'view', 'materialized view', 'function', 'type', 'rule'
                    )
                    and not dropped.is_temporary
                    and coalesce(dropped.schema_name, '') not in ('auth', 'realtime', '_realtime', 'storage')
                )
                or (dropped.object_type = 'trigger' and dropped.object_identity not like '% pg\_temp.%')
        ) then
            notify pgrst, 'reload schema';
        end if;
    end
    $$;
create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.pgrst_ddl_watch();
create event trigger pgrst_drop_watch on sql_drop execute function extensions.pgrst_drop_watch();

create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;
