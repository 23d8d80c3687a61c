-- What must hold before anything is deployed: nobody else deploys, what is there is not newer, and no step is at work.
--
-- The files of this folder are deployed together, in the order of their names, in one transaction. Running them again
-- brings an older version up to date and keeps the journal. They need no superuser: the role that runs them (postgres,
-- on Supabase) owns what they make. Nothing relies on default privileges, in either direction: every right is revoked and
-- granted by name.

-- Tables are described in the same words whatever the database has as its settings (17_deployed.sql pins it for the functions that do so).
set local timezone = 'UTC';
set local datestyle = 'ISO, MDY';
set local intervalstyle = 'postgres';
set local bytea_output = 'hex';
set local extra_float_digits = 1;


-- What is there already must be ours. A schema of that name that somebody else made would hand them what we put into it,
-- and a trigger or default of theirs on one of its tables would run as us.
do $block$
declare
    others text;
begin
    select string_agg(o.thing, '; ') into others
    from (
        select format('schema rpc_migrations belongs to %s', n.nspowner::regrole)
        from pg_catalog.pg_namespace as n
        where n.nspname = 'rpc_migrations' and n.nspowner <> current_user::regrole
        union all
        select format('%s belongs to %s', pg_describe_object(o.class, o.object, 0), o.owner::regrole)
        from (
            select 'pg_class'::regclass, c.oid, c.relowner, c.relnamespace from pg_catalog.pg_class as c
            where c.relkind not in ('i', 'I', 'S', 't')
            union all
            select 'pg_proc'::regclass, p.oid, p.proowner, p.pronamespace from pg_catalog.pg_proc as p
            union all
            select 'pg_type'::regclass, t.oid, t.typowner, t.typnamespace from pg_catalog.pg_type as t
            where t.typrelid = 0 and t.typelem = 0
        ) as o (class, object, owner, namespace)
        where o.namespace = to_regnamespace('rpc_migrations') and o.owner <> current_user::regrole
        union all
        -- Defaults, checks, triggers, rules and policies of our tables call functions of ours and of PostgreSQL only. Those of a new version
        -- of somebody's table, which grows here, call what the old one's do: auth.uid().
        select distinct format('%s of rpc_migrations.%s calls a function of %s',
            pg_describe_object(own.classid, own.objid, 0), c.relname, p.proowner::regrole)
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_depend as own
            on own.refclassid = 'pg_class'::regclass and own.refobjid = c.oid and own.deptype in ('a', 'i', 'n')
            and own.classid in (
                'pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_trigger'::regclass, 'pg_rewrite'::regclass, 'pg_policy'::regclass)
        inner join pg_catalog.pg_depend as used
            on used.classid = own.classid and used.objid = own.objid and used.refclassid = 'pg_proc'::regclass
        inner join pg_catalog.pg_proc as p on p.oid = used.refobjid
        where
            c.relnamespace = to_regnamespace('rpc_migrations') and not pg_has_role(p.proowner, current_user, 'usage')
            and c.relname in ('access', 'calls', 'copies', 'foreign_keys', 'journal', 'runs')
    ) as o (thing);
    if others is not null then
        raise exception 'objects of other roles are in the way of the deployment: %', others
        using errcode = 'RM001', hint = 'Nothing was changed. See who made it and why. If nobody needs it, drop it; then deploy again.';
    end if;
end;
$block$;

-- Publications of columns and of schemas, which are carried over, are new in 15; 14 has had its last release in November 2026.
do $block$
begin
    if current_setting('server_version_num')::integer < 150000 then
        raise exception 'this is PostgreSQL %, and 15 is the oldest that is supported', current_setting('server_version')
        using errcode = 'RM001', hint = 'Nothing was changed. Upgrade the project (Settings, Infrastructure in the dashboard), then deploy again.';
    end if;
end;
$block$;

do $block$
declare
    -- Raise it with the first change to this folder after a release: a deployment with another number is older or newer.
    this_version constant integer := 2;
    deployed_version integer;
    publication text;
begin
    perform set_config('client_min_messages', 'warning', true);  -- "already exists, skipping", for every table and column
    -- Two deployments at once would make the same schema, or replace the same function: one of them would fail.
    perform pg_advisory_xact_lock(hashtextextended('rpc_migrations deployment', 0));
    deployed_version := substring(
        obj_description(to_regnamespace('rpc_migrations'), 'pg_namespace') from '\(version (\d{1,6})\)');
    if deployed_version > this_version then
        raise exception 'a newer version is deployed (%) than this one (%)', deployed_version, this_version
        using errcode = 'RM001', hint = 'Nothing was changed. Update the scripts, or take the newer file.';
    end if;
    perform set_config('rpc_migrations.version_before', coalesce(deployed_version, 1)::text, true);
    if to_regnamespace('rpc_migrations') is null then
        -- Realtime, whose publication may be one of these, leaves out what the API's roles may not read.
        select string_agg(quote_ident(p.pubname), ', ') into publication
        from pg_catalog.pg_publication as p
        where p.puballtables and p.pubname !~ '^supabase_realtime';
        if publication is not null then
            raise exception 'publication % is for all tables: those of this project would go to its subscribers, which lack them and stop', publication
            using errcode = 'RM001', hint = 'Nothing was changed. Publish schemas instead, in one transaction: drop publication ...; '
                'create publication ... for tables in schema public; Then deploy again.';
        end if;
    end if;
    create schema if not exists rpc_migrations;
    execute format('comment on schema rpc_migrations is %L', format(
        'Journal and functions of the migrations run through public.execute_sql (version %s). Not exposed by the API.', this_version));
end;
$block$;


-- A running step has to end first: it began with the old functions and columns. The locks are asked for with a short timeout,
-- again and again, because whoever holds one of them may be waiting for another. Somebody may have dropped one.
do $block$
declare
    began timestamptz := clock_timestamp();
    journal_table regclass;
begin
    loop
        begin
            perform set_config('lock_timeout', '100ms', true);
            foreach journal_table in array array_remove(array[
                to_regclass('rpc_migrations.runs'), to_regclass('rpc_migrations.journal'), to_regclass('rpc_migrations.copies')], null)
            loop
                execute format('lock table %s in access exclusive mode', journal_table);
            end loop;
            exit;
        exception when lock_not_available then
            if clock_timestamp() > began + interval '20 seconds' then
                raise exception 'a migration step is still running'
                using errcode = 'RM001', hint = 'Nothing was changed. Wait until it has ended, then run the same command again.';
            end if;
        end;
        perform pg_sleep(0.1);
    end loop;
end;
$block$;


-- Each version describes a table in its own words. So while the old version is still here, it is asked whether a table was altered
-- since its copy began: if not, the description is removed, and 05b_definition.sql writes it again in the words of this version. It stays
-- where the old version cannot be asked: nothing is there yet, or somebody has dropped something.
do $block$
begin
    update rpc_migrations.copies as c
    set definition = null
    where c.state in ('copying', 'copied') and c.definition = rpc_migrations.table_definition(c.old_table);
exception when undefined_table or undefined_function or undefined_column or undefined_object then
    null;
end;
$block$;


-- The functions of an older version are dropped: "create or replace" could not change their parameters and results. Those that
-- capture the changes of a table that is being rebuilt belong to that copy, and stay.
do $block$
declare
    old_routine regprocedure;
begin
    for old_routine in
        select p.oid
        from pg_catalog.pg_proc as p
        where p.pronamespace = 'rpc_migrations'::regnamespace and p.proname !~ '^capture_[0-9]+$'
    loop
        execute format('drop routine %s', old_routine);
    end loop;
end;
$block$;


-- Version 1 does not check the version, and would replace this one. But it drops every routine of the schema as a function, and
-- so fails at this procedure, whose name is then in the message: "... is not a function".
create procedure rpc_migrations.a_newer_version_is_deployed_update_the_scripts()
language sql
set search_path = ''
as $procedure$
    select null;
$procedure$;
