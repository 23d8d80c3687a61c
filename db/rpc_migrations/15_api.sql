-- The API's function, and all rights. public.execute_sql is the only thing that the API reaches, and service_role the only role
-- that may execute it. Nothing relies on default privileges, in either direction: what we make is taken from everybody
-- who was granted it, and then granted by name.

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
                hint = format('See who uses it. If nobody does, run: drop function %s; and then deploy again.', other.signature);
        end if;
        if other.signature::text <> 'public.execute_sql(text,text,text,text,boolean,uuid,integer,jsonb)' then
            execute format('drop function %s', other.signature);
        end if;
    end loop;
end;
$block$;


-- Runs a text in one transaction (see rpc_migrations.run_sql), or, when told which step of which migration it is, as
-- that step (see rpc_migrations.run_step), alone or with steps that follow it (see rpc_migrations.run_steps). The timeout
-- is below the 60 s after which Supabase's gateway gives up on a request; PostgREST applies it to the whole transaction,
-- and the isolation level, too. Only service_role may execute it. "shrink" makes the batches of one step smaller, and
-- goes without "following".
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
    following jsonb default null
) returns jsonb
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set statement_timeout = '50s'
set default_transaction_isolation = 'read committed'
as $function$
declare
    answer jsonb;
    conflict jsonb;
begin
    if exists (
        select from pg_catalog.pg_type as t
        where t.typnamespace = pg_catalog.pg_my_temp_schema() and t.typowner <> current_user::regrole
    ) then
        discard temporary;
    end if;
    if pg_catalog.current_setting('transaction_isolation') = 'serializable' then
        raise exception 'the transaction is serializable, and could fail at its commit'
        using errcode = 'RM005', hint = 'Run this in a transaction that is "read committed".';
    end if;
    begin
        if execute_sql.step is null then
            answer := rpc_migrations.run_text(execute_sql.query);
        elsif execute_sql.following is null then
            answer := rpc_migrations.run_step(
                execute_sql.query, execute_sql.migration, execute_sql.step, execute_sql.checksum,
                execute_sql.batch, execute_sql.run, execute_sql.shrink
            );
        else
            answer := rpc_migrations.run_steps(
                execute_sql.query, execute_sql.migration, execute_sql.step, execute_sql.checksum,
                execute_sql.batch, execute_sql.run, execute_sql.following
            );
        end if;
        if execute_sql.step is not null and answer ->> 'state' in ('done', 'more', 'waiting') then
            perform rpc_migrations.touch_run(execute_sql.run);
        end if;
        set constraints all immediate;
        return answer;
    exception when serialization_failure or deadlock_detected then
        conflict := pg_catalog.jsonb_build_object('state', 'conflict', 'code', sqlstate, 'message', sqlerrm);
    end;
    if execute_sql.step is null then
        raise exception '%', conflict ->> 'message'
        using errcode = 'RM006', detail = conflict ->> 'code', hint = 'Nothing of it remains. Run it again.';
    end if;
    return conflict;
end;
$function$;


-- Takes every right on a table from everybody but its owner.
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


-- Rights, by name: revoking from public alone would leave what default privileges grant to the API's roles by name.
revoke all on schema rpc_migrations from public, anon, authenticated, service_role;
revoke all on all tables in schema rpc_migrations from public, anon, authenticated, service_role;
revoke all on all sequences in schema rpc_migrations from public, anon, authenticated, service_role;
revoke all on all routines in schema rpc_migrations from public, anon, authenticated, service_role;
revoke all on function public.execute_sql(text, text, text, text, boolean, uuid, integer, jsonb)
from public, anon, authenticated, service_role;
grant execute on function public.execute_sql(text, text, text, text, boolean, uuid, integer, jsonb) to service_role;

notify pgrst, 'reload schema';
