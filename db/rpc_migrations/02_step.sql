-- A step, exactly once. The step's text, the look into the journal and the journal row are one transaction, under an advisory lock
-- that belongs to the migration. So a step takes effect exactly once however often it is sent: a client that got no answer sends
-- it again, and is told that it is done. Two sessions are never inside the same migration at once.

-- The key of the advisory lock that keeps two sessions from being inside the same migration at once.
create or replace function rpc_migrations.lock_key(migration text) returns bigint
language sql immutable
set search_path = ''
as $function$
    select hashtextextended('rpc_migrations ' || migration, 0);
$function$;


-- How many rows a batch step should touch: as many as it wants, but a quarter for each statement timeout that has cut it before.
create or replace function rpc_migrations.batch_size(wanted bigint) returns bigint
language sql stable
set search_path = ''
as $function$
    select greatest(1, wanted >> least(coalesce(nullif(current_setting('rpc_migrations.shrink', true), '')::integer, 0), 40));
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
                select l.pid, a.state
                from pg_catalog.pg_locks as l
                left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
                where
                    l.locktype = 'advisory' and l.granted and l.objsubid = 1
                    and l.pid <> pg_backend_pid()  -- start_run has it for a moment
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


-- Whether a step belongs to a rollback: these stand in the journal beside those of their migration.
create or replace function rpc_migrations.is_of_a_rollback(step text) returns boolean
language sql immutable
set search_path = ''
as $function$
    select step ~ '^roll back: ';
$function$;


-- Whether a step closes the way back: these stand there, too.
create or replace function rpc_migrations.is_of_finishing(step text) returns boolean
language sql immutable
set search_path = ''
as $function$
    select step ~ '^close the way back: ';
$function$;


-- Marks the current journal rows of a migration's own steps, or of its rollback's, as undone: they can be run again.
create or replace function rpc_migrations.mark_undone(migration text, of_a_rollback boolean default false) returns void
language sql
set search_path = ''
as $function$
    update rpc_migrations.journal as j
    set undone_at = clock_timestamp()
    where j.migration = mark_undone.migration and j.undone_at is null and rpc_migrations.is_of_a_rollback(j.step) = of_a_rollback;
$function$;


-- The step's current journal row, inserted if there is none. A step that has taken effect keeps its text: one that comes back
-- with another is refused with RM002. "checksum" may be several, with blanks between: the first one is recorded, and a row with
-- any of them stands for a text with the same effect. A forward step marks the steps of an earlier rollback as undone.
create or replace function rpc_migrations.open_step(migration text, step text, checksum text, run uuid)
returns rpc_migrations.journal
language plpgsql
set search_path = ''
as $function$
declare
    entry rpc_migrations.journal;
    copy rpc_migrations.copies;
begin
    select j.* into entry
    from rpc_migrations.journal as j
    where j.migration = open_step.migration and j.step = open_step.step and j.undone_at is null;
    if found then
        if entry.calls > 0 and entry.checksum <> all (string_to_array(open_step.checksum, ' ')) then
            raise exception 'step "%" of % was run with another text on %', open_step.step, open_step.migration, entry.started_at
            using errcode = 'RM002',
                hint = 'Put the step''s old text back; or roll the migration back and run it again; or put the change into a new step.';
        end if;
        update rpc_migrations.journal as j
        set run = open_step.run, checksum = split_part(open_step.checksum, ' ', 1)
        where j.id = entry.id and j.finished_at is null
        returning j.* into entry;
        if not found then
            select j.* into entry from rpc_migrations.journal as j
            where j.migration = open_step.migration and j.step = open_step.step and j.undone_at is null;
        end if;
        return entry;
    end if;

    if not rpc_migrations.is_of_a_rollback(open_step.step) then
        select c.* into copy from rpc_migrations.copies as c where c.migration = open_step.migration and c.ended_at is null;
        if found and not exists (select from rpc_migrations.journal as j where j.migration = open_step.migration and j.undone_at is null) then
            raise exception 'the journal has no steps of %, although it has rebuilt % or is doing so', open_step.migration, rpc_migrations.name_in_use(copy)
            using errcode = 'RM005', hint = 'Its rows of rpc_migrations.journal were deleted. Roll the migration back, then run it again.';
        end if;
        perform rpc_migrations.mark_undone(open_step.migration, of_a_rollback => true);
    end if;
    insert into rpc_migrations.journal (migration, step, checksum, run)
    values (open_step.migration, open_step.step, split_part(open_step.checksum, ' ', 1), open_step.run)
    returning * into entry;
    return entry;
end;
$function$;


-- What a step's text has returned: its first row (null: none), whether the step is done, and how many rows it is about. Raises RM005 for
-- a batch step that does not say whether it is done, and for another step that says it is not.
create or replace function rpc_migrations.read_answer(
    answer jsonb, step text, batch boolean, out first_row jsonb, out is_done boolean, out row_count bigint
)
language plpgsql
set search_path = ''
as $function$
declare
    rows_returned integer := case when jsonb_typeof(answer) = 'array' then jsonb_array_length(answer) end;
    tells boolean;  -- how the step is getting on
begin
    first_row := case when jsonb_typeof(answer) = 'array' then answer -> 0 end;
    is_done := true;
    -- A row of the application's own table may have a column "done" as well: then it has others, too.
    tells := batch or not exists (
        select from jsonb_object_keys(first_row) as k
        where k <> all ('{done,rows,progress,message,holders,ends_request,kept_as}')
    );
    if batch then
        if jsonb_typeof(first_row -> 'done') is distinct from 'boolean' or rows_returned <> 1 then
            raise exception 'batch step "%" did not return one row with a boolean column "done"', step
            using errcode = 'RM005',
                hint = 'Write the step as one statement that returns done (true when nothing is left) and, if you like, rows.';
        end if;
        is_done := (first_row ->> 'done')::boolean;
    elsif tells and first_row -> 'done' = 'false' and rows_returned = 1 then
        raise exception 'step "%" says that it is not done, but is not a batch step', step
        using errcode = 'RM005', hint = format('Write its line as: -- step: %s (batch)', step);
    end if;
    row_count := case
        when jsonb_typeof(answer) = 'number' then answer::bigint
        when tells and first_row ->> 'rows' ~ '^\d{1,18}$' then (first_row ->> 'rows')::bigint
        else 0
    end;
end;
$function$;


-- Runs a step's text. Where it could not be run now, "postponed" is what run_step answers, and nothing of it remains.
create or replace function rpc_migrations.try_text(query text, separator text, out answer jsonb, out postponed jsonb)
language plpgsql
set search_path = ''
as $function$
declare
    place text;
begin
    if separator is null and rpc_migrations.adds_a_key(query) then
        answer := rpc_migrations.declare_key(query);
    else
        answer := rpc_migrations.run_text(query, separator);
        perform rpc_migrations.defer_foreign_keys();
    end if;
exception when lock_not_available or internal_error then
    if sqlstate <> '55P03' and not rpc_migrations.was_altered_meanwhile(sqlerrm) then  -- internal_error is all of class XX
        raise;
    end if;
    get stacked diagnostics place = pg_exception_detail;
    postponed := jsonb_build_object(
        'state', 'waiting', 'rows', 0, 'result', jsonb_build_object('message', rpc_migrations.what_was_waited_for(sqlerrm)),
        'holders', case when sqlstate = '55P03' then rpc_migrations.lock_holders() else '[]' end,
        'details', concat_ws(e'\n', sqlerrm, nullif(place, '')));
when disk_full then
    if not rpc_migrations.give_room_back() then
        raise;
    end if;
    postponed := jsonb_build_object('state', 'disk_full', 'rows', 0, 'code', sqlstate, 'message', sqlerrm);
end;
$function$;


-- Notes in a step's journal row what a call has done ("told": see read_answer), and which tables it has made. Raises RM005 if the call has
-- deleted rows of the journal, of which there were so many up to this one ("rows_before").
create or replace function rpc_migrations.note_call(
    entry rpc_migrations.journal, told record, began timestamptz, rows_before bigint, tables_before text[]
) returns rpc_migrations.journal
language plpgsql
set search_path = ''
as $function$
declare
    noted rpc_migrations.journal;
begin
    update rpc_migrations.journal as j
    set
        calls = j.calls + 1,
        rows = j.rows + told.row_count,
        seconds = j.seconds + extract(epoch from clock_timestamp() - began),
        result = coalesce(told.first_row, j.result),
        finished_at = case when told.is_done then clock_timestamp() end,
        made = coalesce(j.made, '{}') || array(
            select n from unnest(rpc_migrations.new_tables()) as n where n <> all (tables_before)
        )
    where j.id = entry.id
    returning j.* into noted;
    -- Those of other migrations, which go on meanwhile, may become more.
    if not found or rows_before > (select count(*) from rpc_migrations.journal as j where j.id <= entry.id) then
        raise exception 'step "%" has deleted rows of rpc_migrations.journal', entry.step
        using errcode = 'RM005', hint = 'Nothing of it remains. Leave the journal alone: without its rows steps would be run twice.';
    end if;
    return noted;
end;
$function$;


-- Whether an error (XX000) says that what a statement alters was altered by a transaction that committed while the statement waited for it.
-- GRANT on a function, and up to PostgreSQL 17 on anything, asks for no lock that would keep the two apart. Nothing of it remains, and the
-- next attempt does not meet it again.
create or replace function rpc_migrations.was_altered_meanwhile(error text) returns boolean
language sql immutable
set search_path = ''
as $function$
    select error ~ '(^|: )tuple concurrently (updated|deleted)$';
$function$;


-- Runs one step of a migration exactly once, however often it is sent: the lock, the look into the journal, the step's
-- text and the journal row are one transaction. A batch step is one statement whose single row says whether it is
-- "done"; it is sent until it is. "separator" is that of run_statements, "record" what record_for_cli is to note when the step is done,
-- "later" the steps that follow in the file, for a rehearsal (see rpc_migrations.rehearse). Answers an object with "state":
--   done        the step is done; "already" if it was so before this call
--   more        the batch took effect; send the step again
--   waiting     a lock was not to be had within the lock timeout, or somebody has altered the same thing meanwhile; nothing was done (or,
--               in a batch, only what is in "rows"); send again after a pause, or at once if the result says "ends_request"
--   busy        another session is inside this migration; nothing was done
--   disk_full   some room was given back; sent again, the step gives back all that the copy has taken, and after that begins anew
--   taken_over  this run has been ended, most likely by a newer one; nothing was done
-- (and execute_sql answers "conflict" where a serialization failure or a deadlock has undone all of it)
create or replace function rpc_migrations.run_step(
    query text, migration text, step text, checksum text, batch boolean default false, run uuid default null, shrink integer default 0,
    separator text default null, record jsonb default null, later jsonb default null
) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    entry rpc_migrations.journal;
    rows_before bigint;
    tables_before text[];
    stopped jsonb;
    tried record;
    told record;
    began timestamptz := clock_timestamp();
begin
    if not pg_catalog.pg_try_advisory_xact_lock(rpc_migrations.lock_key(run_step.migration)) then
        return rpc_migrations.busy(run_step.migration);
    end if;
    stopped := rpc_migrations.taken_over(run_step.run);
    if stopped is not null then
        return stopped;
    end if;

    entry := rpc_migrations.open_step(run_step.migration, run_step.step, run_step.checksum, run_step.run);
    if entry.finished_at is not null then
        return jsonb_build_object(
            'state', 'done', 'already', true, 'rows', entry.rows, 'seconds', entry.seconds, 'result', entry.result
        );
    end if;
    perform rpc_migrations.refuse_read_only(r.action) from rpc_migrations.runs as r where r.id = run_step.run;

    rows_before := (select count(*) from rpc_migrations.journal as j where j.id <= entry.id);
    tables_before := rpc_migrations.new_tables();
    perform set_config('rpc_migrations.migration', run_step.migration, true);
    perform set_config('rpc_migrations.shrink', run_step.shrink::text, true);
    perform set_config('rpc_migrations.later', coalesce(run_step.later::text, ''), true);
    tried := rpc_migrations.try_text(run_step.query, run_step.separator);
    if coalesce(tried.postponed -> 'holders', tried.answer -> 0 -> 'holders') @> '[{}]' then
        perform rpc_migrations.end_autovacuum(run_step.query);
    end if;
    if tried.postponed is not null then
        return tried.postponed;
    end if;

    told := rpc_migrations.read_answer(tried.answer, run_step.step, run_step.batch);
    entry := rpc_migrations.note_call(entry, told, began, rows_before, tables_before);
    if told.is_done and not rpc_migrations.is_of_a_rollback(run_step.step) and not rpc_migrations.is_of_finishing(run_step.step) then
        perform rpc_migrations.note_as_made(run_step.migration, began);
    end if;
    if told.is_done and run_step.record is not null then
        perform rpc_migrations.record_for_cli(run_step.record);
    end if;
    return jsonb_build_object(
        'state', case when told.is_done then 'done' when told.first_row -> 'holders' <> 'null' then 'waiting' else 'more' end,
        'already', false,
        'rows', told.row_count,
        'seconds', entry.seconds,
        'result', told.first_row,
        'holders', coalesce(case when not told.is_done then told.first_row -> 'holders' end, 'null')
    );
end;
$function$;
