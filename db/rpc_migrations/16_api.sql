-- The API's function, and all rights. public.execute_sql is the only thing that the API reaches, and service_role the only role
-- that may execute it. Nothing relies on default privileges, in either direction: what we make is taken from everybody
-- who was granted it, and then granted by name.

-- execute_sql with the parameters of this version; null if it is not there.
create or replace function rpc_migrations.api_function() returns regprocedure
language sql stable
set search_path = ''
as $function$
    select to_regprocedure('public.execute_sql(text,text,text,text,boolean,uuid,integer,jsonb,text,jsonb)');
$function$;


-- A function of that name that is not ours stays as it is, and stops us: beside it, PostgREST could not tell which of
-- the two a call means.
do $block$
declare
    other record;
begin
    for other in
        select
            p.oid::regprocedure as signature, p.proowner::regrole as owner,
            coalesce(obj_description(p.oid, 'pg_proc'), '') like 'rpc_migrations %'
                and p.proowner = current_user::regrole as is_ours
        from pg_catalog.pg_proc as p
        where p.pronamespace = 'public'::regnamespace and p.proname = 'execute_sql'
    loop
        if not other.is_ours then
            raise exception 'there is a function % of role % already, which this project did not make', other.signature, other.owner
            using errcode = 'RM001',
                hint = format('See who uses it. If nobody does, run: drop routine %s; and then deploy again.', other.signature);
        end if;
        if other.signature is distinct from rpc_migrations.api_function() then
            execute format('drop function %s', other.signature);
        end if;
    end loop;
end;
$block$;


-- What must hold in the session that execute_sql is called in. Raises insufficient_privilege for a caller who may not do what its owner may;
-- RM005 in a serializable transaction. Drops and resets what an earlier request has left there.
create or replace function rpc_migrations.check_session() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
begin
    -- The right to execute it is not relied upon: somebody may grant all functions of a schema, to the API's roles or to one that has
    -- connections of its own, and not think of it.
    if pg_catalog.current_setting('role') <> 'service_role' and not pg_catalog.pg_has_role(
        coalesce(nullif(pg_catalog.current_setting('role'), 'none'), session_user), current_user, 'usage')
    then
        raise insufficient_privilege using message = 'permission denied for function execute_sql';
    end if;
    -- What an earlier request has left there would be found before what is in public. Somebody's own session keeps their own.
    if exists (
        select from pg_catalog.pg_type as t
        where
            t.typnamespace = pg_catalog.pg_my_temp_schema()
            and (t.typowner <> current_user::regrole or session_user <> current_user)
    ) then
        discard temporary;
    end if;
    -- Nor does what it has set for this session count as said by one of our functions to another, or as an option of the run.
    perform pg_catalog.set_config('rpc_migrations.' || name, '', true)
    from unnest('{replayed,asked_to_commit,ignore_snapshots,lock_budget,settings}'::text[]) as name
    where session_user <> current_user;
    if pg_catalog.current_setting('transaction_isolation') = 'serializable' then
        raise exception 'the transaction is serializable, and could fail at its commit'
        using errcode = 'RM005', hint = 'Run this in a transaction that is "read committed".';
    end if;
end;
$function$;


-- Runs a text in one transaction (see rpc_migrations.run_text), or, when told which step of which migration it is, as
-- that step (see rpc_migrations.run_step), alone or with steps that follow it (see rpc_migrations.run_steps). The timeout
-- is below the 60 s after which Supabase's gateway gives up on a request; PostgREST applies it to the whole transaction,
-- and the isolation level, too. Only service_role may execute it. "shrink" makes the batches of one step smaller, and
-- goes without "following"; "separator" stands between the statements of a step (see rpc_migrations.run_statements),
-- and "record" is noted when it is done (see rpc_migrations.record_for_cli).
--
-- Neither 40001 nor 40P01 ever leaves it: PostgREST up to version 14 repeats a transaction that fails with one of them by
-- itself, at once, without limit, also after the client has gone (its hasql-transaction 1.1 does). A step answers the state
-- "conflict" in their place, a plain text fails with RM006. What is deferred to the commit is brought forward, so that it
-- fails in here; a serializable transaction may fail at the commit whatever we do, and is refused.
create or replace function public.execute_sql(
    query text,
    migration text default null,
    step text default null,
    checksum text default null,
    batch boolean default false,
    run uuid default null,
    shrink integer default 0,
    following jsonb default null,
    separator text default null,
    record jsonb default null
) returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '50s'
set default_transaction_isolation = 'read committed'
set standard_conforming_strings = on
set array_nulls = on
set quote_all_identifiers = off
as $function$
declare
    answer jsonb;
    place text;
    rights_before text := rpc_migrations.rights_on_execute_sql();
begin
    perform rpc_migrations.check_session();
    perform rpc_migrations.check_open();
    perform rpc_migrations.log_call(execute_sql.query, execute_sql.migration, execute_sql.step, execute_sql.following);
    begin
        if execute_sql.step is null then
            answer := rpc_migrations.run_text(execute_sql.query);
        elsif execute_sql.following is null then
            answer := rpc_migrations.run_step(
                execute_sql.query, execute_sql.migration, execute_sql.step, execute_sql.checksum,
                execute_sql.batch, execute_sql.run, execute_sql.shrink, execute_sql.separator, execute_sql.record
            );
        else
            answer := rpc_migrations.run_steps(
                execute_sql.query, execute_sql.migration, execute_sql.step, execute_sql.checksum,
                execute_sql.batch, execute_sql.run, execute_sql.following, execute_sql.separator, execute_sql.record
            );
        end if;
        if execute_sql.step is not null and answer ->> 'state' in ('done', 'more', 'waiting') then
            perform rpc_migrations.touch_run(execute_sql.run);
        end if;
        set constraints all immediate;
    exception when serialization_failure or deadlock_detected then
        get stacked diagnostics place = pg_exception_detail;
        answer := pg_catalog.jsonb_build_object('state', 'conflict', 'code', sqlstate, 'message', sqlerrm, 'details', place);
        if execute_sql.step is null then
            raise exception '%', sqlerrm
            using errcode = 'RM006', detail = sqlstate, hint = 'Nothing of it remains. Run it again.';
        end if;
    end;
    if pg_catalog.to_regclass('rpc_migrations.calls') is not null then  -- not after it has taken all this away
        if rpc_migrations.rights_on_execute_sql() is distinct from rights_before then
            perform rpc_migrations.keep_rights(pg_catalog.concat(execute_sql.query, execute_sql.following));
        end if;
        perform rpc_migrations.record_call(
            execute_sql.query, execute_sql.migration, execute_sql.step, execute_sql.following, answer,
            pg_catalog.pg_current_xact_id_if_assigned() is not null
        );
    end if;
    return answer;
end;
$function$;


-- Revokes every right on a table from everybody but its owner.
create or replace function rpc_migrations.revoke_all(relation oid) returns void
language plpgsql
set search_path = ''
as $function$
declare
    grantee text;
begin
    for grantee in
        select distinct rpc_migrations.role_name(acl.grantee)
        from (
            select c.relacl as acl, c.relowner from pg_catalog.pg_class as c where c.oid = relation
            union all
            select a.attacl, c.relowner
            from pg_catalog.pg_attribute as a inner join pg_catalog.pg_class as c on c.oid = a.attrelid
            where a.attrelid = relation
        ) as source
        cross join lateral aclexplode(source.acl) as acl
        where acl.grantee <> source.relowner
    loop
        execute format('revoke all on table %s from %s cascade', relation::regclass, grantee);
    end loop;
end;
$function$;


-- Closes a table to the API: no rights for anyone but the owner, and row level security without a way through.
create or replace function rpc_migrations.close_table(relation oid) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.revoke_all(relation);
    execute format('alter table %s enable row level security', relation::regclass);
end;
$function$;


-- Every right that somebody other than the owner has on something of ours, and the statement that revokes it: on the private
-- schema, on what is in it, and on execute_sql, except service_role's to execute that. Default privileges may have granted
-- one to any role when we made the thing, silently.
create or replace function rpc_migrations.rights_of_others() returns table (object text, grantee text, statement text)
language sql stable
set search_path = ''
as $function$
    with ours (object, acl, owner) as (
        select format('schema %I', n.nspname), coalesce(n.nspacl, acldefault('n', n.nspowner)), n.nspowner
        from pg_catalog.pg_namespace as n
        where n.oid in (select rpc_migrations.schemas_of_new_tables())
        union all
        select format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass), c.relacl, c.relowner
        from pg_catalog.pg_class as c
        where c.relnamespace in (select rpc_migrations.schemas_of_new_tables()) and c.relkind not in ('i', 'I', 't', 'c')
        union all
        select format('table %s', c.oid::regclass), a.attacl, c.relowner
        from pg_catalog.pg_class as c inner join pg_catalog.pg_attribute as a on a.attrelid = c.oid
        where c.relnamespace in (select rpc_migrations.schemas_of_new_tables()) and a.attacl is not null
        union all
        select format('routine %s', p.oid::regprocedure), coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
        from pg_catalog.pg_proc as p
        where
            p.pronamespace = 'rpc_migrations'::regnamespace
            or p.pronamespace = 'public'::regnamespace and p.proname = 'execute_sql'
            and p.proowner = (select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'rpc_migrations')
    )
    select distinct
        o.object, rpc_migrations.role_name(acl.grantee),
        format('revoke all on %s from %s cascade', o.object, rpc_migrations.role_name(acl.grantee))
    from ours as o
    cross join lateral aclexplode(o.acl) as acl
    where
        acl.grantee <> o.owner
        and not (
            o.object like 'routine public.execute_sql(%' and acl.grantee = 'service_role'::regrole
            and acl.privilege_type = 'EXECUTE' and not acl.is_grantable
        );
$function$;


-- Roles that may execute execute_sql, other than its owner and service_role: granted it, or by being a member of one that was.
-- Whoever could act as the owner anyway (a superuser) is not listed.
create or replace function rpc_migrations.other_callers() returns table (role text, by_membership boolean)
language sql stable
set search_path = ''
as $function$
    select r.oid::regrole::text, pg_has_role(r.oid, 'service_role', 'usage')
    from pg_catalog.pg_proc as p
    cross join pg_catalog.pg_roles as r
    where
        p.pronamespace = 'public'::regnamespace and p.proname = 'execute_sql'
        and p.proowner = (select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'rpc_migrations')
        and r.rolname <> 'service_role' and not pg_has_role(r.oid, p.proowner, 'usage')
        and has_function_privilege(r.oid, p.oid, 'execute');
$function$;


-- Functions in public that run the SQL they are given, to judge by their names, and that users of the API may execute. Not ours.
create or replace function rpc_migrations.open_functions() returns table (signature text, caller text)
language sql stable
set search_path = ''
as $function$
    select format('public.%I(%s)', p.proname, oidvectortypes(p.proargtypes)), u.rolname::text
    from pg_catalog.pg_proc as p
    inner join pg_catalog.pg_roles as u on u.rolname in ('anon', 'authenticated') and has_function_privilege(u.oid, p.oid, 'execute')
    where
        p.pronamespace = 'public'::regnamespace and p.prokind = 'f'  -- the API calls no procedures
        and p.proname ~* '^_?(exec|execute|run|raw|eval)_?([a-z]*_?(sql|query|statement|ddl|command)|exec$)|^_?(sql|query|exec|execute|ddl)$'
        and array['text', 'varchar', 'json', 'jsonb']::regtype[]::oid[] && p.proargtypes::oid[]
        and p.oid is distinct from rpc_migrations.api_function()  -- whoever may make one may give it our comment
    order by 1, 2;
$function$;


-- Revokes all these rights.
create or replace function rpc_migrations.close_to_others() returns void
language plpgsql
set search_path = ''
as $function$
declare
    statement text;
begin
    for statement in select r.statement from rpc_migrations.rights_of_others() as r loop
        execute statement;
    end loop;
end;
$function$;


-- Who may execute execute_sql, and with whose rights and search_path it runs, to be compared.
create or replace function rpc_migrations.rights_on_execute_sql() returns text
language sql volatile
set search_path = ''
as $function$
    select concat_ws(' ', p.proacl, p.prosecdef, p.proconfig)
    from pg_catalog.pg_proc as p
    where p.oid = rpc_migrations.api_function();
$function$;


-- Puts the rights on execute_sql back if a text has changed them: `grant execute on all functions in schema public to anon` is
-- meant for the application's own, and after `revoke ... from service_role` a run could do nothing more. A text that names
-- execute_sql may revoke service_role's right, but never grant it to others. In the same way a loop over all functions of
-- public, which makes them `security invoker` or gives them a search_path, is not meant for this one.
create or replace function rpc_migrations.keep_rights(texts text) returns void
language plpgsql
set search_path = ''
as $function$
declare
    signature regprocedure := rpc_migrations.api_function();
    statement text;
begin
    if signature is null then
        return;
    end if;
    for statement in
        select r.statement from rpc_migrations.rights_of_others() as r where r.object = format('routine %s', signature)
    loop
        execute statement;
    end loop;
    if not has_function_privilege('service_role', signature, 'execute') and strpos(texts, 'execute_sql') = 0 then
        execute format('grant execute on function %s to service_role', signature);
    end if;
    execute format('alter function %s security definer set search_path = pg_catalog, pg_temp', signature);
end;
$function$;


-- What is copied, compared and described does not depend on whose session it is: how times, intervals, bytes and numbers are written
-- decides what a value becomes in another type, and whether a table looks altered. (Rows have the copy's own: see take_settings.)
do $block$
declare
    pinned regprocedure;
begin
    for pinned in
        select p.oid
        from pg_catalog.pg_proc as p
        where
            p.pronamespace = 'rpc_migrations'::regnamespace
            and p.proname in (
                'execute_statement', 'ask', 'copy_batch', 'carry_over', 'replay', 'replay_entries', 'compare', 'differences', 'swap',
                'begin_rollback', 'find_changes', 'swap_back', 'describe_table', 'table_definition', 'missing_in_target',
                'plan_columns')
    loop
        execute format(
            'alter function %1$s set timezone = ''UTC''; alter function %1$s set datestyle = ''ISO, MDY''; '
            'alter function %1$s set intervalstyle = ''postgres''; alter function %1$s set bytea_output = ''hex''; '
            'alter function %1$s set extra_float_digits = 1', pinned);
    end loop;
end;
$block$;


-- What is there, to be compared with what was deployed: somebody may have dropped or altered a function, or dropped a table, a column or
-- an index of the journal.
create or replace function rpc_migrations.fingerprint() returns text
language sql stable
set search_path = ''
as $function$
    select md5(string_agg(t.text, e'\n' order by t.text collate "C"))
    from (
        select concat_ws(' ', p.proname, oidvectortypes(p.proargtypes), p.prosecdef, p.proisstrict, (
            select string_agg(lower(c.setting), ' ' order by lower(c.setting) collate "C") from unnest(p.proconfig) as c (setting)
        ), p.prosrc)
        from pg_catalog.pg_proc as p
        where
            p.pronamespace = 'rpc_migrations'::regnamespace and p.proname !~ '^capture_[0-9]+$'
            or p.oid = rpc_migrations.api_function()
        union all
        select concat_ws(' ', 'index', i.indexrelid::regclass, i.indisunique)
        from pg_catalog.pg_index as i
        inner join pg_catalog.pg_class as c on c.oid = i.indrelid
        where c.relnamespace = 'rpc_migrations'::regnamespace and c.relname = any (rpc_migrations.journal_tables())
        union all
        select concat_ws(' ', c.relname, a.attname)
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where
            c.relnamespace = 'rpc_migrations'::regnamespace
            and c.relname = any (rpc_migrations.journal_tables())
    ) as t (text);
$function$;


-- Whether all of it is there as it was deployed.
create or replace function rpc_migrations.is_as_deployed() returns boolean
language sql stable
set search_path = ''
as $function$
    select obj_description('rpc_migrations.fingerprint()'::regprocedure, 'pg_proc') = rpc_migrations.fingerprint();
$function$;

do $block$
begin
    execute format('comment on function rpc_migrations.fingerprint() is %L', rpc_migrations.fingerprint());
end;
$block$;


do $block$ begin perform rpc_migrations.close_to_others(); end; $block$;  -- an older execute_sql takes a select for a query
grant execute on function public.execute_sql(text, text, text, text, boolean, uuid, integer, jsonb, text, jsonb) to service_role;

notify pgrst, 'reload schema';
