-- public.execute_sql: the one function that the API reaches, and the rights on everything.

-- A function of that name that is not ours stays as it is, and stops us: beside it, PostgREST could not tell which of
-- the two a call means.
do $block$
declare
    other record;
begin
    for other in
        select
            p.oid::regprocedure as signature,
            coalesce(obj_description(p.oid, 'pg_proc'), '') like 'rpc_migrations %' as is_ours
        from pg_catalog.pg_proc as p
        where p.pronamespace = 'public'::regnamespace and p.proname = 'execute_sql'
    loop
        if not other.is_ours then
            raise exception 'there is a function % already, which this project did not make', other.signature
            using errcode = 'RM001',
                hint = format('See who uses it. If nobody does, run: drop function %s; and then deploy again.', other.signature);
        end if;
        if other.signature::text <> 'execute_sql(text,text,text,text,boolean,uuid,integer,jsonb)'
            and other.signature::text <> 'public.execute_sql(text,text,text,text,boolean,uuid,integer,jsonb)' then
            execute format('drop function %s', other.signature);
        end if;
    end loop;
end;
$block$;


-- Runs a text in one transaction (see rpc_migrations.run_sql), or, when told which step of which migration it is, as
-- that step (see rpc_migrations.run_step), alone or with steps that follow it (see rpc_migrations.run_steps). The timeout
-- is below the 60 s after which Supabase's gateway gives up on a request; PostgREST applies it to the whole transaction.
-- Only service_role may execute it. "shrink" makes the batches of one step smaller, and goes without "following".
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
set search_path = public, extensions, pg_temp
set statement_timeout = '50s'
as $function$
declare
    answer jsonb;
begin
    if execute_sql.step is null then
        return rpc_migrations.run_sql(execute_sql.query);
    end if;
    if execute_sql.following is not null then
        answer := rpc_migrations.run_steps(
            execute_sql.query, execute_sql.migration, execute_sql.step, execute_sql.checksum,
            execute_sql.batch, execute_sql.run, execute_sql.following
        );
    else
        answer := rpc_migrations.run_step(
            execute_sql.query, execute_sql.migration, execute_sql.step, execute_sql.checksum,
            execute_sql.batch, execute_sql.run, execute_sql.shrink
        );
    end if;
    if answer ->> 'state' in ('done', 'more', 'waiting') then
        perform rpc_migrations.touch_run(execute_sql.run);
    end if;
    return answer;
end;
$function$;


-- Rights, by name: revoking from public alone would leave what default privileges grant to the API's roles by name.
revoke all on schema rpc_migrations from public, anon, authenticated, service_role;
revoke all on all tables in schema rpc_migrations from public, anon, authenticated, service_role;
revoke all on all sequences in schema rpc_migrations from public, anon, authenticated, service_role;
revoke all on all functions in schema rpc_migrations from public, anon, authenticated, service_role;
revoke all on function public.execute_sql(text, text, text, text, boolean, uuid, integer, jsonb)
from public, anon, authenticated, service_role;
grant execute on function public.execute_sql(text, text, text, text, boolean, uuid, integer, jsonb) to service_role;

notify pgrst, 'reload schema';
