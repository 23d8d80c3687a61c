-- Several steps in one request. Over a network most steps take less time than the round trip, so the steps that follow are sent
-- along. They share a transaction, hence their locks are held together: the database goes on to the next step only where that
-- makes no difference to anybody else.

-- Runs a step as run_step does and, in the same transaction, those that follow it, as long as that makes no difference to others:
--   - a step that is not done at once is the last one;
--   - a step that leaves something behind until the commit (see left_behind) is the last one;
--   - one that returns "ends_request" is the last one: what it has done is to be committed;
--   - after two seconds, or thirty calls, it ends: the next step gets almost all of a request's time;
--   - a step that fails is undone, reported as "undone", and sent again by the client: as the first one it fails for good.
-- What leaves no lock behind (a grant, a function) is seen by others when the last step of the request is done.
-- "following" are objects with query, separator, step, checksum, batch, record and calls (those of our functions that it calls), and with
-- migration where it is another one. Answers what run_step answers for the first step, with "following": an array of what it answers
-- for the others, and for further batches of the same, in their order, each with its "migration", "step" and "call_seconds".
create or replace function rpc_migrations.run_steps(
    query text, migration text, step text, checksum text, batch boolean, run uuid, following jsonb, separator text default null,
    record jsonb default null
) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    steps jsonb := (
        select jsonb_agg(jsonb_build_object('migration', run_steps.migration) || s.value order by s.number)
        from jsonb_array_elements(jsonb_build_array(jsonb_build_object(
            'query', run_steps.query, 'separator', run_steps.separator, 'record', run_steps.record,
            'step', run_steps.step, 'checksum', run_steps.checksum, 'batch', run_steps.batch
        )) || run_steps.following) with ordinality as s (value, number)
    );
    next_step jsonb := steps -> 0;
    place integer := 0;
    answer jsonb;
    answers jsonb := '[]';
    undone jsonb;
    left_before jsonb;
    is_last boolean;
    step_began timestamptz;
    began timestamptz := clock_timestamp();
begin
    -- run_step does these two as well; done here, they do not count as left behind by a step.
    perform set_config('lock_timeout', '100ms', true);
    perform pg_try_advisory_xact_lock(rpc_migrations.lock_key(m.name))
    from (select distinct s ->> 'migration' as name from jsonb_array_elements(steps) as s) as m
    where m.name is not null;
    left_before := rpc_migrations.left_behind();
    while next_step is not null loop
        step_began := clock_timestamp();
        begin
            answer := rpc_migrations.run_step(
                next_step ->> 'query', next_step ->> 'migration', next_step ->> 'step', next_step ->> 'checksum',
                (next_step ->> 'batch')::boolean, run_steps.run, separator => next_step ->> 'separator',
                record => nullif(next_step -> 'record', 'null'), later => rpc_migrations.steps_to_rehearse(steps, place)
            );
            is_last := rpc_migrations.left_behind() is distinct from left_before
                or coalesce((answer -> 'result' ->> 'ends_request')::boolean, false);
        exception when others or query_canceled or assert_failure then
            if answers = '[]' then
                raise;
            end if;
            undone := jsonb_build_object('step', next_step ->> 'step', 'code', sqlstate, 'message', sqlerrm);
            exit;
        end;
        answers := answers || jsonb_build_array(answer || jsonb_build_object(
            'migration', next_step -> 'migration', 'step', next_step -> 'step',
            'call_seconds', extract(epoch from clock_timestamp() - step_began)
        ));
        exit when is_last or answer ->> 'state' not in ('done', 'more')
            or clock_timestamp() > began + interval '2 seconds' or jsonb_array_length(answers) >= 30;
        place := place + (answer ->> 'state' = 'done')::integer;
        next_step := steps -> place;
    end loop;
    return (answers -> 0) || jsonb_build_object('following', answers - 0, 'undone', undone);
end;
$function$;


-- If the step at this place begins a copy: those that follow it in its migration. Null: it does not.
create or replace function rpc_migrations.steps_to_rehearse(steps jsonb, place integer) returns jsonb
language sql immutable
set search_path = ''
as $function$
    select jsonb_agg(s.value order by s.number)
    from jsonb_array_elements(steps) with ordinality as s (value, number)
    where
        steps -> place ->> 'query' ~ '\mrpc_migrations\.begin_(copy|rebuild)\M'
        and s.number > place + 1 and s.value -> 'migration' = steps -> place -> 'migration';
$function$;


-- The locks that this transaction keeps until its end and that others could notice: on tables outside our own schema (temporary
-- ones and those that it has dropped among them), and advisory locks. Not counted: a reader's lock on a table that is not
-- large, because whatever comes next with such a table takes a moment; and nextval's, which nobody waits for and which event
-- triggers take (that of pg_graphql does at every DDL). And the lock on a type that has got a value by ALTER TYPE ... ADD VALUE: before
-- the commit nothing may use that value.
create or replace function rpc_migrations.left_behind() returns jsonb
language sql volatile
set search_path = ''
as $function$
    select jsonb_agg(distinct to_jsonb(array[
        l.locktype, l.mode, l.relation::text, l.classid::text, l.objid::text, l.objsubid::text
    ]))
    from pg_catalog.pg_locks as l
    left join pg_catalog.pg_class as c on c.oid = l.relation
    left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where
        l.pid = pg_backend_pid()
        and (
            l.locktype = 'advisory'
            or (l.locktype = 'object' and l.classid = 'pg_catalog.pg_type'::regclass and l.mode = 'ExclusiveLock')
            or (
                l.locktype = 'relation'
                and coalesce(n.nspname, '') not in ('rpc_migrations', 'rpc_migrations_new', 'pg_catalog', 'pg_toast', 'information_schema')
                and (l.mode <> 'AccessShareLock' or pg_relation_size(l.relation) > 256000000)
                and (c.relkind is distinct from 'S' or l.mode <> 'RowExclusiveLock')
            )
        );
$function$;
