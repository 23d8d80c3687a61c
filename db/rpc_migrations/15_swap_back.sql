-- The swap back: the original table, up to date again, takes its place in one short transaction, with the locks and the budget of the swap.

-- Puts the original table back in its place, under its own name and with its own rights, as rpc_migrations.swap put the
-- new one there. The migrated table is kept, closed to the API, under another name ("kept_as"), so that nothing in its new
-- columns is lost. From then on the migration counts as not run.
create or replace function rpc_migrations.swap_back(
    discard_changes boolean default false,
    out done boolean, out rows bigint, out holders jsonb, out ends_request boolean, out kept_as text, out message text
)
language plpgsql
set search_path = ''
set row_security = off
set lock_timeout = '20ms'
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    keeps_changes boolean := copy.source is not null and not discard_changes;
    ready boolean;
    began timestamptz;
begin
    rows := 0;
    ends_request := false;
    done := copy.id is null;
    perform rpc_migrations.check_swap_back(copy, discard_changes);
    if done then
        return;
    end if;
    if keeps_changes then
        select p.* into ready, rows, holders, ends_request, message from rpc_migrations.prepare_swap(copy) as p;
        if not ready then
            return;
        end if;
    end if;
    began := clock_timestamp();
    begin
        perform rpc_migrations.plan_swap_back(copy);
        if keeps_changes then
            perform rpc_migrations.replay_before_locks(copy);
        end if;
        began := clock_timestamp();
        perform rpc_migrations.lock_for_swap_back(copy, began);
        if keeps_changes then
            perform rpc_migrations.replay_rest(copy);
            perform rpc_migrations.limit_wait(copy, began);
        end if;
        kept_as := rpc_migrations.exchange_back_or_refuse(copy);
        done := true;
    exception when lock_not_available then
        holders := rpc_migrations.holders_in_the_way(copy);
        message := rpc_migrations.what_was_waited_for(sqlerrm);
        if keeps_changes then
            rows := rows + rpc_migrations.catch_up(copy);
        end if;
    when sqlstate 'RM098' then
        holders := '[]';
        ends_request := true;
        message := sqlerrm;
        rows := rows + rpc_migrations.catch_up(copy);
        return;
    end;
    copy := rpc_migrations.note_attempt(copy, began);
    message := case when done then rpc_migrations.swap_back_in_words(copy, kept_as) else message end;
end;
$function$;


-- Raises RM001 or RM005 if this is not the time to swap back.
create or replace function rpc_migrations.check_swap_back(copy rpc_migrations.copies, discard_changes boolean) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if copy.id is null then
        perform rpc_migrations.refuse_lost_copy(current_setting('rpc_migrations.migration', true), 'No table was changed. To go back by hand: '
            'rename the table in use, and the original one to its name, and give that its rights again. To leave it as it is, give the rollback '
            'up with --give-up.');
    elsif copy.old_table is not null and (copy.state <> 'rolling back' or (copy.compared_at is null and not discard_changes)) then
        raise exception 'the swap comes after the comparison' using errcode = 'RM005', hint = 'Run the whole of the rollback.';
    end if;
end;
$function$;


-- What the swap back has done, for a message.
create or replace function rpc_migrations.swap_back_in_words(copy rpc_migrations.copies, kept_as text) returns text
language plpgsql
set search_path = ''
as $function$
begin
    return concat_ws('; ',
        case when copy.old_table is null then 'there was no table before' else 'the original table is back' end,
        format('the migrated one is kept as %s', kept_as) || rpc_migrations.attempts_in_words(copy)
        || rpc_migrations.subscriptions_left(copy.new_table),
        rpc_migrations.subscribers_in_words(copy.schema_name, copy.table_name, (
            select c.relname from pg_catalog.pg_class as c where c.oid = copy.new_table)));
end;
$function$;


-- Runs the queries that run again under the lock: what is wrong is found without a lock, and a session that is new to these queries has
-- planned them by then (see plan_swap).
create or replace function rpc_migrations.plan_swap_back(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if copy.source is not null then
        perform rpc_migrations.renew_functions(copy.source);
        perform rpc_migrations.check_source(copy);
        perform rpc_migrations.check_places(copy);
        perform rpc_migrations.carried_in_swap_back(copy);
    end if;
end;
$function$;


-- Locks all that the swap back alters, and checks it under the lock.
create or replace function rpc_migrations.lock_for_swap_back(copy rpc_migrations.copies, began timestamptz) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if copy.source is not null then
        perform rpc_migrations.lock_for_swap(copy, began);
        perform rpc_migrations.check_source(copy);
    else
        execute format('lock table only %s in access exclusive mode', copy.new_table::regclass);
    end if;
end;
$function$;


-- Makes the swap back and undoes it, locks included. If something has come to depend on the table since the migration that does not
-- fit the original one (a view on a new column), it fails here, before anything begins. Raises as the swap back does.
create or replace function rpc_migrations.rehearse_swap_back(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
set lock_timeout = '20ms'
as $function$
begin
    perform rpc_migrations.plan_swap_back(copy);
    perform rpc_migrations.lock_for_swap_back(copy, clock_timestamp());
    perform rpc_migrations.exchange_back_or_refuse(copy);
    raise exception 'only rehearsed' using errcode = 'RM099';
exception when sqlstate 'RM099' then
    null;
end;
$function$;


-- The exchange; an error becomes RM001 and says what to do.
create or replace function rpc_migrations.exchange_back_or_refuse(copy rpc_migrations.copies) returns text
language plpgsql
set search_path = ''
as $function$
begin
    return rpc_migrations.exchange_back(copy);
exception when others then
    if sqlstate ~ '^RM' and sqlstate <> 'RM001' or not rpc_migrations.tells_against_it(sqlstate) then
        raise;
    end if;
    raise exception '% cannot be rolled back: %', rpc_migrations.name_in_use(copy), sqlerrm
    using errcode = 'RM001', detail = format('SQLSTATE %s', sqlstate), hint = 'No table in use was changed. The original table does not go with what is named: '
        'drop or change that, then run the same command again. A rollback that has begun can be given up with --give-up.';
end;
$function$;


-- The exchange of the two tables, backward. Returns the name under which the migrated table is kept.
create or replace function rpc_migrations.exchange_back(copy rpc_migrations.copies) returns text
language plpgsql
set search_path = ''
as $function$
declare
    kept text := rpc_migrations.derived_name(
        copy.schema_name, copy.table_name, copy.table_name, copy.table_name || to_char(clock_timestamp(), '"_rolled_back_"YYYYMMDDHH24MISS'));
    carried jsonb := '[]';
    put_back jsonb := '[]';
begin
    if copy.source is not null then
        carried := rpc_migrations.carried_in_swap_back(copy);
        perform rpc_migrations.run_each(carried, 'detach');
    end if;
    perform rpc_migrations.move_aside(copy.new_table, kept, copy.old_table);
    if copy.source is not null then
        perform rpc_migrations.move_back(copy.schema_name, copy.renamed);
        perform rpc_migrations.carry_positions(copy.new_table, copy.old_table);
        perform rpc_migrations.run_carried(copy, carried);
        perform rpc_migrations.fit_sequences(copy.new_table, copy.old_table);
        perform rpc_migrations.reopen_table(copy);
        if rpc_migrations.stays_out_of_order(copy) then
            perform rpc_migrations.take_off_keys(copy.old_table, and_cascades => true);
        end if;
        put_back := rpc_migrations.make_taken_off_keys(copy.old_table, copy.new_table, copy.key_order);
        perform rpc_migrations.wake_triggers(copy);
        perform rpc_migrations.end_capture(copy.id);
    end if;
    perform rpc_migrations.close_table(copy.new_table);
    update rpc_migrations.copies as c
    set
        state = 'rolled back', ended_at = clock_timestamp(), kept_as = format('%I.%I', copy.schema_name, kept),
        unvalidated = put_back || rpc_migrations.unvalidated_keys(copy.old_table, carried, copy.unvalidated)
            || rpc_migrations.unvalidated_checks(copy.old_table, coalesce(copy.definition, '[]'))
    where c.id = copy.id;
    perform rpc_migrations.take_off_keys(copy.new_table, and_cascades => false);
    perform rpc_migrations.quiet_triggers(copy, copy.new_table);
    perform rpc_migrations.move_subscriptions(copy.new_table, copy.old_table);
    perform rpc_migrations.mark_undone(copy.migration);
    perform rpc_migrations.renew_statements();
    notify pgrst, 'reload schema';
    return format('%I.%I', copy.schema_name, kept);
end;
$function$;


-- What the swap back carries over: only what belongs to others, since the table itself is the original one. The statements mention the
-- table by the name of the one in use.
create or replace function rpc_migrations.carried_in_swap_back(copy rpc_migrations.copies) returns jsonb
language plpgsql stable
set search_path = ''
as $function$
declare
    carried jsonb := rpc_migrations.statements_to_carry(
        copy.source, copy.target, rpc_migrations.name_in_use(copy), rpc_migrations.kinds_of_others() || 'sequence'::text);
begin
    return rpc_migrations.with_own_policies(rpc_migrations.texts_from_before(carried, copy.retold), copy.definition);
end;
$function$;


-- Views, functions and so on that nobody has altered since the swap get the text that they had before it ("retold").
create or replace function rpc_migrations.texts_from_before(carried jsonb, retold jsonb) returns jsonb
language sql immutable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(
        e.value || coalesce((
            select jsonb_build_object('statement', r.value -> 'before', 'by_source_names', false)
            from jsonb_array_elements(retold) as r
            where r.value ->> 'kind' = e.value ->> 'kind' and r.value ->> 'name' = e.value ->> 'name'
                and r.value -> 'after' = e.value -> 'statement'
        ), '{}')
        order by e.place), '[]')
    from jsonb_array_elements(carried) with ordinality as e (value, place);
$function$;


-- Policies that call a function of the table's rows: those of the new table are dropped, and the original table gets its own again.
create or replace function rpc_migrations.with_own_policies(carried jsonb, definition jsonb) returns jsonb
language sql immutable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(e.value order by e.place, e.later), '[]')
    from (
        select c.value, 1 as place, c.later
        from jsonb_array_elements(carried) with ordinality as c (value, later)
        where c.value ->> 'kind' <> 'policy on a function of its rows' or c.value ->> 'detach' is not null
        union all
        select d.value, 2, d.later
        from jsonb_array_elements(definition) with ordinality as d (value, later)
        where d.value ->> 'kind' = 'policy on a function of its rows' and d.value ->> 'statement' is not null
    ) as e;
$function$;


-- Gives everything that move_aside has renamed its old name again, if it is still there.
create or replace function rpc_migrations.move_back(schema_name text, renamed jsonb) returns void
language plpgsql
set search_path = ''
as $function$
declare
    item jsonb;
    place text;
begin
    for item in select e.value from jsonb_array_elements(renamed) as e loop
        -- Copies of an older version have not noted the schema, which was always the table's.
        place := format('%I.%I', coalesce(item ->> 'schema', schema_name), item ->> 'new_name');
        if item ->> 'kind' <> 'statistics' then
            execute format('alter %s if exists %s rename to %I', item ->> 'kind', place, item ->> 'old_name');
        elsif exists (
            select from pg_catalog.pg_statistic_ext as s
            where s.stxnamespace = to_regnamespace(quote_ident(item ->> 'schema')) and s.stxname = item ->> 'new_name'
        ) then
            execute format('alter statistics %s rename to %I', place, item ->> 'old_name');
        end if;
    end loop;
end;
$function$;


-- Gives the original table the rights and the row level security back that it had before the swap. What somebody has closed since on the
-- table in use stays closed: rights that were revoked, row level security that was enabled or forced.
create or replace function rpc_migrations.reopen_table(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    made jsonb := case when copy.as_made -> 'version' = to_jsonb(current_setting('server_version_num')::integer / 10000)
        then copy.as_made -> 'parts' else '[]' end;  -- as this version of PostgreSQL writes it
    closed_since boolean;
    forced_since boolean;
begin
    perform rpc_migrations.run_each((
        select jsonb_agg(e.value order by e.place)
        from jsonb_array_elements(copy.definition) with ordinality as e (value, place)
        where e.value ->> 'kind' = 'grant' and not (
            made @> jsonb_build_array(jsonb_build_object('kind', 'grant', 'statement', e.value -> 'statement'))
            and not exists (
                select from rpc_migrations.describe_rights(copy.new_table, rpc_migrations.name_in_use(copy)) as n
                where n.statement = e.value ->> 'statement')
        )
    ), 'statement');
    select
        made <> '[]' and c.relrowsecurity and not made @> '[{"kind": "row security", "name": "enabled"}]',
        made <> '[]' and c.relforcerowsecurity and not made @> '[{"kind": "row security", "name": "forced"}]'
    into closed_since, forced_since
    from pg_catalog.pg_class as c where c.oid = copy.new_table;
    execute format('alter table %s %s row level security, %s row level security', copy.old_table::regclass,
        case when closed_since or copy.definition @> '[{"kind": "row security", "name": "enabled"}]' then 'enable' else 'disable' end,
        case when forced_since or copy.definition @> '[{"kind": "row security", "name": "forced"}]' then 'force' else 'no force' end);
end;
$function$;
