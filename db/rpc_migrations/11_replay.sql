-- The replay: for every key in the log, the target's row is made equal to the source's current one, or deleted. It does not
-- matter in which order, nor how often.

-- Replays the log until little is left of it, for about a second. A conflict with a unique index or a foreign key may be due to a
-- change that is in the log but not among the entries taken, so it is no error here: the batch is undone, and the next one takes
-- more. If it was all that is in the log, the target cannot hold these rows (RM001; but a parent may just have been deleted). The swap
-- replays all that is left at once, which has to fit. If somebody locks a row of the target, batches get smaller until only that row's
-- entry is left, and who that is is returned ("holders"). Likewise if the target cannot hold a row, which is then named (RM001). No
-- batch gets as small as one that has met a conflict ("too_few"), or the two would take turns without end.
create or replace function rpc_migrations.replay(out done boolean, out rows bigint, out holders jsonb, out message text)
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    began timestamptz := clock_timestamp();
    entries bigint := rpc_migrations.batch_size(5000);
    too_few bigint := 0;
    taken bigint;
    conflict text;
begin
    rows := 0;
    done := copy.source is null or copy.state = 'copying';
    if done then
        return;
    end if;
    perform rpc_migrations.quiet_triggers(copy, copy.target);
    perform rpc_migrations.hold_source(copy);
    perform rpc_migrations.replay_truncation(copy);
    while not done and clock_timestamp() < began + interval '1 second' loop
        begin
            taken := rpc_migrations.replay_past_checks(copy, entries);
            rows := rows + taken;
            if taken > 0 then
                update rpc_migrations.copies as c set has_changes = true where c.id = copy.id and c.state = 'rolling back' and not c.has_changes;
                perform set_config('rpc_migrations.replayed', copy.id::text, true);
            end if;
            done := taken < least(entries, 500);
            message := null;
            too_few := 0;
        exception
            when unique_violation or exclusion_violation or foreign_key_violation then
                get stacked diagnostics conflict = pg_exception_detail;
                if sqlstate <> '23503' and not rpc_migrations.has_more_entries(copy, entries) then
                    perform rpc_migrations.refuse_values(copy, format('%s (%s)', sqlerrm, conflict));
                end if;
                message := sqlerrm;
                done := entries >= 80000;
                too_few := entries;
                entries := entries * 4;
            when data_exception or check_violation or not_null_violation or program_limit_exceeded then
                if entries = 1 or greatest(entries / 4, 1) <= too_few then
                    perform rpc_migrations.refuse_entry_among(copy, entries);
                end if;
                entries := greatest(entries / 4, 1);
            when lock_not_available then
                if entries = 1 or greatest(entries / 4, 1) <= too_few then
                    holders := rpc_migrations.lock_holders(copy.target);
                    exit;
                end if;
                entries := greatest(entries / 4, 1);
        end;
    end loop;
end;
$function$;


-- Whether the log has more entries than so many.
create or replace function rpc_migrations.has_more_entries(copy rpc_migrations.copies, entries bigint) returns boolean
language plpgsql
set search_path = ''
as $function$
declare
    has_more boolean;
begin
    execute format('select count(*) > $1 from (select from rpc_migrations.log_%s limit $1 + 1) as l', copy.id) into has_more using entries;
    return has_more;
end;
$function$;


-- Replays a number of entries as replay_entries does, even if rows no longer hold to a check of the target that they held to when they were
-- written, because it looks at the clock or into another table: such a check is not valid afterwards.
create or replace function rpc_migrations.replay_past_checks(copy rpc_migrations.copies, entries bigint) returns bigint
language plpgsql
set search_path = ''
as $function$
declare
    taken bigint;
    broken text;
    put_back text;
    statements text[] := '{}';
begin
    while taken is null loop
        begin
            taken := rpc_migrations.replay_entries(copy, entries);
        exception when check_violation then
            get stacked diagnostics broken = constraint_name;
            put_back := rpc_migrations.check_of_both(copy, broken);
            if put_back is null then
                raise;
            end if;
            execute format('alter table %s drop constraint %I', copy.target::regclass, broken);
            statements := statements || put_back;
        end;
    end loop;
    perform rpc_migrations.execute_each(statements);
    return taken;
end;
$function$;


-- The statement that makes a check of the target again, not valid, if the source has the same one. Null if it has not: rows that the
-- application writes may then never hold to it.
create or replace function rpc_migrations.check_of_both(copy rpc_migrations.copies, check_name text) returns text
language sql stable
set search_path = ''
as $function$
    select format('alter table %1$s add constraint %2$I %3$s not valid; comment on constraint %2$I on %1$s is %4$L',
        copy.target::regclass, t.conname, regexp_replace(rpc_migrations.constraint_definition(t.*), ' NOT VALID$', ''),
        obj_description(t.oid, 'pg_constraint'))
    from pg_catalog.pg_constraint as t
    where
        t.conrelid = copy.target and t.conname = check_name and t.contype = 'c'
        and exists (
            select from pg_catalog.pg_constraint as s
            where s.conrelid = copy.source and s.contype = 'c'
                and regexp_replace(pg_get_constraintdef(s.oid), ' NOT VALID$', '') = regexp_replace(pg_get_constraintdef(t.oid), ' NOT VALID$', '')
        );
$function$;


-- Raises RM001 for the first row among those of the next entries of the log that the target cannot hold. Entries that cannot be replayed
-- without later ones are passed over. If meanwhile somebody has changed the row so that it fits, nothing has been done.
create or replace function rpc_migrations.refuse_entry_among(copy rpc_migrations.copies, entries bigint) returns void
language plpgsql
set search_path = ''
as $function$
declare
    left_over bigint := entries;
    size bigint := entries;
begin
    while left_over > 0 loop
        begin
            perform rpc_migrations.replay_past_checks(copy, least(size, left_over));
            left_over := left_over - size;
            size := size * 4;
        exception when integrity_constraint_violation or data_exception or program_limit_exceeded then
            if size > 1 then
                size := greatest(size / 4, 1);
            elsif sqlstate in ('23505', '23P01', '23503') then  -- as in replay
                execute format('delete from rpc_migrations.log_%1$s where rpc_migrations_id = (select min(l.rpc_migrations_id) from rpc_migrations.log_%1$s as l)', copy.id);
                left_over := left_over - 1;
            else
                perform rpc_migrations.refuse_next_entry(copy, sqlerrm);
            end if;
        end;
    end loop;
    raise exception 'only looked for' using errcode = 'RM099';
exception when sqlstate 'RM099' then
    null;
end;
$function$;


-- Raises RM001 for the row of the next entry of the log, which the target cannot hold.
create or replace function rpc_migrations.refuse_next_entry(copy rpc_migrations.copies, reason text) returns void
language plpgsql
set search_path = ''
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    key text;
begin
    execute format('select row(%s)::text from %s order by rpc_migrations_id limit 1', parts.keys, parts.log) into key;
    perform rpc_migrations.refuse_values(copy, format('in the row with the key %s: %s', key, reason));
end;
$function$;


-- Raises RM001 for values that were written since the copy began, and that the target cannot hold.
create or replace function rpc_migrations.refuse_values(copy rpc_migrations.copies, reason text) returns void
language plpgsql
set search_path = ''
as $function$
begin
    raise exception 'a value written since the copy began does not fit: %', reason
    using errcode = 'RM001', hint = rpc_migrations.hint_for_value(copy);
end;
$function$;


-- What to do about a value that the target cannot hold.
create or replace function rpc_migrations.hint_for_value(copy rpc_migrations.copies) returns text
language sql immutable
set search_path = ''
as $function$
    select 'No table in use was changed. Change the value, then run the same command again; or ' || case copy.state
        when 'rolling back' then 'give the rollback up (--give-up).' else 'roll back.' end;
$function$;


-- Takes a number of entries from the log and makes the target's rows with these keys equal to the source's, or deletes them.
-- It is one statement, hence one snapshot: what is read of the log and of the source belongs together. Entries are deleted by
-- the ids that were read, never by "up to the highest", because a transaction with a lower id may commit later. Rows
-- are first deleted and then inserted, so that values may change places between rows under a unique index.
-- Returns how many entries were taken. Raises RM001, with the key, for a row that the target cannot hold as it is. Always by index: for
-- lack of statistics a plan might be chosen that reads a whole table for each batch, and takes the longer the larger the table is.
create or replace function rpc_migrations.replay_entries(copy rpc_migrations.copies, entries bigint) returns bigint
language plpgsql
set search_path = ''
set row_security = off
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set lock_timeout = '20ms'
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    taken_entries bigint;
    taken_keys jsonb;
    lost text;
begin
    -- Deferred constraints would raise their errors at the commit, where nobody catches them.
    set constraints all immediate;
    if rpc_migrations.has_no_key(copy) then
        perform set_config('enable_seqscan', 'on', true), set_config('enable_hashjoin', 'on', true);  -- there is no index, and the table is small
    end if;
    select a.entries, a.keys, a.lost into taken_entries, taken_keys, lost
    from rpc_migrations.ask(format(
        $sql$
        with taken as materialized (
            select l.* from %1$s as l where l.rpc_migrations_truncated is not null order by l.rpc_migrations_id limit ($1)[1]::bigint
        ),
        forgotten as (
            delete from %1$s as l using taken as t where l.rpc_migrations_id = t.rpc_migrations_id
        ),
        keys as materialized (select %2$s from taken),
        %3$s
        select count(*), %4$s, (select l.key from lost as l) from taken
        $sql$,
        parts.log, rpc_migrations.distinct_keys(copy),
        case when copy.source = copy.new_table and parts.kept is not null then rpc_migrations.replay_back_in_sql(copy)
            else rpc_migrations.replay_in_sql(copy) end,
        rpc_migrations.keys_to_check(copy)), entries::text) as a (entries bigint, keys jsonb, lost text);
    if lost is not null then
        raise exception 'the row with the key % was changed or added since, and a column of it was converted one way (type ... using)', lost
        using errcode = 'RM001', hint = 'The table in use was not changed. Put the value back, or delete the row, then run the same command again.';
    end if;
    perform rpc_migrations.check_round_trip(copy, taken_keys);
    return taken_entries;
end;
$function$;


-- What replay_entries does for the "keys", as SQL. No row is "lost" by that.
create or replace function rpc_migrations.replay_in_sql(copy rpc_migrations.copies) returns text
language sql stable
set search_path = ''
as $function$
    select format(
        $sql$
        gone as (
            delete from only %1$s as t using keys as k where %2$s returning 1
        ),
        present as (
            insert into %1$s (%3$s) overriding system value
            select %4$s from keys as k inner join only %5$s as s on %6$s
            where (select count(*) from gone) is not null
        ),
        lost as (select null as key)
        $sql$,
        p.target, rpc_migrations.key_match(copy, 't', 'k'), p.columns, p.read, p.source, rpc_migrations.key_match(copy, 's', 'k'))
    from rpc_migrations.copy_parts(copy) as p;
$function$;


-- The same in a rollback, if the original table has values that the table in use has not: columns that it lacks, and those that were
-- converted one way. An existing row keeps these values, a new one gets the defaults. "lost" is the key of a row of which a value that was
-- converted one way has been changed, or which is new.
create or replace function rpc_migrations.replay_back_in_sql(copy rpc_migrations.copies) returns text
language sql stable
set search_path = ''
as $function$
    select format(
        $sql$
        gone as (
            delete from only %1$s as t using keys as k where %2$s returning t.*
        ),
        present as materialized (
            select %4$s, %8$s, %10$s
            from gone as g inner join only %5$s as s on %7$s
        ),
        added as materialized (
            select %4$s, %11$s
            from keys as k inner join only %5$s as s on %6$s
            where not exists (select from only %1$s as t where %2$s)
        ),
        put_back as (
            insert into %1$s (%3$s, %9$s) overriding system value
            select %3$s, %9$s from present as p (%3$s, %9$s, rpc_migrations_lost)
            where (select count(*) from gone) is not null
        ),
        put as (
            insert into %1$s (%3$s) overriding system value
            select %3$s from added as p (%3$s, rpc_migrations_lost)
            where (select count(*) from gone) is not null
        ),
        lost as (
            select row(%12$s)::text as key from (
                select %12$s from present as p (%3$s, %9$s, rpc_migrations_lost) where p.rpc_migrations_lost
                union all
                select %12$s from added as p (%3$s, rpc_migrations_lost) where p.rpc_migrations_lost
            ) as p limit 1
        )
        $sql$,
        p.target, rpc_migrations.key_match(copy, 't', 'k'), p.columns, p.read, p.source, rpc_migrations.key_match(copy, 's', 'k'),
        rpc_migrations.key_match(copy, 's', 'g'), p.kept_values, p.kept,
        coalesce(format('row(%s)::record operator(pg_catalog.*<>) row(%s)::record', p.one_way, p.one_way_before), 'false'),
        case when p.one_way is null then 'false' else 'true' end, rpc_migrations.qualified_keys(copy, 'p'))
    from rpc_migrations.copy_parts(copy) as p;
$function$;


-- The columns whose values may not survive the way there and back, because they change their type.
create or replace function rpc_migrations.changing_columns(copy rpc_migrations.copies)
returns table (name name, type text, target_type text, as_text text)
language sql stable
set search_path = ''
as $function$
    select
        f.attname, format_type(f.atttypid, f.atttypmod), format_type(t.atttypid, t.atttypmod),
        case when rpc_migrations.compares_as_text(f.atttypid) then '::text collate "C"' else '' end
    from jsonb_to_recordset(copy.columns) as c (name name, old_name name, expression text)
    inner join pg_catalog.pg_attribute as f
        on f.attrelid = copy.source and f.attname = case when copy.source = copy.new_table then c.name else coalesce(c.old_name, c.name) end
    inner join pg_catalog.pg_attribute as t
        on t.attrelid = copy.target and t.attname = case when copy.source = copy.new_table then coalesce(c.old_name, c.name) else c.name end
    where c.expression is null and not (f.atttypid = t.atttypid and t.atttypmod in (-1, f.atttypmod)) and f.atttypid <> 'json'::regtype;
$function$;


-- What the replay is to return of the keys "k", for check_round_trip. Without a key these are whole rows, too large to be returned in vain.
create or replace function rpc_migrations.keys_to_check(copy rpc_migrations.copies) returns text
language sql stable
set search_path = ''
as $function$
    select case when exists (select from rpc_migrations.changing_columns(copy))
        then '(select jsonb_agg(to_jsonb(k.*)) from keys as k)' else 'null::jsonb' end;
$function$;


-- Raises RM001, with the row's key, for a value of a column that changes its type that would not survive the way there and back: a
-- number that is rounded, a time that loses its zone. Rows that were there when the copy began have been looked at (see misfits);
-- these were written since. A row that has changed again in the meantime has another entry.
create or replace function rpc_migrations.check_round_trip(copy rpc_migrations.copies, keys jsonb) returns void
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    col record;
    key text;
begin
    for col in select c.* from rpc_migrations.changing_columns(copy) as c loop
        select a.key into key
        from rpc_migrations.ask(format(
            'select row(%1$s)::text from jsonb_populate_recordset(null::rpc_migrations.log_%2$s, ($1)[1]::jsonb) as k '
            'inner join only %3$s as s on %4$s where (s.%5$I)::%6$s::%7$s%8$s is distinct from (s.%5$I)%8$s limit 1',
            rpc_migrations.qualified_keys(copy, 's'), copy.id, copy.source::regclass, rpc_migrations.key_match(copy, 's', 'k'),
            col.name, col.target_type, col.type, col.as_text), keys::text) as a (key text);
        if key is not null then
            perform rpc_migrations.refuse_values(copy, format(
                'column %s of the row with the key %s is %s, and not the same as %s', col.name, key, col.type, col.target_type));
        end if;
    end loop;
end;
$function$;


-- Empties the target where the source was truncated. Every row that the source has now was written after that, and its
-- entry is in the log still: it became visible together with the truncation or later. Call hold_source before.
create or replace function rpc_migrations.replay_truncation(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    log text := format('rpc_migrations.log_%s', copy.id);
    was_truncated boolean;
begin
    execute format('select exists (select from %s where rpc_migrations_truncated)', log) into was_truncated;
    if was_truncated then
        update rpc_migrations.copies as c set has_changes = true where c.id = copy.id and c.state = 'rolling back';
        execute format('delete from %s where rpc_migrations_truncated', log);
        perform rpc_migrations.run(format('truncate table only %s', copy.target::regclass));
    end if;
end;
$function$;


-- Under the lock that keeps writers out: replays all that is left at once, which has to fit. Raises lock_not_available if somebody has
-- made a change before the lock that is not in the log: then the next attempt compares again.
create or replace function rpc_migrations.replay_rest(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    left_over bigint;
begin
    if not rpc_migrations.is_as_compared(copy) then
        raise exception '% was altered since the comparison', copy.source::regclass using errcode = 'lock_not_available';
    end if;
    perform rpc_migrations.quiet_triggers(copy, copy.target);
    perform rpc_migrations.replay_truncation(copy);
    perform rpc_migrations.replay_past_checks(copy, 1000000000);
    execute format('select count(*) from rpc_migrations.log_%s', copy.id) into left_over;
    if left_over > 0 then
        raise exception '% entries of the log could not be replayed', left_over using errcode = 'RM005';
    end if;
end;
$function$;
