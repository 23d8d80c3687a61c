-- The rehearsal. A copy takes minutes, and what can fail comes last: indexes, constraints, the swap. So before the first row is
-- copied, all of that is done on the empty new table, exactly as it will be done, in a subtransaction that is always undone: its
-- errors refuse the migration. Its locks are undone as well; it holds those of the swap, for as long as the swap may. If
-- somebody else holds one of these locks, or it takes longer, the rehearsal is skipped: that is no reason to refuse anything.

-- Rehearses a copy that is about to begin, with the later steps of the file that the session has (the setting rpc_migrations.later, see
-- run_step). Raises RM001 with all reasons that it finds. Returns a message if it was skipped; null if all went well.
create or replace function rpc_migrations.rehearse(copy rpc_migrations.copies) returns text
language plpgsql
set search_path = ''
set lock_timeout = '20ms'
as $function$
declare
    later jsonb := nullif(current_setting('rpc_migrations.later', true), '');
    reasons text[];
    past_budget text;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        return null;  -- the copy cannot begin then, and says why
    end if;
    for attempt in 1..3 loop
        begin
            reasons := rpc_migrations.rehearse_all(copy, later);
            raise exception using errcode = 'RM099';
        exception when sqlstate 'RM099' then
            exit;
        when lock_not_available then
            reasons := null;  -- and what it had found may come of what it has not done
            past_budget := substring(sqlerrm from '^this attempt (has taken longer than .*)$');
        end;
        perform pg_sleep(0.05);
    end loop;
    if reasons is null then
        return 'the later steps could not be rehearsed: ' || coalesce(
            'that ' || past_budget || '. So may every attempt at the swap: see how many tables, views, policies and foreign keys depend on this table',
            'other sessions hold locks that they need');
    elsif reasons <> '{}' then
        raise exception '% cannot be rebuilt as the step file says: %', rpc_migrations.name_in_use(copy),
            (select string_agg(r.reason, '; ' order by r.place)
            from (
                select r.reason, min(r.place) as place
                from unnest(reasons) with ordinality as r (reason, place)
                group by r.reason order by 2 limit 10
            ) as r)
        using errcode = 'RM001',
            hint = 'This was found by a rehearsal, which was undone: nothing was changed. Fix what it names, in the database or in the '
                'step file (roll the migration back first if you change a step that was done), then run the same command again.';
    end if;
    return null;
end;
$function$;


-- The whole rehearsal, in the caller's subtransaction. Returns the reasons to refuse. The tables that foreign keys point at are locked last.
create or replace function rpc_migrations.rehearse_all(copy rpc_migrations.copies, later jsonb) returns text[]
language plpgsql
set search_path = ''
as $function$
declare
    of_expressions text[];
    reasons text[];
    of_the_swap text[];
    rehearsed record;
    key record;
    reason text;
    began timestamptz;
begin
    update rpc_migrations.copies as c
    set state = 'copied', compared_at = clock_timestamp()
    where c.id = copy.id
    returning c.* into copy;
    select r.* into rehearsed from rpc_migrations.rehearse_steps(copy, later) as r;
    reasons := rehearsed.reasons;
    of_expressions := rpc_migrations.rehearse_expressions(copy);
    if copy.source is not null and reasons = '{}' then
        begin
            perform rpc_migrations.check_complete(copy);
        exception when sqlstate 'RM005' then
            reasons := array[sqlerrm || '; call carry_over before the swap'];
        end;
    end if;
    began := clock_timestamp();
    for key in select k.* from jsonb_to_recordset(rehearsed.foreign_keys) as k (step text, statement text) loop
        perform rpc_migrations.limit_wait(copy, began);
        reason := rpc_migrations.rehearse_key(key.statement);
        if reason is not null then
            reasons := reasons || format('step "%s": %s', key.step, reason);
        end if;
    end loop;
    reasons := reasons || array(select c from rpc_migrations.conflicts(copy.source, copy.target) as c);
    of_the_swap := rpc_migrations.rehearse_swap(copy);
    if reasons <> '{}' then
        -- That something does not exist may come of those.
        of_the_swap := array(select r from unnest(of_the_swap) as r where r !~ '\((42703|42704|42883|42P01)\)$');
    end if;
    return of_expressions || reasons || of_the_swap;
end;
$function$;


-- The steps up to the swap, on an empty table: what copies, replays, compares or otherwise works on data has nothing to do. A
-- statement of unknown effect (see rehearsal_of) ends the rehearsal of steps, because what follows may build on it; so does one that
-- fails. What is carried over is tried in any case. Statements that add a foreign key are returned instead of run: others may be waiting
-- for what they lock. Which of our functions a step calls is told by the client, which reads SQL; an older one does not tell, and then no
-- steps are rehearsed.
create or replace function rpc_migrations.rehearse_steps(copy rpc_migrations.copies, later jsonb, out reasons text[], out foreign_keys jsonb)
language plpgsql
set search_path = ''
as $function$
declare
    step record;
    rehearsed record;
    goes_on boolean := exists (  -- a very long file may not have been sent to its end
        select from jsonb_array_elements(later) as s where s -> 'calls' ? 'swap'
    );
    carried boolean := copy.source is null;
    left_before jsonb := rpc_migrations.left_behind();
    locked_since timestamptz;
begin
    reasons := '{}';
    foreign_keys := '[]';
    for step in
        select s.value ->> 'step' as name, s.value ->> 'query' as query, s.value ->> 'separator' as separator, (s.value ->> 'batch')::boolean as batch,
            s.value -> 'calls' as calls
        from jsonb_array_elements(later) with ordinality as s (value, place)
        order by s.place
    loop
        exit when step.calls ? 'swap';
        if step.calls ? 'carry_over' then
            reasons := reasons || rpc_migrations.rehearse_carry_over(copy);
            carried := true;
        elsif goes_on and not step.batch then
            select r.* into rehearsed
            from rpc_migrations.rehearse_step(
                case when step.separator is null then array[step.query] else string_to_array(step.query, step.separator) end
            ) as r;
            goes_on := rehearsed.goes_on;
            foreign_keys := foreign_keys || (
                select coalesce(jsonb_agg(jsonb_build_object('step', step.name, 'statement', s)), '[]') from unnest(rehearsed.foreign_keys) as s
            );
            -- What does not exist may be such a key.
            if rehearsed.reason is not null and not (foreign_keys <> '[]' and rehearsed.reason ~ '\(42704\)$') then
                reasons := reasons || format('step "%s": %s', step.name, rehearsed.reason);
            end if;
        end if;
        locked_since := coalesce(
            locked_since, case when rpc_migrations.left_behind() is distinct from left_before then clock_timestamp() end);
        if locked_since is not null then
            perform rpc_migrations.limit_wait(copy, locked_since);
        end if;
    end loop;
    if not carried and not goes_on then
        reasons := reasons || rpc_migrations.rehearse_carry_over(copy);
    end if;
end;
$function$;


-- Runs the statements of one step that define something; those that only add a foreign key are returned instead. Returns the reason to
-- refuse it, if there is one.
create or replace function rpc_migrations.rehearse_step(
    statements text[], out goes_on boolean, out reason text, out foreign_keys text[]
)
language plpgsql
set search_path = ''
as $function$
declare
    statement text;
    what text;
begin
    goes_on := true;
    foreign_keys := '{}';
    foreach statement in array statements loop
        if rpc_migrations.adds_a_key(statement) then
            foreign_keys := foreign_keys || statement;
            continue;
        end if;
        what := rpc_migrations.rehearsal_of(statement);
        if what is null then
            goes_on := false;
            return;
        elsif what <> 'data' then
            perform rpc_migrations.run_statements(statement, null);
        end if;
    end loop;
    perform rpc_migrations.defer_foreign_keys();
exception when others then
    if not rpc_migrations.tells_against_it(sqlstate) then
        raise;
    end if;
    goes_on := false;
    reason := rpc_migrations.reason_of_error(sqlstate, sqlerrm);
end;
$function$;


-- Runs a statement that adds a foreign key, as its step will. Returns the reason to refuse it, if there is one. What the key points at is
-- locked for a moment only: whoever inserts into the table in use locks that first and the parent next, and we will lock the table in use.
create or replace function rpc_migrations.rehearse_key(statement text) returns text
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.declare_key(statement);
    return null;
exception when others then
    if not rpc_migrations.tells_against_it(sqlstate) then
        raise;
    end if;
    return rpc_migrations.reason_of_error(sqlstate, sqlerrm);
end;
$function$;


-- Whether an error is about what was tried, rather than about the moment (a lock, a conflict, a full disk).
create or replace function rpc_migrations.tells_against_it(error_code text) returns boolean
language sql immutable
set search_path = ''
as $function$
    select error_code <> '55P03' and error_code !~ '^(40|53|57|58|XX)';
$function$;


-- The reason to refuse a step that an error is. Null for errors that come from an empty table, and for exceptions of the step's own: they
-- say nothing about what it will do later.
create or replace function rpc_migrations.reason_of_error(error_code text, message text) returns text
language sql immutable
set search_path = ''
as $function$
    select format('%s (%s)', message, error_code) where error_code !~ '^(P0|21|23)';
$function$;


-- What a rehearsal does with a statement, by its text. "defines": it is run, because it makes or alters something of the new table,
-- or something that needs no data, and all its effects are undone with the transaction. "data": it is skipped, and defines nothing.
-- Null: that cannot be told.
create or replace function rpc_migrations.rehearsal_of(statement text) returns text
language sql immutable
set search_path = ''
as $function$
    with bare (text) as (
        select lower(rpc_migrations.without_comments_before(statement))
    )
    select case
        when b.text ~ '^(insert|update|delete|merge|truncate|analyze)\M'
            or b.text ~ '^select\s+(\*|[\w\s,]+)\s+from\s+rpc_migrations\.(copy_batch|replay|compare)\s*\('
            or b.text ~ '^select\s+rpc_migrations\.gather_statistics\s*\(' then 'data'
        when b.text ~ '^(alter\s+table|comment\s+on|drop)\M[^;]*\s"?rpc_migrations"?\.'
            or b.text ~ '^create\s+(unique\s+)?index\M[^;]*\son\s+(only\s+)?"?rpc_migrations"?\.'
            or b.text ~ '^create\s+(or\s+replace\s+)?(constraint\s+)?(policy|trigger)\M[^;]*\son\s+"?rpc_migrations"?\.'
            or b.text ~ '^create\s+statistics\M[^;]*\sfrom\s+"?rpc_migrations"?\.'
            or b.text ~ '^create\s+(or\s+replace\s+)?(function|procedure|type|domain|sequence)\M'
            or b.text ~ '^(grant|revoke)\s[^;]*\son\s+(table\s+)?"?rpc_migrations"?\.'
            or b.text ~ '^(grant|revoke)\s[^;]*\son\s+(all\s+)?(function|procedure|routine|type|domain|sequence|schema)s?\M'
            or b.text ~ '^(set|reset)\M'
            -- A block that reads the new table, or does more than define things, may depend on rows or reach beyond the transaction.
            or b.text ~ '^do\M' and b.text ~ '\mrpc_migrations\.'
            and b.text !~ '\m(from|join|update|into|only)\s+(only\s+)?"?rpc_migrations"?\.'
            and b.text !~ '\m(perform|call|insert\s+into|update\s+[^;]*\sset|delete\s+from|truncate|merge|copy|notify|nextval|setval|dblink\w*|http\w*|pg_sleep\w*|pg_\w*advisory\w*)\M'
            then 'defines'
    end
    from bare as b;
$function$;


-- Carries everything over one by one, so that everything that cannot be made is named. If there are conflicts of names, only these.
create or replace function rpc_migrations.rehearse_carry_over(copy rpc_migrations.copies) returns text[]
language plpgsql
set search_path = ''
as $function$
declare
    missing record;
    reasons text[] := array(select c from rpc_migrations.conflicts(copy.source, copy.target) as c);
begin
    if reasons <> '{}' then
        return reasons;
    end if;
    for missing in
        select m.*
        from rpc_migrations.missing_in_target(copy.source, copy.target, copy.target::regclass::text, 'build') as m
        order by m.kind <> 'primary key', m.place
    loop
        begin
            perform rpc_migrations.make_from_text(missing.kind, missing.statement);
        exception when others then
            if not rpc_migrations.tells_against_it(sqlstate) then
                raise;
            end if;
            reasons := reasons || (format('%s %s: %s (%s)', missing.kind, missing.name, sqlerrm, sqlstate) || case when sqlstate = '42P07' then
                ' in the schema rpc_migrations; rename it, or rebuild the table by a line `-- rebuild: `, which makes the new one elsewhere' else '' end);
        end;
    end loop;
    return reasons;
end;
$function$;


-- Evaluates the old table's checks, indexes and generated columns that the new one has, too, on a few rows: a function that relies on
-- other schemas than public and extensions, as it may in a session of the application, does not find its names here.
create or replace function rpc_migrations.rehearse_expressions(copy rpc_migrations.copies) returns text[]
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    expression record;
    reasons text[] := '{}';
begin
    for expression in
        with pairs as (select p.* from rpc_migrations.pairs(copy.source, copy.target) as p)
        select format('check constraint %I', c.conname) as what, pg_get_expr(c.conbin, c.conrelid) as text
        from pg_catalog.pg_constraint as c
        inner join pairs as p on p.kind = 'check constraint' and p.old_name = c.conname
        where c.conrelid = copy.source and c.contype = 'c'
        union all
        select format('generated column %I', a.attname), pg_get_expr(d.adbin, d.adrelid)
        from pg_catalog.pg_attribute as a
        inner join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        inner join pg_catalog.pg_attribute as n on n.attrelid = copy.target and n.attname = a.attname and n.attgenerated = a.attgenerated
        inner join pg_catalog.pg_attrdef as e
            on e.adrelid = n.attrelid and e.adnum = n.attnum and pg_get_expr(e.adbin, e.adrelid) = pg_get_expr(d.adbin, d.adrelid)
        where a.attrelid = copy.source and a.attgenerated <> ''
        union all
        select format('index %s', x.oid::regclass), e.text
        from pg_catalog.pg_index as i
        inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
        inner join pairs as p on p.old_name = x.relname
        cross join lateral (
            select pg_get_expr(i.indpred, i.indrelid) as text
            union all
            select pg_get_indexdef(i.indexrelid, k.place::integer, false)
            from unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
            where k.attnum = 0
        ) as e
        where i.indrelid = copy.source and i.indisvalid and e.text is not null
    loop
        begin
            perform rpc_migrations.run(format('select count((%s)) from (select * from only %s limit 10) as %I', expression.text,
                copy.source::regclass, copy.table_name));
        exception when others then
            if not rpc_migrations.tells_against_it(sqlstate) then
                raise;
            end if;
            if sqlstate ~ '^42' then
                reasons := reasons || format('%s: %s (%s); %s', expression.what, sqlerrm, sqlstate, rpc_migrations.what_a_function_needs());
            end if;
        end;
    end loop;
    return reasons;
end;
$function$;


-- The swap itself, with its own locks and its own time for them, counted from when it begins to take them. Replay and comparison are
-- left out: the new table is empty.
create or replace function rpc_migrations.rehearse_swap(copy rpc_migrations.copies) returns text[]
language plpgsql
set search_path = ''
as $function$
declare
    carried jsonb := '[]';
begin
    perform rpc_migrations.free_new_table(copy);
    if copy.source is not null then
        perform rpc_migrations.quiet_triggers(copy, copy.target);
        carried := rpc_migrations.plan_swap(copy);
        execute format('create table rpc_migrations.log_%s ()', copy.id);  -- which the swap drops: an event trigger may forbid that
        perform rpc_migrations.lock_for_swap(copy, clock_timestamp());
    end if;
    return rpc_migrations.exchange(copy, carried, go_on => true);
exception when others then
    if not rpc_migrations.tells_against_it(sqlstate) then
        raise;
    end if;
    return array[format('the swap: %s (%s)', sqlerrm, sqlstate)];
end;
$function$;
