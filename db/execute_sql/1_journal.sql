-- The private schema rpc_migrations: the journal of migrations, and the functions that run a step exactly once.
--
-- The files of this folder are deployed together, in the order of their numbers, in one transaction. Running them again
-- brings an older version up to date and keeps the journal. They need no superuser: the role that runs them (postgres,
-- on Supabase) owns what they make. Nothing relies on default privileges, in either direction: the last file revokes
-- and grants every right by name.

create schema if not exists rpc_migrations;
comment on schema rpc_migrations is 'Journal and functions of the migrations run through public.execute_sql. Not exposed by the API.';

-- One row for each time somebody ran a migration or its rollback.
create table if not exists rpc_migrations.runs (
    id uuid primary key,
    migration text not null,
    action text not null check (action in ('migrate', 'roll back')),
    client text not null,                       -- user@host, shown to whoever finds the migration busy
    pid integer,                                -- the client's process
    started_at timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    outcome text,                               -- done, failed, interrupted, taken over; null: under way or killed
    message text
);

-- One row for each step, written in the same transaction as the step's effect.
create table if not exists rpc_migrations.journal (
    id bigint generated always as identity primary key,
    migration text not null,
    step text not null,
    checksum text not null,
    run uuid,                                   -- null: run in the SQL Editor or by psql
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,                    -- null: waits for a lock, or is a batch step under way
    calls integer not null default 0,           -- calls that took effect
    rows bigint not null default 0,
    seconds double precision not null default 0,
    result jsonb,
    undone_at timestamptz                       -- set by a rollback; the step may then be run again
);

-- One row for each table that a migration rebuilt (see online_copy.sql).
create table if not exists rpc_migrations.copies (
    id bigint generated always as identity primary key,
    migration text not null,
    state text not null check (
        state in ('copying', 'copied', 'swapped', 'rolling back', 'rolled back', 'abandoned')
    ),
    schema_name name not null,
    table_name name not null,
    backup_name name not null,
    old_table oid,                              -- null: there was no table before
    new_table oid not null,
    source oid,                                 -- where rows are read: the old table; the new one in a rollback
    target oid,
    keys jsonb,                                 -- the primary key: [{name, operator}]
    columns jsonb,                              -- what is copied: [{name, type, fallback, as_text}]
    definition jsonb,                           -- what the old table looked like: [{kind, name, statement}]
    filenode oid,                               -- another one: the source was rewritten, its ctids mean nothing now
    pass integer not null default 1,            -- of the search for changes in a rollback: changed rows, deleted rows
    next_block bigint not null default 0,
    end_block bigint not null default 0,
    chunk_blocks bigint not null default 16,
    compared_at timestamptz,
    quieted jsonb not null default '{}',        -- triggers of the target that are off until the swap: {name: state}
    renamed jsonb not null default '[]',        -- what the swap renamed: [{kind, old_name, new_name}]
    unvalidated jsonb not null default '[]',    -- foreign keys that the swap made anew: [{relation, name}]
    kept_as text,                               -- the migrated table's name after a rollback
    started_at timestamptz not null default clock_timestamp(),
    swapped_at timestamptz,
    ended_at timestamptz                        -- rolled back or abandoned
);

create unique index if not exists copies_current
on rpc_migrations.copies (migration) where ended_at is null;

create unique index if not exists journal_current_step
on rpc_migrations.journal (migration, step) where undone_at is null;

create index if not exists runs_migration_idx on rpc_migrations.runs (migration, started_at);


-- Functions of an older version go first: "create or replace" could not change what they take and answer. Those that
-- capture the changes of a table that is being rebuilt belong to that copy, and stay.
do $block$
declare
    old_function regprocedure;
begin
    for old_function in
        select p.oid
        from pg_catalog.pg_proc as p
        where p.pronamespace = 'rpc_migrations'::regnamespace and p.proname !~ '^capture_[0-9]+$'
    loop
        execute format('drop function %s', old_function);
    end loop;
end;
$block$;


-- The key of the advisory lock that keeps two sessions from being inside the same migration at once.
create or replace function rpc_migrations.lock_key(migration text) returns bigint
language sql immutable
set search_path = ''
as $function$
    select hashtextextended('rpc_migrations ' || migration, 0);
$function$;


-- How many rows a batch step should touch: what it wants, less two bits for each statement timeout that cut it before.
create or replace function rpc_migrations.batch_size(wanted bigint) returns bigint
language sql stable
set search_path = ''
as $function$
    select greatest(1, wanted >> least(coalesce(nullif(current_setting('rpc_migrations.shrink', true), '')::integer, 0), 40));
$function$;


-- Sessions that may be in the way of a lock: those whose transaction holds a lock on a table, the oldest first.
-- Never shows the text of a query. Only those that are older than the lock timeout can have caused it.
create or replace function rpc_migrations.lock_holders(relation regclass default null) returns jsonb
language sql volatile
set search_path = ''
as $function$
    select coalesce(jsonb_agg(to_jsonb(h) order by h.transaction_seconds desc nulls last), '[]')
    from (
        select
            a.pid,
            coalesce(a.usename, a.backend_type) as role,       -- autovacuum has no role
            a.state,
            round(extract(epoch from clock_timestamp() - a.xact_start)::numeric, 1) as transaction_seconds,
            string_agg(distinct l.relation::regclass::text, ', ') as relation,
            string_agg(distinct l.mode, ', ') as mode
        from pg_catalog.pg_locks as l
        inner join pg_catalog.pg_class as c on c.oid = l.relation
        inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        inner join pg_catalog.pg_stat_activity as a on a.pid = l.pid
        where
            l.granted
            and l.locktype = 'relation'
            and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
            and l.pid <> pg_backend_pid()
            and (l.relation = lock_holders.relation or (lock_holders.relation is null and n.nspname !~ '^pg_'))
        group by a.pid, a.usename, a.backend_type, a.state, a.xact_start
        order by a.xact_start
        limit 5
    ) as h;
$function$;


-- Who is inside this migration, for an answer "busy".
create or replace function rpc_migrations.busy(migration text) returns jsonb
language sql volatile
set search_path = ''
as $function$
    select jsonb_build_object(
        'state', 'busy',
        'holder', (
            select to_jsonb(h)
            from (
                select
                    l.pid,
                    a.state,
                    round(extract(epoch from clock_timestamp() - a.xact_start)::numeric, 1) as transaction_seconds
                from pg_catalog.pg_locks as l
                left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
                where
                    l.locktype = 'advisory' and l.granted and l.objsubid = 1
                    and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
                    and (l.classid::bigint << 32) | l.objid::bigint = rpc_migrations.lock_key(busy.migration)
                limit 1
            ) as h
        ),
        'run', (
            select to_jsonb(r)
            from rpc_migrations.runs as r
            where r.migration = busy.migration and r.ended_at is null
            order by r.started_at desc
            limit 1
        )
    );
$function$;


-- Runs a text in this transaction. The rows, as a JSON array of objects, where it is one statement that returns rows;
-- else the number of rows that its last statement affected. PostgreSQL itself tells which of the two it is: a text that
-- cannot be opened as a cursor is refused before any of it runs.
create or replace function rpc_migrations.run_sql(query text) returns jsonb
language plpgsql
set search_path = public, extensions, pg_temp
as $function$
declare
    cursor_name refcursor;
    current_row record;
    all_rows jsonb[] := '{}';
    affected bigint;
    returns_rows boolean := true;
begin
    begin
        open cursor_name for execute query;
    exception when invalid_cursor_definition then
        returns_rows := false;
    end;
    if not returns_rows then
        execute query;
        get diagnostics affected = row_count;
        return to_jsonb(affected);
    end if;
    loop
        fetch cursor_name into current_row;
        exit when not found;
        all_rows := array_append(all_rows, to_jsonb(current_row));
    end loop;
    close cursor_name;
    return to_jsonb(all_rows);
end;
$function$;


-- Null while a run may go on; or an answer "taken_over" when it has been ended: by a newer run that has taken its place (this
-- one was away for long: a suspended laptop), or by its own client (Ctrl-C). Locks nothing, so that a run can be ended
-- while a request of it is under way.
create or replace function rpc_migrations.taken_over(run uuid) returns jsonb
language sql volatile
set search_path = ''
as $function$
    select jsonb_build_object('state', 'taken_over', 'by', (
        select to_jsonb(newer)
        from rpc_migrations.runs as mine
        inner join rpc_migrations.runs as newer on newer.migration = mine.migration and newer.started_at > mine.started_at
        where mine.id = taken_over.run
        order by newer.started_at desc
        limit 1
    ))
    where
        taken_over.run is not null
        and not exists (select from rpc_migrations.runs as r where r.id = taken_over.run and r.ended_at is null);
$function$;


-- Notes that a run is alive. It locks the run's row until the commit, so it comes last in a request.
create or replace function rpc_migrations.touch_run(run uuid) returns void
language sql volatile
set search_path = ''
as $function$
    update rpc_migrations.runs as r
    set last_seen_at = clock_timestamp()
    where r.id = touch_run.run and r.ended_at is null;
$function$;


-- Runs one step of a migration exactly once, however often it is sent: the lock, the look into the journal, the step's
-- text and the journal row are one transaction. A batch step is one statement whose single row says whether it is
-- "done"; it is sent until it is. Answers an object with "state":
--   done        the step is done; "already" if it was so before this call
--   more        the batch took effect; send the step again
--   waiting     a lock was not to be had within the lock timeout; nothing was done (or, in a batch, only what is in
--               "rows"); send again after a pause
--   busy        another session is inside this migration; nothing was done
--   taken_over  this run has been ended, most likely by a newer one; nothing was done
-- (and execute_sql answers "conflict" where a serialization failure or a deadlock has undone all of it)
create or replace function rpc_migrations.run_step(
    query text, migration text, step text, checksum text, batch boolean default false, run uuid default null, shrink integer default 0
) returns jsonb
language plpgsql
set search_path = public, extensions, pg_temp
as $function$
declare
    entry rpc_migrations.journal;
    answer jsonb;
    first_row jsonb;
    is_done boolean := true;
    row_count bigint;
    began timestamptz := clock_timestamp();
begin
    if not pg_catalog.pg_try_advisory_xact_lock(rpc_migrations.lock_key(run_step.migration)) then
        return rpc_migrations.busy(run_step.migration);
    end if;
    answer := rpc_migrations.taken_over(run_step.run);
    if answer is not null then
        return answer;
    end if;

    entry := rpc_migrations.open_step(run_step.migration, run_step.step, run_step.checksum, run_step.run);
    if entry.finished_at is not null then
        return jsonb_build_object(
            'state', 'done', 'already', true, 'rows', entry.rows, 'seconds', entry.seconds, 'result', entry.result
        );
    end if;

    perform set_config('rpc_migrations.migration', run_step.migration, true);
    perform set_config('rpc_migrations.shrink', run_step.shrink::text, true);
    begin
        -- While we wait for a lock, everyone who comes after us waits too: so we wait for a moment only, and try again.
        perform set_config('lock_timeout', '100ms', true);
        answer := rpc_migrations.run_sql(run_step.query);
    exception when lock_not_available then
        return jsonb_build_object('state', 'waiting', 'rows', 0, 'holders', rpc_migrations.lock_holders());
    end;

    first_row := case when jsonb_typeof(answer) = 'array' then answer -> 0 end;
    if run_step.batch then
        if jsonb_typeof(first_row -> 'done') is distinct from 'boolean' or jsonb_array_length(answer) <> 1 then
            raise exception 'batch step "%" did not answer one row with a boolean column "done"', run_step.step
            using errcode = 'RM005',
                hint = 'Write the step as one statement that returns done (true when nothing is left) and, if you like, rows.';
        end if;
        is_done := (first_row ->> 'done')::boolean;
    end if;
    row_count := case
        when jsonb_typeof(answer) = 'number' then answer::bigint
        else coalesce((first_row ->> 'rows')::bigint, 0)
    end;

    update rpc_migrations.journal as j
    set
        calls = j.calls + 1,
        rows = j.rows + row_count,
        seconds = j.seconds + extract(epoch from clock_timestamp() - began),
        result = coalesce(first_row, j.result),
        finished_at = case when is_done then clock_timestamp() end
    where j.id = entry.id
    returning j.* into entry;

    return jsonb_build_object(
        'state', case when is_done then 'done' when first_row ? 'holders' and first_row -> 'holders' <> 'null' then 'waiting' else 'more' end,
        'already', false,
        'rows', row_count,
        'seconds', entry.seconds,
        'result', first_row,
        'holders', coalesce(first_row -> 'holders', 'null')
    );
end;
$function$;


-- Runs a step as run_step does and, in the same transaction, those that follow it: most steps take moments, and over a
-- long way a request takes longer than they do. It goes on only where that makes no difference to others:
--   - a step that is not done at once is the last one;
--   - a step that leaves something behind until the commit (see left_behind) is the last one;
--   - after two seconds, or thirty calls, it ends: the next step has almost all of a request's time;
--   - a step that fails is undone, told as "undone", and sent again by the client: as the first one it fails for good.
-- What leaves no lock behind (a grant, a function) is seen by others when the last step of the request is done.
-- "following" are objects with query, step, checksum and batch. Answers what run_step answers for the first step, with
-- "following": an array of what it answers for the others, and for further batches of the same, in their order, each with
-- its "step" and "call_seconds".
create or replace function rpc_migrations.run_steps(
    query text, migration text, step text, checksum text, batch boolean, run uuid, following jsonb
) returns jsonb
language plpgsql
set search_path = public, extensions, pg_temp
as $function$
declare
    steps jsonb := jsonb_build_array(jsonb_build_object(
        'query', run_steps.query, 'step', run_steps.step, 'checksum', run_steps.checksum, 'batch', run_steps.batch
    )) || run_steps.following;
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
    -- These two run_step does as well; they are not what a step leaves behind.
    perform set_config('lock_timeout', '100ms', true), pg_try_advisory_xact_lock(rpc_migrations.lock_key(run_steps.migration));
    left_before := rpc_migrations.left_behind();
    while next_step is not null loop
        step_began := clock_timestamp();
        begin
            answer := rpc_migrations.run_step(
                next_step ->> 'query', run_steps.migration, next_step ->> 'step', next_step ->> 'checksum',
                (next_step ->> 'batch')::boolean, run_steps.run
            );
            -- What is deferred would fail at the commit, and all steps with it.
            set constraints all immediate;
            -- A setting with a name of its own is listed nowhere.
            is_last := rpc_migrations.left_behind() is distinct from left_before
                or next_step ->> 'query' ~* '\mset_config\M|\mset\s+(local\s+|session\s+)?"?\w+"?\.';
        exception when others or query_canceled or assert_failure then
            if answers = '[]' then
                raise;
            end if;
            undone := jsonb_build_object('step', next_step ->> 'step', 'code', sqlstate, 'message', sqlerrm);
            exit;
        end;
        answers := answers || jsonb_build_array(answer || jsonb_build_object(
            'step', next_step ->> 'step', 'call_seconds', extract(epoch from clock_timestamp() - step_began)
        ));
        exit when is_last or answer ->> 'state' not in ('done', 'more')
            or clock_timestamp() > began + interval '2 seconds' or jsonb_array_length(answers) >= 30;
        place := place + (answer ->> 'state' = 'done')::integer;
        next_step := steps -> place;
    end loop;
    return (answers -> 0) || jsonb_build_object('following', answers - 0, 'undone', undone);
end;
$function$;


-- What this transaction keeps until its end and others could notice: locks on tables outside our own schema (temporary
-- ones and those that it has dropped as well), advisory locks, and settings. Not counted: what a reader holds on a table
-- that is not large, because what is done next with such a table takes a moment; and nextval, which nobody waits for and
-- which event triggers call (that of pg_graphql does at every DDL).
create or replace function rpc_migrations.left_behind() returns jsonb
language sql volatile
set search_path = ''
as $function$
    select jsonb_build_object(
        'locks', (
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
                    or (
                        l.locktype = 'relation'
                        and coalesce(n.nspname, '') not in ('rpc_migrations', 'pg_catalog', 'pg_toast', 'information_schema')
                        and (l.mode <> 'AccessShareLock' or pg_relation_size(l.relation) > 256000000)
                        and (c.relkind is distinct from 'S' or l.mode <> 'RowExclusiveLock')
                    )
                )
        ),
        'settings', (
            select jsonb_object_agg(s.name, s.setting)
            from pg_catalog.pg_settings as s
            where s.source = 'session'
        )
    );
$function$;


-- The step's current journal row, made where there is none. A step that has had an effect keeps its text: refused with
-- RM002 when it comes back with another one. A forward step ends what a finished rollback left in the journal.
create or replace function rpc_migrations.open_step(migration text, step text, checksum text, run uuid)
returns rpc_migrations.journal
language plpgsql
set search_path = ''
as $function$
declare
    entry rpc_migrations.journal;
begin
    select j.* into entry
    from rpc_migrations.journal as j
    where j.migration = open_step.migration and j.step = open_step.step and j.undone_at is null;
    if found then
        if entry.calls > 0 and entry.checksum <> open_step.checksum then
            raise exception 'step "%" of % was run with another text on %', open_step.step, open_step.migration, entry.started_at
            using errcode = 'RM002',
                hint = 'Put the step''s old text back; or roll the migration back and run it again; or put the change into a new step.';
        end if;
        update rpc_migrations.journal as j
        set run = open_step.run, checksum = open_step.checksum
        where j.id = entry.id and j.finished_at is null
        returning j.* into entry;
        if not found then
            select j.* into entry from rpc_migrations.journal as j
            where j.migration = open_step.migration and j.step = open_step.step and j.undone_at is null;
        end if;
        return entry;
    end if;

    if open_step.step !~ '^roll back: ' then
        update rpc_migrations.journal as j
        set undone_at = clock_timestamp()
        where j.migration = open_step.migration and j.step ~ '^roll back: ' and j.undone_at is null;
    end if;
    insert into rpc_migrations.journal (migration, step, checksum, run)
    values (open_step.migration, open_step.step, open_step.checksum, open_step.run)
    returning * into entry;
    return entry;
end;
$function$;


-- Registers a run, or answers "busy" while another one is under way: seen within the last "patience" seconds and not
-- among "dead" (runs whose process the caller knows to be gone). Sent again with the same id, it changes nothing.
create or replace function rpc_migrations.start_run(
    run uuid, migration text, action text, client text, pid integer, patience double precision, dead uuid default null
) returns jsonb
language plpgsql
set search_path = ''
as $function$
begin
    if not pg_try_advisory_xact_lock(rpc_migrations.lock_key(start_run.migration)) then
        return rpc_migrations.busy(start_run.migration);
    end if;
    if exists (select from rpc_migrations.runs as r where r.id = start_run.run) then
        return jsonb_build_object('state', 'done');
    end if;
    if exists (
        select from rpc_migrations.runs as r
        where
            r.migration = start_run.migration and r.ended_at is null and r.id is distinct from start_run.dead
            and r.last_seen_at > clock_timestamp() - make_interval(secs => start_run.patience)
    ) then
        return rpc_migrations.busy(start_run.migration);
    end if;
    update rpc_migrations.runs as r
    set ended_at = clock_timestamp(), outcome = 'taken over'
    where r.migration = start_run.migration and r.ended_at is null;
    insert into rpc_migrations.runs (id, migration, action, client, pid)
    values (start_run.run, start_run.migration, start_run.action, start_run.client, start_run.pid);
    return jsonb_build_object('state', 'done');
end;
$function$;


-- Notes how a run ended. An orphan of that run, a request whose client has gone, may still hold its row: whoever pressed
-- Ctrl-C need not wait for that.
create or replace function rpc_migrations.end_run(run uuid, outcome text, message text default null) returns void
language sql
set search_path = ''
set lock_timeout = '1s'
as $function$
    update rpc_migrations.runs as r
    set ended_at = clock_timestamp(), outcome = end_run.outcome, message = end_run.message
    where r.id = end_run.run and r.ended_at is null;
$function$;


-- Where a migration stands: its steps and its last ten runs, the newest first.
create or replace function rpc_migrations.status(migration text) returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_build_object(
        'steps', (
            select coalesce(jsonb_agg(to_jsonb(j) order by j.id), '[]')
            from rpc_migrations.journal as j
            where j.migration = status.migration and j.undone_at is null
        ),
        'runs', (
            select coalesce(jsonb_agg(to_jsonb(r) order by r.started_at desc), '[]')
            from (
                select
                    runs.*,
                    (
                        select jsonb_agg(
                            jsonb_build_object('step', j.step, 'rows', j.rows, 'seconds', j.seconds, 'checksum', j.checksum)
                            order by j.id
                        )
                        from rpc_migrations.journal as j
                        where j.run = runs.id
                    ) as steps
                from rpc_migrations.runs
                where runs.migration = status.migration
                order by runs.started_at desc
                limit 10
            ) as r
        ),
        'copy', (
            select jsonb_build_object(
                'id', c.id, 'state', c.state, 'table', format('%I.%I', c.schema_name, c.table_name),
                'backup', format('%I.%I', c.schema_name, c.backup_name), 'kept_as', c.kept_as,
                'unvalidated', c.unvalidated
            )
            from rpc_migrations.copies as c
            where c.migration = status.migration
            order by c.id desc
            limit 1
        )
    );
$function$;


-- What an answer says, in words, for whoever runs a file with psql.
create or replace function rpc_migrations.in_words(answer jsonb) returns text
language sql stable
set search_path = ''
as $function$
    select concat_ws(
        ', ',
        case
            when (in_words.answer ->> 'already')::boolean and in_words.answer ->> 'state' = 'done' then 'done before'
            when in_words.answer ->> 'state' = 'more' then 'goes on'
            else in_words.answer ->> 'state'
        end,
        to_char(nullif((in_words.answer ->> 'rows')::bigint, 0), 'FM999,999,999,999') || ' rows',
        round(100 * nullif((in_words.answer -> 'result' ->> 'progress')::numeric, 1)) || ' %',
        in_words.answer -> 'result' ->> 'message',
        (
            select 'for a lock: ' || string_agg(format('pid %s on %s', h ->> 'pid', h ->> 'relation'), '; ')
            from jsonb_array_elements(nullif(in_words.answer -> 'holders', 'null')) as h
        )
    );
$function$;


-- Between two calls of a step that is not done, in the SQL Editor or psql: a pause where a lock was not to be had, and an
-- error where waiting is of no use (in one transaction with others, "busy" does not pass).
create or replace function rpc_migrations.before_next_call(answer jsonb) returns void
language plpgsql
set search_path = ''
as $function$
begin
    case answer ->> 'state'
        when 'more' then
            return;
        when 'waiting' then
            perform pg_sleep(0.2);
        else
            raise exception 'another session is inside this migration: %', answer
            using errcode = 'RM005', hint = 'Wait until it has ended, then run the same file again.';
    end case;
end;
$function$;
