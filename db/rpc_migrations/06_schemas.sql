-- Where a new table grows until the swap: in the schema rpc_migrations, under the names that it, its indexes and its sequences will
-- have. If one of these names is taken there (a table of the journal is called "runs", as other people's tables are), it grows in a
-- second schema, which exists for as long as it has a table.

-- Both schemas.
create or replace function rpc_migrations.schemas_of_new_tables() returns setof oid
language sql stable
set search_path = ''
as $function$
    select n.oid from pg_catalog.pg_namespace as n where n.nspname in ('rpc_migrations', 'rpc_migrations_new');
$function$;


-- Which of them a table like the twin is to grow in. (The names of the logs of copies count as taken, though they are made later.)
create or replace function rpc_migrations.schema_for_new(twin oid) returns text
language sql stable
set search_path = ''
as $function$
    select case when bool_or(x.relname ~ '^(log|reserve)_[0-9]+$' or o.oid is not null) then 'rpc_migrations_new' else 'rpc_migrations' end
    from pg_catalog.pg_class as t
    inner join pg_catalog.pg_class as x on x.relnamespace = t.relnamespace
    left join pg_catalog.pg_class as o on o.relnamespace = 'rpc_migrations'::regnamespace and o.relname = x.relname
    where t.oid = twin;
$function$;


-- The name that the new table of a copy has until the swap. With begin_copy it is always in the first schema.
create or replace function rpc_migrations.new_name(copy rpc_migrations.copies) returns text
language sql immutable
set search_path = ''
as $function$
    select format('%I.%I', coalesce(copy.alteration ->> 'schema', 'rpc_migrations'), copy.table_name);
$function$;


-- The name of the table in use: the original until the swap, the new one after it.
create or replace function rpc_migrations.name_in_use(copy rpc_migrations.copies) returns text
language sql immutable
set search_path = ''
as $function$
    select format('%I.%I', copy.schema_name, copy.table_name);
$function$;


-- The name that the original has after the swap.
create or replace function rpc_migrations.name_of_backup(copy rpc_migrations.copies) returns text
language sql immutable
set search_path = ''
as $function$
    select format('%I.%I', copy.schema_name, copy.backup_name);
$function$;


-- Makes the second schema, if that is the one that is named. Raises RM001 if it is somebody else's.
create or replace function rpc_migrations.make_second_schema(name text) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if name is distinct from 'rpc_migrations_new' then
        return;
    end if;
    if to_regnamespace(name) is null then
        create schema rpc_migrations_new;
    end if;
    if exists (select from pg_catalog.pg_namespace as n where n.nspname = name and n.nspowner <> current_user::regrole) then
        raise exception 'the schema % is not of role %', name, current_user
        using errcode = 'RM001', hint = 'Nothing was changed. See who made it and why; rename or drop it, then run the same command again.';
    end if;
end;
$function$;


-- Drops the second schema when its last table has left it.
create or replace function rpc_migrations.drop_second_schema() returns void
language plpgsql
set search_path = ''
as $function$
begin
    if exists (
        select from pg_catalog.pg_namespace as n
        where n.nspname = 'rpc_migrations_new' and not exists (select from pg_catalog.pg_class as c where c.relnamespace = n.oid)
    ) then
        drop schema rpc_migrations_new;
    end if;
end;
$function$;
