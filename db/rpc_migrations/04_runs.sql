-- Runs: who works on a migration, and where it stands. The journal says what was done; a run says who is doing it, so that a
-- second person waits instead of getting in the way, and nobody waits for ever for a run that was killed.

-- Raises RM001 for a migration while the database is set to take no writes, which may also come in the middle of a run: PostgREST's
-- transactions are "read write" whatever the default is. A rollback or finishing makes room.
create or replace function rpc_migrations.refuse_read_only(action text) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if refuse_read_only.action = 'migrate' and current_setting('default_transaction_read_only')::boolean then
        raise exception 'the database is set to take no writes (default_transaction_read_only)'
        using errcode = 'RM001', hint = 'Nothing is changed meanwhile. Supabase sets this where the disk is nearly full; others do while a project is '
            'moved, and what is written then is lost there. See the project''s dashboard; when writes are allowed again, run the same command again.';
    end if;
end;
$function$;


-- Registers a run, or returns "busy" while another one is under way: one seen within the last "patience" seconds, other than
-- "dead" (a run whose process the caller knows to be gone). Called again with the same id, it changes nothing.
create or replace function rpc_migrations.start_run(
    run uuid, migration text, action text, client text, pid integer, patience double precision, dead uuid default null,
    options jsonb default '{}'
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
            and abs(extract(epoch from clock_timestamp() - r.last_seen_at)) < start_run.patience  -- the clock may have been set back
    ) then
        return rpc_migrations.busy(start_run.migration);
    end if;
    perform rpc_migrations.refuse_read_only(start_run.action);
    update rpc_migrations.runs as r
    set ended_at = clock_timestamp(), outcome = 'taken over'
    where r.migration = start_run.migration and r.ended_at is null;
    insert into rpc_migrations.runs (id, migration, action, client, pid, options)
    values (start_run.run, start_run.migration, start_run.action, start_run.client, start_run.pid, start_run.options);
    return jsonb_build_object('state', 'done');
end;
$function$;


-- Null while a run may go on; "taken_over" after it has been ended: by a newer run that has taken its place (this one was gone
-- for long, on a suspended laptop say), or by its own client (Ctrl-C). Locks nothing, so that a run can be ended while one of
-- its requests is under way.
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


-- The replica or replication slot that is furthest behind, {name, bytes}; null: there is none. WAL that a slot keeps stays on the
-- disk, and its reader gets no other changes before it. Notes that the run is alive.
create or replace function rpc_migrations.replication_lag(run uuid) returns jsonb
language sql volatile
set search_path = ''
as $function$
    select rpc_migrations.touch_run(replication_lag.run);
    select jsonb_build_object('name', l.name, 'bytes', l.bytes::bigint)
    from (
        select format('the replication slot %s', s.slot_name) as name, pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) as bytes
        from pg_catalog.pg_replication_slots as s
        where s.restart_lsn is not null
        union all
        select format('the replica %s', coalesce(nullif(r.application_name, ''), r.pid::text)), pg_wal_lsn_diff(pg_current_wal_lsn(), r.replay_lsn)
        from pg_catalog.pg_stat_replication as r
        where r.replay_lsn is not null
    ) as l
    order by l.bytes desc
    limit 1;
$function$;


-- Notes how a run ended. A request of that run whose client is gone may still lock its row: whoever pressed Ctrl-C need not wait
-- for long, hence the timeout.
create or replace function rpc_migrations.end_run(run uuid, outcome text, message text default null) returns void
language sql
set search_path = ''
set lock_timeout = '1s'
as $function$
    update rpc_migrations.runs as r
    set ended_at = clock_timestamp(), outcome = end_run.outcome, message = end_run.message
    where r.id = end_run.run and r.ended_at is null;
$function$;


-- Called when a run continues after one that was told to stop before the swap: the last replay and the comparison, which are the
-- "steps", are to be done again, because much may have been written since.
create or replace function rpc_migrations.repeat_comparison(migration text, steps text[]) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform pg_advisory_xact_lock(rpc_migrations.lock_key(repeat_comparison.migration));
    update rpc_migrations.copies as c
    set compared_at = null, caught_up = false, snapshots = null
    where c.migration = repeat_comparison.migration and c.state = 'copied' and c.ended_at is null;
    if found then
        update rpc_migrations.journal as j
        set undone_at = clock_timestamp()
        where j.migration = repeat_comparison.migration and j.step = any (repeat_comparison.steps) and j.undone_at is null;
    end if;
end;
$function$;


-- How many changes wait to be replayed, counted up to 100,000; null if there is no log.
create or replace function rpc_migrations.log_entries(copy bigint) returns bigint
language plpgsql stable
set search_path = ''
as $function$
declare
    entries bigint;
begin
    if to_regclass(format('rpc_migrations.log_%s', copy)) is null then
        return null;
    end if;
    execute format('select count(*) from (select from rpc_migrations.log_%s limit 100000) as l', copy) into entries;
    return entries;
exception when undefined_table then  -- meanwhile
    return null;
end;
$function$;


-- A migration's last copy of a table, over or under way; null if it has made none.
create or replace function rpc_migrations.status_of_copy(migration text) returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_build_object(
        'id', c.id, 'state', c.state, 'table', format('%I.%I', c.schema_name, c.table_name),
        'backup', case when c.old_table is not null and c.state <> 'finished' then format('%I.%I', c.schema_name, c.backup_name) end,
        'finished_at', case when c.state = 'finished' then c.ended_at end,
        'restored', c.restored_at is not null,
        'kept_as', case when c.new_table = to_regclass(c.kept_as)::oid then c.kept_as end,
        'unvalidated', c.unvalidated, 'attempts', c.attempts, 'longest_attempt', round(c.longest_attempt::numeric, 3),
        'progress', case when c.state = 'copying' and c.end_block > 0 then round(c.next_block::numeric / c.end_block, 4) end,
        'log_entries', rpc_migrations.log_entries(c.id),
        'log_bytes', pg_total_relation_size(to_regclass(format('rpc_migrations.log_%s', c.id)))
    )
    from rpc_migrations.copies as c
    where c.migration = status_of_copy.migration
    order by c.id desc
    limit 1;
$function$;


-- Where a migration stands: its steps, its last ten runs with theirs, the newest first, and its last copy of a table.
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
        'copy', rpc_migrations.status_of_copy(status.migration)
    );
$function$;


-- A number of rows as the scripts write it: 1 row, 3,000 rows. Null for null.
create or replace function rpc_migrations.rows_in_words(rows bigint) returns text
language sql immutable
set search_path = ''
as $function$
    select to_char(rows_in_words.rows, 'FM999,999,999,990') || case rows_in_words.rows when 1 then ' row' else ' rows' end;
$function$;


-- An answer of run_step in words, for whoever runs a file with psql.
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
        rpc_migrations.rows_in_words(nullif((in_words.answer ->> 'rows')::bigint, 0)),
        round(100 * nullif(case when jsonb_typeof(r.result -> 'progress') = 'number' then (r.result ->> 'progress')::numeric end, 1)) || ' %',
        case when jsonb_typeof(r.result -> 'message') = 'string' then r.result ->> 'message' end,
        (
            select 'for a lock: ' || string_agg(format('%s on %s', coalesce('pid ' || (h ->> 'pid'), h ->> 'state'), h ->> 'relation'), '; ')
            from jsonb_path_query(in_words.answer, '$.holders[*] ? (@.type() == "object")') as h
        )
    )
    from (select in_words.answer -> 'result' as result) as r;  -- may be a row of the application's own, whose columns hold anything
$function$;


-- Whether one of the sessions that an answer names waits for this transaction, itself or by way of others.
create or replace function rpc_migrations.holders_wait_for_us(answer jsonb) returns boolean
language sql volatile
set search_path = ''
as $function$
    with recursive waiting (pid) as (
        select (h ->> 'pid')::integer from jsonb_path_query(answer, '$.holders[*] ? (@.pid != null)') as h
        union
        select b.pid from waiting as w cross join lateral unnest(pg_blocking_pids(w.pid)) as b (pid) where w.pid <> pg_backend_pid()
    )
    select exists (select from waiting as w where w.pid = pg_backend_pid());
$function$;


-- Called between two calls of a step that is not done, in the SQL Editor or psql: pauses if a lock was not to be had, and raises an
-- error if waiting is of no use. Within one transaction, "busy" would never end; and nor would it end that whoever has a lock waits for one
-- of ours: PostgreSQL does not notice, because we do not wait for long. "waiting_since" is what the last call for this step returned.
create or replace function rpc_migrations.before_next_call(answer jsonb, inout waiting_since timestamptz)
language plpgsql
set search_path = ''
as $function$
begin
    case answer ->> 'state'
        when 'more' then
            waiting_since := null;
        when 'waiting' then
            waiting_since := coalesce(waiting_since, clock_timestamp());
            if clock_timestamp() > waiting_since + interval '5 seconds' and rpc_migrations.holders_wait_for_us(answer) then
                raise exception 'another session waits for this transaction, and has a lock that this one needs: %', rpc_migrations.in_words(answer)
                using errcode = 'deadlock_detected', hint = 'Nothing was changed. Run the same file again when fewer people use these tables; or run '
                    'the migration by its script, or by the file for psql that commits between its calls (--write-sql --online).';
            end if;
            perform pg_sleep(case when answer -> 'result' -> 'ends_request' = 'true' then 0 else 0.2 end);
        when 'disk_full' then
            raise exception 'the disk is full: %', answer ->> 'message'
            using errcode = 'disk_full', hint = 'Roll the migration back, which gives back the room that the copy has taken; or make room and '
                'run the same file again: the copy begins anew.';
        else
            raise exception 'another session is inside this migration%', coalesce(': backend ' || (answer -> 'holder' ->> 'pid'), '')
            using errcode = 'RM005', hint = 'Wait until it has ended, then run the same file again.';
    end case;
end;
$function$;
