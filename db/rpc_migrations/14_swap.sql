-- The swap: one short transaction in which the new table takes the place and the names of the old one. The original table is
-- the backup: nothing is copied for it, so nothing can be missing from it.

-- Puts the new table in the old one's place, when all that comes before it is done (see prepare_swap): everything from the last
-- replay to the new names in one short transaction. All locks of an attempt, and the replay under them, share one budget; past
-- it, or if a lock cannot be had, the attempt is undone. Then it returns who is in the way ("holders"), catches up with the log,
-- and is to be called again.
create or replace function rpc_migrations.swap(
    out done boolean, out rows bigint, out holders jsonb, out ends_request boolean, out message text
)
language plpgsql
set search_path = ''
set row_security = off
set lock_timeout = '20ms'
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    ready boolean;
    carried jsonb := '[]';
    began timestamptz;
begin
    rows := 0;
    done := false;
    ends_request := false;
    if copy.state is distinct from 'copied' or (copy.source is not null and copy.compared_at is null) then
        raise exception 'the swap comes after the copy and the comparison, once' using errcode = 'RM005',
            hint = 'Call copy_batch, carry_over, replay and compare in earlier steps. Where these were called, the row of '
                'rpc_migrations.copies was deleted since: roll the migration back, then run it again.';
    end if;
    if copy.source is not null then
        select p.* into ready, rows, holders, ends_request, message from rpc_migrations.prepare_swap(copy) as p;
        if not ready then
            return;
        end if;
        perform rpc_migrations.check_conflicts(copy);
        perform rpc_migrations.check_complete(copy);
    end if;
    began := clock_timestamp();
    begin
        perform rpc_migrations.free_new_table(copy);
        if copy.source is not null then
            carried := rpc_migrations.plan_swap(copy);
            perform rpc_migrations.replay_before_locks(copy);
            began := clock_timestamp();
            perform rpc_migrations.lock_for_swap(copy, began);
            perform rpc_migrations.check_source(copy);
            perform rpc_migrations.replay_rest(copy);
            perform rpc_migrations.limit_wait(copy, began);
        end if;
        perform rpc_migrations.exchange(copy, carried);
        done := true;
    exception when lock_not_available then
        holders := rpc_migrations.holders_in_the_way(copy);
        message := rpc_migrations.what_was_waited_for(sqlerrm);
        rows := rows + rpc_migrations.catch_up(copy);
    when sqlstate 'RM098' then
        holders := '[]';
        ends_request := true;
        message := sqlerrm;
        rows := rows + rpc_migrations.catch_up(copy);
        return;
    end;
    copy := rpc_migrations.note_attempt(copy, began);
    message := case when done then rpc_migrations.swap_in_words(copy) else message end;
end;
$function$;


-- What the swap has done, for a message.
create or replace function rpc_migrations.swap_in_words(copy rpc_migrations.copies) returns text
language plpgsql
set search_path = ''
as $function$
begin
    return case
        when copy.source is null then format('%s is there', copy.new_table::regclass)
        else format('%s is the new table, %s the original one', copy.new_table::regclass, copy.old_table::regclass)
    end || rpc_migrations.attempts_in_words(copy) || rpc_migrations.subscriptions_left(copy.old_table);
end;
$function$;


-- How long the next lock of an attempt to swap may be waited for: at most 20 ms, or a tenth of a larger budget (longer after many attempts
-- in vain, or locks that are never free for so short a time could not be had at all), and what is left of the budget. Raises lock_not_available
-- when nothing is left.
create or replace function rpc_migrations.limit_wait(copy rpc_migrations.copies, began timestamptz) returns void
language plpgsql
set search_path = ''
as $function$
declare
    budget_ms integer := rpc_migrations.lock_budget();
    left_ms integer := budget_ms - floor(1000 * extract(epoch from clock_timestamp() - began));
begin
    if left_ms < 1 then
        raise exception 'this attempt has taken longer than % ms (MIGRATION_LOCK_BUDGET, in seconds, allows it more)', budget_ms
        using errcode = 'lock_not_available';
    end if;
    perform set_config('lock_timeout', least(left_ms, greatest(20, budget_ms / 10) * 2 ^ least(copy.attempts / 5, 4))::integer || 'ms', true);
end;
$function$;


-- Counts an attempt to swap, and remembers how long the longest one took.
create or replace function rpc_migrations.note_attempt(copy rpc_migrations.copies, began timestamptz) returns rpc_migrations.copies
language sql
set search_path = ''
as $function$
    update rpc_migrations.copies as c
    set attempts = c.attempts + 1, longest_attempt = greatest(c.longest_attempt, extract(epoch from clock_timestamp() - began))
    where c.id = copy.id
    returning c.*;
$function$;


-- What an attempt has failed at, for a message; null if it was a lock.
create or replace function rpc_migrations.what_was_waited_for(error text) returns text
language sql immutable
set search_path = ''
as $function$
    select 'the next attempt, as ' || case when rpc_migrations.was_altered_meanwhile(error)
        then 'another session has just altered the same: ' || error else error end
    where rpc_migrations.was_altered_meanwhile(error)
        or error ~ '^(this attempt has taken longer than |rights were given or taken )| was altered since the comparison$| is being altered by another session$';
$function$;


-- How many attempts it took, for a message; empty if they were few.
create or replace function rpc_migrations.attempts_in_words(copy rpc_migrations.copies) returns text
language sql immutable
set search_path = ''
as $function$
    select case when copy.attempts > 3 then format(' (after %s attempts, the longest of %s ms)', copy.attempts, round(1000 * copy.longest_attempt))
        else '' end;
$function$;


-- Locks all that the swap alters. Dependents come first; then what the foreign keys point at, other people's tables (auth.users) last;
-- the source comes after all of them: it is what the application uses most, and while we wait for another one it is free. What we may
-- not lock is locked by the foreign key itself. A view is locked by giving it the owner that it has, because LOCK TABLE would lock
-- every table that it reads.
create or replace function rpc_migrations.lock_for_swap(copy rpc_migrations.copies, began timestamptz) returns void
language plpgsql
set search_path = ''
as $function$
declare
    statement text;
begin
    execute format('lock table only %s in access exclusive mode', copy.target::regclass);
    for statement in
        (select format(case when d.is_view then 'alter view %s owner to %s' else 'lock table only %s in access exclusive mode' end,
            d.dependent, c.relowner::regrole)
        from rpc_migrations.dependents(copy.source) as d
        inner join pg_catalog.pg_class as c on c.oid = d.dependent
        order by d.is_view desc, d.dependent::text)
        union all
        (select format('lock table only %s in %s mode', p.parent, case when p.loses_key then 'access exclusive' else 'share row exclusive' end)
        from rpc_migrations.parents(copy) as p where p.may_lock)
        union all
        select format('lock table only %s in access exclusive mode', copy.source::regclass)
    loop
        perform rpc_migrations.limit_wait(copy, began);
        execute statement;
    end loop;
end;
$function$;


-- Who may be in the way of an attempt to swap that has failed, and been undone: on the table, on everything else that lock_for_swap locks,
-- and on the sequences that are renamed.
create or replace function rpc_migrations.holders_in_the_way(copy rpc_migrations.copies) returns jsonb
language sql volatile
set search_path = ''
as $function$
    select case when copy.source is null then rpc_migrations.lock_holders() else coalesce(jsonb_agg(distinct h.value), '[]') end
    from (
        select copy.new_table as relation
        union
        select copy.old_table
        union
        select d.dependent from rpc_migrations.dependents(copy.source) as d
        union
        select p.parent from rpc_migrations.parents(copy) as p
        union
        select to_regclass(format('%I.%I', w.schema, w.name)) from rpc_migrations.named_with(copy.source) as w where w.kind = 'sequence'
    ) as r
    cross join lateral jsonb_array_elements(rpc_migrations.lock_holders(r.relation)) as h
    where exists (select from pg_catalog.pg_locks as l where l.relation = r.relation and l.granted and l.pid is distinct from pg_backend_pid());
$function$;


-- Raises RM005 if the new table lacks something that is built before the swap, because nobody has called carry_over; RM003 if it was moved;
-- and RM001 if only one of the tables is unlogged: a crash would empty that one alone.
create or replace function rpc_migrations.check_complete(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    missing text;
begin
    if to_regclass(rpc_migrations.new_name(copy)) is distinct from copy.target::regclass then
        raise exception 'the new table was renamed or moved: it is %, and was %', copy.target::regclass, rpc_migrations.new_name(copy)
        using errcode = 'RM003', hint = 'No table in use was changed. Take that back, then run the same command again; or roll back.';
    end if;
    if (
        select count(distinct c.relpersistence) > 1 from pg_catalog.pg_class as c where c.oid in (copy.source, copy.target)
    ) then
        raise exception '% and its new version are not both unlogged', copy.source::regclass
        using errcode = 'RM001', hint = 'No table in use was changed. Leave the new table as the old one is; set it logged or unlogged after the swap.';
    end if;
    select string_agg(concat_ws(' ', m.kind, m.name), ', ' order by m.place) into missing
    from rpc_migrations.missing_in_target(copy.source, copy.target, copy.target::regclass::text, 'build') as m;
    if missing is not null then
        perform rpc_migrations.check_source(copy);  -- it may be gone from both, with an extension
        raise exception 'the new table lacks what the old one has: %', missing
        using errcode = 'RM005', hint = 'Call carry_over in a batch step before the swap: it builds what the step file has not defined.';
    end if;
end;
$function$;


-- Resets what kept autovacuum off the new table while it was built. This comes first, because the old table may have the same setting,
-- and what the new one has already is not carried over.
create or replace function rpc_migrations.free_new_table(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    execute format('alter table %s reset (autovacuum_enabled)', copy.new_table::regclass);
end;
$function$;


-- What the swap carries over, found before the application's tables are locked. Under the lock the source is checked to be what it was when
-- the copy began (see check_source); so what was found still holds, if the same was true in the snapshot in which it was found. The new
-- table is locked already, as nobody waits for it. Every query that runs again under the lock runs here once: a pool's session that is
-- new to them has to plan them, which takes longer than to run them.
create or replace function rpc_migrations.plan_swap(copy rpc_migrations.copies) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    carried jsonb;
    is_as_it_was boolean;
begin
    execute format('lock table only %s in access exclusive mode', copy.target::regclass);
    perform rpc_migrations.renew_functions(copy.source);
    loop
        perform rpc_migrations.check_source(copy);
        select rpc_migrations.carried_in_swap(copy), rpc_migrations.table_definition(copy.source) = copy.definition into carried, is_as_it_was;
        exit when is_as_it_was;
    end loop;
    perform rpc_migrations.changed_meanings(rpc_migrations.meanings(copy.source), copy.target);
    perform rpc_migrations.acting_on(copy.source);
    return carried;
end;
$function$;


-- The type of the table's rows will be another one. Sessions of the application keep the old type in variables of functions, until the
-- function's entry in pg_proc changes, and in statements (see renew_statements). So these entries are rewritten without a change, by
-- resetting a setting that no function has, which cannot overwrite what somebody else is changing. This comes before the table is locked,
-- and takes effect with the swap.
create or replace function rpc_migrations.renew_functions(source oid) returns void
language plpgsql
set search_path = ''
as $function$
declare
    routine regprocedure;
begin
    for routine in
        select p.oid
        from pg_catalog.pg_class as c
        cross join pg_catalog.pg_proc as p
        inner join pg_catalog.pg_language as l on l.oid = p.prolang
        where
            c.oid = renew_functions.source and l.lanname = 'plpgsql' and pg_has_role(p.proowner, 'usage')
            and p.pronamespace <> 'rpc_migrations'::regnamespace and not starts_with(p.pronamespace::regnamespace::text, 'pg_temp')
            and strpos(lower(replace(p.prosrc, '""', '"')), lower(c.relname)) > 0
            and array_to_string(p.proconfig, ' ') ~ '\mgeqo_seed=' is not true
    loop
        execute format('alter routine %s reset geqo_seed', routine);
    end loop;
exception when lock_not_available or internal_error or undefined_function or syntax_error then
    -- Somebody else is altering it, has just committed that, or has dropped the function, whose name is then a number.
    raise exception '% is being altered by another session', coalesce('function ' || routine, 'a function')
    using errcode = 'lock_not_available';
end;
$function$;


-- A change to any entry in pg_namespace makes all sessions analyse their statements again, also those that wait for the table meanwhile; so
-- ours is rewritten without a change. Last of all, because this session has to do so as well.
create or replace function rpc_migrations.renew_statements() returns void
language plpgsql
set search_path = ''
as $function$
begin
    revoke all on schema rpc_migrations from public;
exception when lock_not_available or internal_error then  -- the second one: and has committed while we waited
    raise exception 'the schema rpc_migrations is being altered by another session' using errcode = 'lock_not_available';
end;
$function$;


-- The exchange of the two tables, forward. "carried": see carried_in_swap. In a rehearsal ("go_on") it continues after a statement
-- that fails; returns what has failed.
create or replace function rpc_migrations.exchange(copy rpc_migrations.copies, carried jsonb, go_on boolean default false) returns text[]
language plpgsql
set search_path = ''
as $function$
declare
    moved jsonb := '[]';
    new_texts jsonb := '[]';
    failed text[] := '{}';
    meant jsonb;
    lent jsonb;
    own_keys record;
    old_order name[] := rpc_migrations.keys_in_order(copy.old_table);
begin
    if copy.source is not null then
        meant := rpc_migrations.meanings(copy.source);
        failed := rpc_migrations.run_each(carried, 'detach', go_on);
        moved := rpc_migrations.move_aside(copy.old_table, copy.backup_name, copy.new_table);
        if not go_on then
            perform rpc_migrations.check_rights(copy);
        end if;
    end if;
    perform rpc_migrations.move_into(copy.new_table, copy.schema_name, copy.table_name);
    perform rpc_migrations.drop_second_schema();
    if copy.source is not null then
        perform rpc_migrations.carry_positions(copy.old_table, copy.new_table);
        perform rpc_migrations.carry_sequence_rights(copy.old_table, copy.new_table);
        failed := failed || rpc_migrations.run_carried(
            copy, jsonb_path_query_array(carried, '$[*] ? (@.kind != "foreign key" && @.kind != "comment")'), go_on);
    end if;
    select k.* into own_keys from rpc_migrations.make_own_keys(copy, carried, go_on) as k;
    if copy.source is not null then
        failed := failed || own_keys.failed || rpc_migrations.run_each(
            jsonb_path_query_array(carried, '$[*] ? (@.kind == "comment")'), 'statement', go_on);
        if copy.alteration is null then
            perform rpc_migrations.fit_sequences(copy.old_table, copy.new_table);  -- ALTER TABLE leaves it as it is
        end if;
        lent := rpc_migrations.names_to_lend(copy);
        perform rpc_migrations.name_columns(copy.new_table, lent, 'lent');  -- or the texts would differ
        failed := failed || rpc_migrations.changed_meanings(meant, copy.new_table);
        perform rpc_migrations.name_columns(copy.new_table, lent, 'own');
        if not go_on then
            perform rpc_migrations.refuse_changed_meanings(failed);
        end if;
        perform rpc_migrations.move_statistics(copy);
        new_texts := rpc_migrations.retold_texts(carried, copy.new_table);
        perform rpc_migrations.wake_triggers(copy);
        perform rpc_migrations.close_table(copy.old_table);
        perform rpc_migrations.end_capture(copy.id);
    end if;
    update rpc_migrations.copies as c
    set
        state = 'swapped', swapped_at = clock_timestamp(), renamed = moved, retold = new_texts,
        swap_mark = rpc_migrations.swap_mark(copy.new_table, copy.old_table), key_order = old_order,
        unvalidated = own_keys.declared || rpc_migrations.unvalidated_keys(copy.new_table, carried, '[]')
            || rpc_migrations.unvalidated_checks(copy.new_table, coalesce(copy.alteration -> 'parts', copy.definition, '[]'))
    where c.id = copy.id;
    if copy.source is not null then
        perform rpc_migrations.take_off_keys(copy.old_table, and_cascades => false);
        perform rpc_migrations.quiet_triggers(copy, copy.old_table);
    end if;
    if copy.source is not null and not go_on then
        perform rpc_migrations.move_subscriptions(copy.old_table, copy.new_table);
        perform rpc_migrations.renew_statements();
    end if;
    notify pgrst, 'reload schema';
    return failed;
end;
$function$;


-- The statements of the swap for what the target lacks, as one JSON value; only of these kinds, unless null.
create or replace function rpc_migrations.statements_to_carry(source oid, target oid, as_name text, kinds text[]) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(
        jsonb_agg(
            jsonb_build_object('kind', m.kind, 'name', m.name, 'definition', m.definition, 'detach', m.detach, 'statement', m.statement,
                'by_source_names', m.kind = any (rpc_migrations.kinds_of_others()))
            order by m.place
        ), '[]'
    )
    from rpc_migrations.missing_in_target(source, target, as_name, 'swap') as m
    where kinds is null or m.kind = any (kinds);
$function$;


-- What is carried over, with the foreign keys that steps have declared (as entries without a statement) among the carried ones: each in the
-- place of the old table's key of that name or definition, else after them, in the order of declaration. Those that ALTER TABLE makes are
-- in order already.
create or replace function rpc_migrations.with_declared_keys(copy rpc_migrations.copies, carried jsonb) returns jsonb
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    if not exists (select from rpc_migrations.taken_off_keys(copy.target)) then
        return carried;
    end if;
    return (
        select jsonb_agg(e.value order by array_position(rpc_migrations.keys_in_order(copy.source), e.old_name), e.place, e.later)
        from (
            select c.value, (c.value ->> 'name')::name as old_name, 0::oid as place, c.later
            from jsonb_array_elements(carried) with ordinality as c (value, later)
            where c.value ->> 'kind' = 'foreign key'
            union all
            select jsonb_build_object('kind', 'foreign key', 'name', k.name), coalesce(p.old_name::name, k.name), k.place, 0
            from rpc_migrations.taken_off_keys(copy.target) as k
            left join rpc_migrations.pairs(copy.source, copy.target) as p on p.kind = 'foreign key' and p.new_name = k.name
        ) as e
    ) || jsonb_path_query_array(carried, '$[*] ? (@.kind != "foreign key")');
end;
$function$;


-- What the swap carries over. The statements mention the table by the name of the one in use.
create or replace function rpc_migrations.carried_in_swap(copy rpc_migrations.copies) returns jsonb
language sql stable
set search_path = ''
as $function$
    select rpc_migrations.with_declared_keys(
        copy, rpc_migrations.statements_to_carry(copy.source, copy.target, rpc_migrations.name_in_use(copy), null));
$function$;


-- Makes the new table's own foreign keys, carried over or declared, in their order. Returns what has failed in a rehearsal, and which
-- declared ones have to be validated. If there was no old table, all are declared.
create or replace function rpc_migrations.make_own_keys(
    copy rpc_migrations.copies, carried jsonb, go_on boolean, out failed text[], out declared jsonb
)
language plpgsql
set search_path = ''
as $function$
declare
    key jsonb;
begin
    failed := '{}';
    declared := '[]';
    for key in select e.value from jsonb_array_elements(carried) as e where e.value ->> 'kind' = 'foreign key' loop
        if key ->> 'statement' is not null then
            failed := failed || rpc_migrations.run_each(jsonb_build_array(key), 'statement', go_on);
        else
            declared := declared || rpc_migrations.make_taken_off_keys(
                copy.new_table, copy.old_table, null, only_one => (key ->> 'name')::name);
        end if;
    end loop;
    declared := declared || rpc_migrations.make_taken_off_keys(copy.new_table, copy.old_table, null);
end;
$function$;


-- The texts of views, functions, policies and rules of others that differ after the swap from before: the new table's columns may
-- change how PostgreSQL prints them.
create or replace function rpc_migrations.retold_texts(carried jsonb, new_table oid) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(jsonb_build_object('kind', n.kind, 'name', n.name, 'before', e.statement, 'after', n.statement)), '[]')
    from jsonb_to_recordset(carried) as e (kind text, name text, statement text)
    inner join (
        select t.* from rpc_migrations.describe_texts(new_table) as t
        union all
        select p.* from rpc_migrations.describe_policies_about(new_table) as p
    ) as n using (kind, name)
    where n.statement <> e.statement;
$function$;


-- Moves statistics that the step file has made of its own into the table's schema.
create or replace function rpc_migrations.move_statistics(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.execute_each(array(
        select format('alter statistics rpc_migrations.%I set schema %I', s.stxname, copy.schema_name)
        from pg_catalog.pg_statistic_ext as s
        where s.stxrelid = copy.new_table and s.stxnamespace = 'rpc_migrations'::regnamespace
    ));
end;
$function$;


-- Runs what is carried over, as run_each. What belongs to others mentions the columns by the source's names ("by_source_names"). So the target's
-- columns have these names while it is made, and PostgreSQL makes it follow when they get their own ones again, as it does when ALTER TABLE
-- renames a column.
create or replace function rpc_migrations.run_carried(copy rpc_migrations.copies, carried jsonb, go_on boolean default false) returns text[]
language plpgsql
set search_path = ''
as $function$
declare
    lent jsonb := rpc_migrations.names_to_lend(copy);
    are_lent boolean := false;
    by_source_names boolean;
    item jsonb;
    failed text[] := '{}';
begin
    if lent = '[]' then
        return rpc_migrations.run_each(carried, 'statement', go_on);
    end if;
    for item in
        select e.value from jsonb_array_elements(carried || '{"by_source_names": false}'::jsonb) as e
    loop
        by_source_names := coalesce((item ->> 'by_source_names')::boolean, false);
        if by_source_names <> are_lent then
            perform rpc_migrations.name_columns(copy.target, lent, case when by_source_names then 'lent' else 'own' end);
            are_lent := by_source_names;
        end if;
        failed := failed || rpc_migrations.run_each(jsonb_build_array(item), 'statement', go_on);
    end loop;
    return failed;
end;
$function$;


-- Runs the statements under one key of a list, in order; an error names what could not be made. The bodies of functions are not checked:
-- they were when the functions were first made, with whatever search_path that was. In a rehearsal ("go_on") it continues after a
-- statement that fails, and returns what has failed.
create or replace function rpc_migrations.run_each(statements jsonb, key text, go_on boolean default false) returns text[]
language plpgsql
set search_path = ''
set check_function_bodies = off
as $function$
declare
    item jsonb;
    failed text[] := '{}';
    error_detail text;
    error_hint text;
begin
    for item in select e.value from jsonb_array_elements(statements) as e where e.value ->> key is not null loop
        if not go_on then
            perform rpc_migrations.make_again(item ->> 'kind', item ->> 'name', item ->> key);
            continue;
        end if;
        begin
            perform rpc_migrations.make_from_text(item ->> 'kind', item ->> key);
        exception when others then
            if not rpc_migrations.tells_against_it(sqlstate) then
                raise;
            end if;
            failed := failed || format('%s %s: %s (%s)', item ->> 'kind', item ->> 'name', sqlerrm, sqlstate);
        end;
    end loop;
    return failed;
exception when others then
    get stacked diagnostics error_detail = pg_exception_detail, error_hint = pg_exception_hint;
    raise exception using
        errcode = sqlstate, detail = error_detail, hint = error_hint,
        message = case when not starts_with(sqlerrm, item ->> 'kind') then format('%s %s: ', item ->> 'kind', item ->> 'name') else '' end || sqlerrm;
end;
$function$;
