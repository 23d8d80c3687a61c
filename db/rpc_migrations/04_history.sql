-- What has been applied, and by whom: here, by the journal; by the Supabase CLI, whose table is
-- supabase_migrations.schema_migrations; and by other tools. Files that are in any of these are not run again. A file that was
-- applied here is noted in the CLI's table only on request ("record"), because the CLI takes an unknown version there for a mistake.

-- Whether what belongs to a role may run as us: that of one who may act as us anyway, or whose rights we were given, which (since version 15)
-- no role can do for itself. Supabase's guide to Prisma does that. (Where we are a superuser, we have the rights of all.)
create or replace function rpc_migrations.is_trusted(owner oid) returns boolean
language sql stable
set search_path = ''
as $function$
    select pg_has_role(is_trusted.owner, current_user, 'usage') or pg_has_role(is_trusted.owner, 'usage')
        and not exists (select from pg_catalog.pg_roles as r where r.rolname = current_user and r.rolsuper);
$function$;


-- Raises RM001 where a tool's table of applied migrations is another role's, or its schema is; and with "writes" where another's triggers are
-- on it. An index, a check or statistics of theirs may call what they like already while a query of the table is planned, and may be added
-- up to then: so only owners count, who cannot change without us. Nobody adds a trigger while we hold the lock.
create or replace function rpc_migrations.refuse_strangers_history(history regclass, writes boolean) returns void
language plpgsql
set search_path = ''
as $function$
declare
    stranger regrole;
begin
    select o.owner into stranger
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    cross join pg_catalog.unnest(array[c.relowner, n.nspowner]) as o (owner)
    where c.oid = history and o.owner <> 'pg_database_owner'::regrole and not rpc_migrations.is_trusted(o.owner)
    limit 1;
    if stranger is null and writes then
        execute pg_catalog.format('lock table %s in row exclusive mode', history);
        select p.proowner into stranger
        from pg_catalog.pg_trigger as t
        inner join pg_catalog.pg_proc as p on p.oid = t.tgfoid
        where t.tgrelid = history and not t.tgisinternal and not rpc_migrations.is_trusted(p.proowner)
        limit 1;
    end if;
    if stranger is not null then
        raise exception 'the table of applied migrations % is in the hands of role %, whose functions could run as %', history, stranger, current_user
        using errcode = 'RM001', hint = pg_catalog.format(
            'Nothing was changed. See who made it and why. If a tool needs it and you trust that role, run: grant %s to %I; '
            'If not, drop the table, or that role''s triggers on it.', stranger, current_user);
    end if;
end;
$function$;


-- The rows of other tools' own tables of applied migrations, {tool: [[column, ...]]}, the oldest first, each column as text. What they mean is
-- read in other_histories.py: each tool knows a migration by something else. A table counts as a tool's if it has the name and the columns
-- that the tool gives it, in any schema but Supabase's own, which have such tables, too. The first column is the order; "also": columns that
-- only newer versions of the tool make, null where they are missing.
create or replace function rpc_migrations.applied_by_others() returns jsonb
language plpgsql stable
set search_path = ''
as $function$
declare
    history record;
    rows_of_it jsonb;
    by_tool jsonb := '{}';
begin
    for history in
        select
            t.tool, t.columns[1] as first, c.oid::regclass as relation,
            (
                select pg_catalog.string_agg(
                    case when w.name = any (a.names) then pg_catalog.format('m.%I::text', w.name) else 'null' end, ', ' order by w.place)
                from pg_catalog.unnest(t.columns || t.also) with ordinality as w (name, place)
            ) as wanted
        from (values
            ('Prisma', '_prisma_migrations', '{started_at,migration_name,finished_at,rolled_back_at}'::text[], '{}'::text[]),
            ('Drizzle', '__drizzle_migrations', '{created_at,hash}', '{name}'),
            ('Flyway', 'flyway_schema_history', '{installed_rank,version,type,success}', '{}'),
            ('Diesel', '__diesel_schema_migrations', '{version,run_on}', '{}'),
            ('dbmate', 'schema_migrations', '{version}', '{}'),
            ('goose', 'goose_db_version', '{id,version_id,is_applied}', '{}'),
            ('golang-migrate', 'schema_migrations', '{version,dirty}', '{}'),
            ('Atlas', 'atlas_schema_revisions', '{version,type,applied,total}', '{}'),
            ('SQLx', '_sqlx_migrations', '{version,description,success}', '{}'),
            ('refinery', 'refinery_schema_history', '{version,name,applied_on}', '{}'),
            ('node-pg-migrate', 'pgmigrations', '{id,name,run_on}', '{}'),
            ('sql-migrate', 'gorp_migrations', '{id,applied_at}', '{}'),
            ('graphile-migrate', 'migrations', '{filename,hash,previous_hash}', '{}'),
            ('yoyo', '_yoyo_migration', '{migration_id,applied_at_utc}', '{}'),
            ('Postgrator', 'schemaversion', '{version,name,md5}', '{}')
        ) as t (tool, history, columns, also)
        inner join pg_catalog.pg_class as c on c.relname = t.history and c.relkind = 'r'
        inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        cross join lateral (
            select pg_catalog.array_agg(g.attname::text) from pg_catalog.pg_attribute as g
            where g.attrelid = c.oid and g.attnum > 0 and not g.attisdropped
        ) as a (names)
        where n.nspname not in ('auth', 'realtime', 'storage', 'supabase_migrations')
            and pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_table_privilege(c.oid, 'select')
            and a.names operator(pg_catalog.@>) t.columns
    loop
        perform rpc_migrations.refuse_strangers_history(history.relation, false);
        execute pg_catalog.format(
            'select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(%s) order by m.%I) from %s as m', history.wanted, history.first, history.relation)
        into rows_of_it;
        if rows_of_it is not null then
            by_tool := by_tool || pg_catalog.jsonb_build_object(history.tool, coalesce(by_tool -> history.tool, '[]') || rows_of_it);
        end if;
    end loop;
    return by_tool;
end;
$function$;


-- The current journal rows of all migrations, with who ran them, and their last copies of tables; the versions that the CLI has applied
-- (null: there is no such table), each with the file's name and the SHA-256 of its SQL without white space and semicolons, as some note a
-- file as one statement and some divide it (null if it was not noted, as old CLIs do not); and what other tools have.
create or replace function rpc_migrations.history() returns jsonb
language plpgsql stable
set search_path = ''
as $function$
declare
    cli_table regclass := pg_catalog.to_regclass('supabase_migrations.schema_migrations');
    noted text[];
    by_cli jsonb;
begin
    if cli_table is not null then
        perform rpc_migrations.refuse_strangers_history(cli_table, false);
        select pg_catalog.array_agg(a.attname::text) into noted
        from pg_catalog.pg_attribute as a
        where
            a.attrelid = cli_table and not a.attisdropped
            and (a.attname = 'name' or a.attname = 'statements' and a.atttypid = 'text[]'::regtype);
        execute pg_catalog.format(
            $query$
                select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('version', m.version, 'name', %s, 'hash', (
                    select pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.translate(
                        pg_catalog.string_agg(s.sql, '' order by s.place), E' \t\n\r\f\x0b;\ufeff', ''), 'UTF8')), 'hex')
                    from pg_catalog.unnest(%s) with ordinality as s (sql, place)
                ))), '[]')
                from supabase_migrations.schema_migrations as m
            $query$,
            case when 'name' = any (noted) then 'm.name' else 'null::text' end,
            case when 'statements' = any (noted) then 'm.statements' else 'null::text[]' end
        ) into by_cli;
    end if;
    return pg_catalog.jsonb_build_object(
        'steps', (
            select coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(j) - 'result' || pg_catalog.jsonb_build_object('client', r.client) order by j.id), '[]')
            from rpc_migrations.journal as j
            left join rpc_migrations.runs as r on r.id = j.run
            where j.undone_at is null
        ),
        'copies', (
            select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                'migration', m.migration, 'copy', rpc_migrations.status_of_copy(m.migration))), '[]')
            from (select distinct c.migration from rpc_migrations.copies as c) as m
        ),
        'by_cli', by_cli, 'by_others', rpc_migrations.applied_by_others()
    );
end;
$function$;


-- Notes in the CLI's table that a file was applied: "version", "name" and "statements", from which the CLI can make the file
-- (supabase migration fetch) and a database (supabase db reset) again. If schema and table are missing they are made as the CLI
-- makes them; other columns, which hosted projects have, get their defaults.
create or replace function rpc_migrations.record_for_cli(file jsonb) returns void
language plpgsql
set search_path = ''
set client_min_messages = warning
as $function$
begin
    if pg_catalog.to_regclass('supabase_migrations.schema_migrations') is null then
        create schema if not exists supabase_migrations;
        create table if not exists supabase_migrations.schema_migrations (version text not null primary key);
    end if;
    perform rpc_migrations.refuse_strangers_history('supabase_migrations.schema_migrations', true);
    -- Only if they are missing: it takes the owner's rights and a lock, and makes the API read the whole schema again.
    if (
        select pg_catalog.count(*) from pg_catalog.pg_attribute as a
        where a.attrelid = pg_catalog.to_regclass('supabase_migrations.schema_migrations')
            and a.attname in ('statements', 'name') and not a.attisdropped
    ) < 2 then
        alter table supabase_migrations.schema_migrations add column if not exists statements text[];
        alter table supabase_migrations.schema_migrations add column if not exists name text;
    end if;
    insert into supabase_migrations.schema_migrations (version, name, statements)
    values (
        file ->> 'version',
        file ->> 'name',
        array(select pg_catalog.jsonb_array_elements_text(file -> 'statements'))
    )
    on conflict do nothing;
end;
$function$;


-- Ends the rollback of a migration that rebuilt no table: its steps count as not run, and its "version" (null: its file has none)
-- is deleted from the CLI's table.
create or replace function rpc_migrations.end_rollback(version text, out message text)
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.mark_undone(pg_catalog.current_setting('rpc_migrations.migration'));
    message := 'it counts as not applied';
    if version is not null and pg_catalog.to_regclass('supabase_migrations.schema_migrations') is not null then
        perform rpc_migrations.refuse_strangers_history('supabase_migrations.schema_migrations', true);
        execute 'delete from supabase_migrations.schema_migrations as m where m.version = $1' using version;
    end if;
end;
$function$;


-- Records new checksums, {step: checksum}, for steps that were done: somebody has edited their text and says that the effect is
-- the same. Returns how many.
create or replace function rpc_migrations.accept_edits(migration text, checksums jsonb) returns bigint
language plpgsql
set search_path = ''
as $function$
declare
    accepted bigint;
begin
    perform pg_catalog.pg_advisory_xact_lock(rpc_migrations.lock_key(accept_edits.migration));
    update rpc_migrations.journal as j
    set checksum = accept_edits.checksums ->> j.step
    where j.migration = accept_edits.migration and j.undone_at is null and accept_edits.checksums ? j.step;
    get diagnostics accepted = row_count;
    return accepted;
end;
$function$;
