-- What migrations of real projects find of Supabase's own services, as far as SQL sees it: Storage, Realtime, Vault, pg_cron, pg_net and
-- the extensions that neither the wheel nor Debian has. What is called answers as the real thing does, and does nothing else.
-- Run by the superuser, in databases that want it, after supabase_database.sql.

do $$
declare
    name text;
begin
    foreach name in array array['supabase_storage_admin', 'supabase_realtime_admin', 'pgsodium_keyholder'] loop
        continue when exists (select from pg_roles where rolname = name);
        execute format('create role %I nologin noinherit', name);
        execute format('grant %I to postgres', name);
    end loop;
end
$$;

-- Storage. On hosted projects postgres may make policies on its tables; so it is a member of their owner here.
create schema storage;
alter schema storage owner to supabase_storage_admin;
grant usage on schema storage to postgres, anon, authenticated, service_role;
grant create on schema storage to postgres;
create table storage.buckets (
    id text primary key, name text not null unique, owner uuid, created_at timestamptz default now(), updated_at timestamptz default now(),
    public boolean default false, avif_autodetection boolean default false, file_size_limit bigint, allowed_mime_types text[], owner_id text
);
create table storage.objects (
    id uuid primary key default gen_random_uuid(), bucket_id text references storage.buckets (id), name text, owner uuid,
    created_at timestamptz default now(), updated_at timestamptz default now(), last_accessed_at timestamptz default now(), metadata jsonb,
    path_tokens text[] generated always as (string_to_array(name, '/')) stored, version text, owner_id text, user_metadata jsonb
);
create unique index bucketid_objname on storage.objects (bucket_id, name);
alter table storage.buckets owner to supabase_storage_admin;
alter table storage.objects owner to supabase_storage_admin;
alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;
grant all on storage.buckets, storage.objects to postgres, anon, authenticated, service_role;
create function storage.foldername(name text) returns text[]
    language sql stable as $$ select (string_to_array(name, '/'))[1:array_length(string_to_array(name, '/'), 1) - 1] $$;
create function storage.filename(name text) returns text language sql stable as $$ select split_part(name, '/', -1) $$;
create function storage.extension(name text) returns text language sql stable as $$ select split_part(storage.filename(name), '.', -1) $$;

-- Realtime: messages of channels, which policies are about.
create schema realtime;
grant usage on schema realtime to postgres, anon, authenticated, service_role;
create table realtime.messages (
    topic text not null, extension text not null, payload jsonb, event text, private boolean default false,
    updated_at timestamp not null default now(), inserted_at timestamp not null default now(), id uuid not null default gen_random_uuid()
);
alter table realtime.messages owner to supabase_realtime_admin;
alter table realtime.messages enable row level security;
grant all on realtime.messages to postgres, anon, authenticated, service_role;
create function realtime.topic() returns text language sql stable as $$ select nullif(current_setting('realtime.topic', true), '') $$;
create function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
    language sql security definer as $$ insert into realtime.messages (payload, event, topic, private, extension) values ($1, $2, $3, $4, 'broadcast') $$;
create function realtime.broadcast_changes(
    topic_name text, event_name text, operation text, table_name text, table_schema text, new record, old record, level text default 'ROW'
) returns void language plpgsql as $$ begin
    perform realtime.send(jsonb_build_object('operation', operation, 'table', table_name), event_name, topic_name);
end $$;

-- Vault. The secrets are not encrypted here.
create schema vault;
grant usage on schema vault to postgres, service_role;
create table vault.secrets (
    id uuid primary key default gen_random_uuid(), name text unique, description text not null default '', secret text not null,
    created_at timestamptz not null default now(), updated_at timestamptz not null default now()
);
create view vault.decrypted_secrets as select s.*, s.secret as decrypted_secret from vault.secrets as s;
grant select, delete on vault.secrets, vault.decrypted_secrets to postgres, service_role;
create function vault.create_secret(new_secret text, new_name text default null, new_description text default '') returns uuid
    language sql security definer as $$ insert into vault.secrets (secret, name, description) values ($1, $2, $3) returning id $$;
create function vault.update_secret(secret_id uuid, new_secret text default null, new_name text default null, new_description text default null)
    returns void language sql security definer as $$
        update vault.secrets as s
        set secret = coalesce($2, s.secret), name = coalesce($3, s.name), description = coalesce($4, s.description), updated_at = now()
        where s.id = $1
    $$;

-- pg_cron: jobs are noted, and never run.
create schema cron;
grant usage on schema cron to postgres;
create table cron.job (
    jobid bigserial primary key, schedule text not null, command text not null, nodename text not null default 'localhost',
    nodeport integer not null default 5432, database text not null default 'postgres', username text not null default current_user,
    active boolean not null default true, jobname text, unique (jobname, username)
);
create table cron.job_run_details (
    jobid bigint, runid bigserial primary key, status text, return_message text, start_time timestamptz, end_time timestamptz
);
grant select on cron.job, cron.job_run_details to postgres;
grant delete on cron.job_run_details to postgres;
create function cron.schedule(job_name text, schedule text, command text) returns bigint
    language sql security definer as $$
        insert into cron.job (jobname, schedule, command, username) values ($1, $2, $3, 'postgres')
        on conflict (jobname, username) do update set schedule = excluded.schedule, command = excluded.command
        returning jobid
    $$;
create function cron.schedule(schedule text, command text) returns bigint
    language sql security definer as $$ insert into cron.job (schedule, command, username) values ($1, $2, 'postgres') returning jobid $$;
create function cron.unschedule(job_id bigint) returns boolean
    language plpgsql security definer as $$ begin
        delete from cron.job as j where j.jobid = job_id;
        if not found then raise exception 'could not find valid entry for job ''%''', job_id; end if;
        return true;
    end $$;
create function cron.unschedule(job_name text) returns boolean
    language plpgsql security definer as $$ begin
        delete from cron.job as j where j.jobname = job_name;
        if not found then raise exception 'could not find valid entry for job ''%''', job_name; end if;
        return true;
    end $$;

-- pg_net: requests are queued, and never sent.
create schema net;
grant usage on schema net to postgres, anon, authenticated, service_role;
create table net.http_request_queue (id bigserial primary key, method text, url text, headers jsonb, body jsonb, timeout_milliseconds integer);
create function net.http_post(
    url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{"Content-Type": "application/json"}', timeout_milliseconds integer default 5000
) returns bigint language sql security definer as $$
    insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds) values ('POST', $1, $4, $2, $5) returning id
$$;
create function net.http_get(url text, params jsonb default '{}', headers jsonb default '{}', timeout_milliseconds integer default 5000)
    returns bigint language sql security definer as $$
    insert into net.http_request_queue (method, url, headers, timeout_milliseconds) values ('GET', $1, $3, $4) returning id
$$;
create schema supabase_functions;
grant usage on schema supabase_functions to postgres, anon, authenticated, service_role;
create function supabase_functions.http_request() returns trigger language plpgsql as $$ begin return new; end $$;

create schema graphql;
create schema graphql_public;
grant usage on schema graphql, graphql_public to postgres, anon, authenticated, service_role;

create function auth.email() returns text
    language sql stable as $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email' $$;
alter function auth.email() owner to supabase_auth_admin;
grant all on function auth.email() to postgres, dashboard_user;

-- Functions of pgcrypto and uuid-ossp. What is encrypted here can be read by everyone.
create function extensions.uuid_generate_v4() returns uuid language sql as $$ select gen_random_uuid() $$;
create function extensions.gen_random_bytes(length integer) returns bytea
    language sql as $$ select substring(decode(string_agg(replace(gen_random_uuid()::text, '-', ''), ''), 'hex') from 1 for $1) from generate_series(0, $1 / 16) $$;
create function extensions.digest(data text, type text) returns bytea language sql immutable as $$ select sha256(convert_to(data, 'UTF8')) $$;
create function extensions.digest(data bytea, type text) returns bytea language sql immutable as $$ select sha256(data) $$;
create function extensions.hmac(data text, key text, type text) returns bytea
    language sql immutable as $$ select sha256(convert_to(key || data, 'UTF8')) $$;
create function extensions.gen_salt(type text, rounds integer default 6) returns text language sql as $$ select '$2a$06$' $$;
create function extensions.crypt(password text, salt text) returns text language sql immutable as $$ select left(salt, 7) || md5(password) $$;

-- On hosted projects postgres may make these itself.
do $$
declare
    name text;
begin
    for name in
        select e.name from pg_available_extensions as e where e.name in ('moddatetime', 'earthdistance', 'cube', 'postgres_fdw', 'dblink')
    loop
        execute format('create extension if not exists %I with schema extensions cascade', name);
    end loop;
end
$$;

-- `create extension if not exists` finds them; another schema that is asked for does not matter then.
set allow_system_table_mods = on;
insert into pg_catalog.pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
select 90000 + row_number() over (), name, 'postgres'::regrole, namespace::regnamespace, false, '1.0'
from (values
    ('pg_cron', 'pg_catalog'), ('pg_net', 'extensions'), ('supabase_vault', 'vault'), ('pgcrypto', 'extensions'), ('uuid-ossp', 'extensions'),
    ('pg_graphql', 'graphql'), ('pgjwt', 'extensions'), ('pgsodium', 'extensions'), ('pg_stat_statements', 'extensions'), ('http', 'extensions'), ('wrappers', 'extensions')
) as given (name, namespace);
