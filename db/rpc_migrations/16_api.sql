-- The API's function: public.execute_sql is the only thing that the API reaches, and service_role the only role that may execute it.

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
    -- A request ends by its statement_timeout, which says so. This one (since version 17) would end the connection, and nobody would answer.
    perform pg_catalog.set_config('transaction_timeout', '0', true)
    where session_user <> current_user and pg_catalog.current_setting('transaction_timeout', true) <> '0';
    if pg_catalog.current_setting('transaction_isolation') = 'serializable' then
        raise exception 'the transaction is serializable, and could fail at its commit'
        using errcode = 'RM005', hint = 'Run this in a transaction that is "read committed".';
    end if;
end;
$function$;


-- What follows a call that did not fail: the rights are put back, if it has changed them (see keep_rights and keep_closed), and it is recorded.
create or replace function rpc_migrations.end_call(
    query text, migration text, step text, following jsonb, answer jsonb, rights_before text, closing_before text[]
) returns void
language plpgsql
set search_path = ''
as $function$
declare
    texts text := concat(query, following);
begin
    if rpc_migrations.rights_on_execute_sql() is distinct from rights_before then
        perform rpc_migrations.keep_rights(texts);
    end if;
    perform rpc_migrations.keep_closed(texts, closing_before);
    perform rpc_migrations.record_call(query, migration, step, following, answer, pg_current_xact_id_if_assigned() is not null);
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
    closing_before text[];
    -- Its types are qualified, as in run_text.
    ending constant text := 'rpc_migrations.end_call(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.jsonb, pg_catalog.jsonb, '
        'pg_catalog.text, pg_catalog.text[])';
begin
    perform rpc_migrations.check_session();
    perform rpc_migrations.check_open();
    perform ending::regprocedure;  -- raises where somebody has dropped it
    closing_before := array(select r.statement from rpc_migrations.rights_on_tables_aside() as r);
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
    -- Not after it has taken all this away, or put another version in its place: that closes by itself what is to be closed.
    if pg_catalog.to_regprocedure(ending) is not null then
        perform rpc_migrations.end_call(
            execute_sql.query, execute_sql.migration, execute_sql.step, execute_sql.following, answer, rights_before, closing_before
        );
    end if;
    return answer;
end;
$function$;
