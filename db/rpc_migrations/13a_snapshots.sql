-- Snapshots that are older than the new table's last rows. A statement that began before these were committed does not see them,
-- whenever it first looks at the table: not only in "repeatable read", but also through a STABLE function or a policy, which use
-- the snapshot of the statement around them. So the swap is not tried before such statements are over. They are noted once, when
-- the last replay has been committed, and never added to: of those that come later all see what was replayed.

-- Who has a snapshot in this database now, by process and transaction: [{pid, transaction}]. Besides clients these are workers that run
-- statements (the jobs of an extension, what a subscription's triggers do), and those that send changes: the first copy of a
-- subscription's table is theirs to read. While they send they are in no transaction, or have no snapshot. Autovacuum has no role.
create or replace function rpc_migrations.open_snapshots() returns jsonb
language sql volatile
set search_path = ''
as $function$
    select coalesce(jsonb_agg(jsonb_build_object('pid', a.pid, 'transaction', l.virtualxid)), '[]')
    from pg_catalog.pg_stat_activity as a
    inner join pg_catalog.pg_locks as l on l.pid = a.pid and l.locktype = 'virtualxid' and l.mode = 'ExclusiveLock'
    where
        a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_xmin is not null and a.usename is not null;
$function$;


-- The noted snapshots that are still there; waits for up to half a second until there are none.
create or replace function rpc_migrations.remaining_snapshots(noted jsonb) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    began timestamptz := clock_timestamp();
    remaining jsonb := noted;
begin
    loop
        perform pg_stat_clear_snapshot();  -- or the activity stays what it was when this transaction first looked at it
        select coalesce(jsonb_agg(n.value), '[]') into remaining
        from jsonb_array_elements(remaining) as n
        where rpc_migrations.open_snapshots() @> jsonb_build_array(n.value);
        exit when remaining = '[]' or clock_timestamp() > began + interval '0.5 seconds';
        perform pg_sleep(0.005);
    end loop;
    return remaining;
end;
$function$;


-- Who has these snapshots, in the form of lock_holders.
create or replace function rpc_migrations.snapshot_holders(snapshots jsonb) returns jsonb
language sql volatile
set search_path = ''
as $function$
    select coalesce(jsonb_agg(jsonb_build_object(
        'pid', a.pid, 'role', a.usename, 'state', a.state, 'relation', 'an older snapshot',
        'transaction_seconds', round(extract(epoch from clock_timestamp() - a.xact_start)::numeric, 1)
    )), '[]')
    from jsonb_to_recordset(snapshots) as s (pid integer)
    inner join pg_catalog.pg_stat_activity as a on a.pid = s.pid;
$function$;


-- An option of the run that works on the current migration, or of the session (set rpc_migrations.NAME = ..., for psql).
create or replace function rpc_migrations.option(name text, otherwise text) returns text
language sql stable
set search_path = ''
as $function$
    select coalesce(
        nullif(current_setting('rpc_migrations.' || name, true), ''),
        (
            select r.options ->> name
            from rpc_migrations.runs as r
            where r.migration = current_setting('rpc_migrations.migration', true) and r.ended_at is null
            order by r.started_at desc limit 1
        ),
        otherwise
    );
$function$;


-- How many milliseconds an attempt to swap may hold locks (MIGRATION_LOCK_BUDGET).
create or replace function rpc_migrations.lock_budget() returns integer
language plpgsql stable
set search_path = ''
as $function$
begin
    return rpc_migrations.option('lock_budget', '200');
end;
$function$;


-- All that comes before an attempt to swap: the log is replayed, the source is the one that was compared, that is committed, and older
-- snapshots are gone. Where it is not ready it answers who is waited for, or that the request shall end here so that what it did is
-- committed ("holders" as well: it is to be called again at once, as more is written with every moment). In one transaction with all the
-- rest, as in the SQL Editor, there is nothing that could be committed or waited for.
create or replace function rpc_migrations.prepare_swap(
    copy rpc_migrations.copies, out ready boolean, out rows bigint, out holders jsonb, out ends_request boolean, out message text
)
language plpgsql
set search_path = ''
as $function$
declare
    is_done boolean;
    noted jsonb := copy.snapshots;
begin
    ready := false;
    rows := 0;
    ends_request := false;
    perform rpc_migrations.check_log(copy);
    if not copy.caught_up then
        select r.done, r.rows, r.holders into is_done, rows, holders from rpc_migrations.replay() as r;
        if not is_done then
            message := case when holders is null then 'catching up with what was written since' end;
            return;
        end if;
        update rpc_migrations.copies as c set caught_up = true, snapshots = null where c.id = copy.id;
        noted := null;
    end if;
    if not rpc_migrations.is_as_compared(copy) then
        perform rpc_migrations.compare();
    end if;
    if current_setting('rpc_migrations.replayed', true) = copy.id::text then
        ready := coalesce(current_setting('rpc_migrations.asked_to_commit', true), '') = copy.id::text;
        ends_request := true;
        perform set_config('rpc_migrations.asked_to_commit', copy.id::text, true);
        return;
    end if;
    if rpc_migrations.option('ignore_snapshots', 'false')::boolean then
        noted := '[]';
    end if;
    noted := rpc_migrations.remaining_snapshots(coalesce(noted, rpc_migrations.open_snapshots()));
    update rpc_migrations.copies as c set snapshots = noted where c.id = copy.id;
    if noted <> '[]' then
        holders := rpc_migrations.snapshot_holders(noted);
        message := 'statements that began before the last rows were replayed (--ignore-snapshots goes on; they may miss rows)';
        return;
    end if;
    if rpc_migrations.has_entries(copy, 25) then
        rows := rpc_migrations.catch_up(copy);
        holders := '[]';
        ends_request := true;
        message := rpc_migrations.too_many_changes(25);
        return;
    end if;
    ready := true;
end;
$function$;


-- Whether the log has more entries than this many for each millisecond of the lock budget.
create or replace function rpc_migrations.has_entries(copy rpc_migrations.copies, for_each_ms integer) returns boolean
language sql
set search_path = ''
as $function$
    select rpc_migrations.has_more_entries(copy, for_each_ms * rpc_migrations.lock_budget()::bigint);
$function$;


-- Why there was no attempt, for a message.
create or replace function rpc_migrations.too_many_changes(for_each_ms integer) returns text
language sql stable
set search_path = ''
as $function$
    select format('a moment at which the application has written no more than %s changes since the last replay',
        trim(to_char(for_each_ms * rpc_migrations.lock_budget()::bigint, '999,999,999')));
$function$;


-- Within an attempt, before the application's tables are locked: replays what was written while the attempt was prepared, so that little
-- is left to be done under the lock. Raises RM098 if that is no little: then nobody has waited for this attempt.
-- A few entries are left for the lock: they take less time than another look at the log.
create or replace function rpc_migrations.replay_before_locks(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if rpc_migrations.has_entries(copy, 1) then
        perform rpc_migrations.replay();
    end if;
    if rpc_migrations.has_entries(copy, 5) then
        raise exception '%', rpc_migrations.too_many_changes(5) using errcode = 'RM098';
    end if;
end;
$function$;


-- Replays once more what has come in the meantime; snapshots are noted anew when that has been committed. Returns the rows.
create or replace function rpc_migrations.catch_up(copy rpc_migrations.copies) returns bigint
language plpgsql
set search_path = ''
as $function$
declare
    replayed record;
begin
    select r.* into replayed from rpc_migrations.replay() as r;
    update rpc_migrations.copies as c set caught_up = replayed.done, snapshots = null where c.id = copy.id;
    return replayed.rows;
end;
$function$;
