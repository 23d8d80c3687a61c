-- The way back. Before the swap the copy is taken away, and that is all. After it the original table, which is the backup, is
-- brought up to date while the application goes on, and takes its place back in another short transaction.

-- Marks the current journal rows of the migration's own steps as undone, so that it can be run again.
create or replace function rpc_migrations.mark_undone(migration text) returns void
language sql
set search_path = ''
as $function$
    update rpc_migrations.journal as j
    set undone_at = clock_timestamp()
    where j.migration = mark_undone.migration and j.undone_at is null and j.step !~ '^roll back: ';
$function$;


-- Begins to roll the migration back. Before the swap this abandons the copy, and that is all. After it, changes of the
-- table in use are captured from now on, to be brought into the original one, unless they are to be discarded.
-- Raises RM001 where that cannot be done.
create or replace function rpc_migrations.begin_rollback(discard_changes boolean default false, out rows bigint, out message text)
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
begin
    rows := 0;
    if copy.id is null then
        perform rpc_migrations.refuse_finished(current_setting('rpc_migrations.migration', true));
        message := rpc_migrations.clear_up();
        return;
    end if;
    if copy.state in ('copying', 'copied') then
        message := rpc_migrations.abandon();
        return;
    end if;
    perform rpc_migrations.check_rollback(copy, discard_changes);
    if copy.old_table is null then
        perform rpc_migrations.rehearse_swap_back(copy);
        return;
    end if;
    if copy.state = 'swapped' then  -- one that was given up may have left some
        update rpc_migrations.journal as j
        set undone_at = clock_timestamp()
        where j.migration = copy.migration and j.step ~ '^roll back: ' and j.finished_at is not null and j.undone_at is null;
    end if;
    update rpc_migrations.copies as c
    set
        state = 'rolling back', source = copy.new_table, target = copy.old_table, compared_at = null, chunk_blocks = 16,
        keys = rpc_migrations.primary_key(copy.old_table), filenode = null, caught_up = false, snapshots = null, attempts = 0, longest_attempt = 0
    where c.id = copy.id
    returning c.* into copy;
    perform rpc_migrations.rehearse_swap_back(copy);
    if discard_changes then
        select coalesce(d.rows, 0), d.message into rows, message from rpc_migrations.count_discarded(copy) as d;
    elsif to_regclass(format('rpc_migrations.log_%s', copy.id)) is null then
        perform rpc_migrations.create_log(copy);
        perform rpc_migrations.begin_capture(copy);
        perform rpc_migrations.take_off_keys(copy.old_table, and_cascades => true);
        message := format('changes of %s are being captured', copy.new_table::regclass) || rpc_migrations.realtime_warning(copy.new_table);
    end if;
end;
$function$;


-- Columns that both tables had at the swap and that one of them has no more, or as another type: changes cannot be brought back
-- into the original table then. Null: there are none.
create or replace function rpc_migrations.lost_columns(copy rpc_migrations.copies) returns text
language sql stable
set search_path = ''
as $function$
    select string_agg(
        case when a.attname is null then format('column %I of %s is gone (dropped or renamed since)', e.name, e.relation)
            else format('column %I of %s is %s now, and was %s', e.name, e.relation, format_type(a.atttypid, a.atttypmod), e.type) end,
        '; ' order by e.relation, e.place)
    from (
        select copy.new_table::regclass as relation, c.name, c.type, c.place
        from rows from (jsonb_to_recordset(copy.columns) as (name name, type text)) with ordinality as c (name, type, place)
        union all
        select copy.old_table::regclass, coalesce(c.old_name, c.name), c.old_type, c.place
        from rows from (jsonb_to_recordset(copy.columns) as (name name, old_name name, old_type text))
            with ordinality as c (name, old_name, old_type, place)
    ) as e
    left join pg_catalog.pg_attribute as a on a.attrelid = e.relation and a.attname = e.name and a.attnum > 0 and not a.attisdropped
    where a.attname is null or e.type not in (format_type(a.atttypid, -1), format_type(a.atttypid, a.atttypmod));
$function$;


-- How many rows --discard-changes gives up, told by the columns that both tables have as they had them at the swap. Null: that
-- cannot be told.
create or replace function rpc_migrations.count_discarded(copy rpc_migrations.copies, out rows bigint, out message text)
language plpgsql
set search_path = ''
as $function$
declare
    lost text := rpc_migrations.lost_columns(copy);
begin
    copy.columns := (
        select jsonb_agg(c.value order by c.place)
        from jsonb_array_elements(copy.columns) with ordinality as c (value, place)
        inner join pg_catalog.pg_attribute as n on n.attrelid = copy.new_table and n.attname = c.value ->> 'name' and not n.attisdropped
        inner join pg_catalog.pg_attribute as o on o.attrelid = copy.old_table and not o.attisdropped
            and o.attname = coalesce(c.value ->> 'old_name', c.value ->> 'name')
        where
            c.value ->> 'type' in (format_type(n.atttypid, -1), format_type(n.atttypid, n.atttypmod))
            and c.value ->> 'old_type' in (format_type(o.atttypid, -1), format_type(o.atttypid, o.atttypmod))
    );
    if copy.keys is null or exists (
        select from jsonb_array_elements(copy.keys) as k
        where not coalesce(copy.columns, '[]') @> jsonb_build_array(jsonb_build_object('name', k ->> 'name'))
    ) then
        message := format('what was changed since the migration cannot be counted: %s', coalesce(lost, 'the primary key is gone'));
        return;
    end if;
    select d.differing into rows from rpc_migrations.differences(copy) as d;
    message := format('%s row(s) were added, changed or deleted since the migration', rows)
        || coalesce(format(' (without what cannot be compared: %s)', lost), '');
end;
$function$;


-- Before the swap: takes the new table, the capture and the log away, and the old table is as if nothing had been.
create or replace function rpc_migrations.abandon(out message text)
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    new_table regclass := (select c.oid from pg_catalog.pg_class as c where c.oid = copy.new_table);
begin
    if copy.id is null or copy.state not in ('copying', 'copied') then
        raise exception 'only a copy that was not swapped in can be abandoned' using errcode = 'RM005';
    end if;
    if copy.source is not null then
        perform rpc_migrations.end_capture(copy.id);
    end if;
    message := 'the copy was taken away; the table is as it was' || rpc_migrations.restored_in_words(copy);
    if new_table in (select c.oid from pg_catalog.pg_class as c where c.relnamespace = 'rpc_migrations'::regnamespace) then
        execute format('drop table %s', new_table);  -- whatever it is called by now
    elsif new_table is not null then
        message := format('%s, which was to be the new table, was moved there and stays; apart from that the table is as it was', new_table);
    end if;
    delete from rpc_migrations.foreign_keys as k where k.relation = copy.new_table;
    update rpc_migrations.copies as c set state = 'abandoned', ended_at = clock_timestamp() where c.id = copy.id;
    perform rpc_migrations.mark_undone(copy.migration);
end;
$function$;


-- Without a copy: takes away what the migration has left behind all the same, and says so. It may have stopped between creating the
-- new table and beginning the copy; or somebody has deleted the copy's row, and there are a new table and a capture without it.
-- After the swap there is no way back without that row, which swap_back says.
create or replace function rpc_migrations.clear_up(out message text)
language plpgsql
set search_path = ''
as $function$
declare
    this_migration text := current_setting('rpc_migrations.migration', true);
begin
    message := rpc_migrations.drop_lost_captures();
    if rpc_migrations.swapped_before(this_migration) is null then
        message := nullif(concat_ws('; ', message, rpc_migrations.drop_unfinished_tables(this_migration)), '');
        perform rpc_migrations.mark_undone(this_migration);
    end if;
    message := coalesce(message, 'nothing was under way, and no table was changed');
end;
$function$;


-- What the swap of a migration that was not rolled back has said. Null: there was none.
create or replace function rpc_migrations.swapped_before(migration text) returns text
language sql stable
set search_path = ''
as $function$
    select j.result ->> 'message'
    from rpc_migrations.journal as j
    where
        j.migration = swapped_before.migration and j.undone_at is null and j.finished_at is not null and j.result ? 'ends_request'
        and j.step !~ '^roll back: ';
$function$;


-- Takes away what captures changes for copies that are not there (any more), with the triggers, which go with their function. Says
-- of which tables. Null: none.
create or replace function rpc_migrations.drop_lost_captures() returns text
language plpgsql
set search_path = ''
as $function$
declare
    lost record;
    tables text;
begin
    for lost in
        select substr(p.proname, 9)::bigint as id, (select string_agg(distinct t.tgrelid::regclass::text, ', ') from pg_catalog.pg_trigger as t where t.tgfoid = p.oid) as tables
        from pg_catalog.pg_proc as p
        where
            p.pronamespace = 'rpc_migrations'::regnamespace and p.proname ~ '^capture_[0-9]+$'
            and not exists (select from rpc_migrations.copies as c where c.ended_at is null and c.id::text = substr(p.proname, 9))
    loop
        perform rpc_migrations.end_capture(lost.id);
        tables := concat_ws(', ', tables, lost.tables);
    end loop;
    return format('the row of the copy was gone; what captured changes of %s for it was taken away', coalesce(tables, 'no table (any more)'))
    where found;
end;
$function$;


-- Drops the new tables that the steps of a migration have made and that no copy has. Where an earlier version has not noted who made
-- them: those that are empty, if no other migration can have made them. Says which. Null: none.
create or replace function rpc_migrations.drop_unfinished_tables(migration text) returns text
language plpgsql
set search_path = ''
as $function$
declare
    leftover record;
    has_rows boolean := false;
    dropped text;
begin
    for leftover in
        select c.oid::regclass as relation, n.name, n.name in (
            select unnest(j.made) from rpc_migrations.journal as j
            where j.migration = drop_unfinished_tables.migration and j.undone_at is null
        ) as is_its
        from unnest(rpc_migrations.new_tables()) as n (name)
        inner join pg_catalog.pg_class as c on c.relnamespace = 'rpc_migrations'::regnamespace and c.relname = n.name
        where
            not exists (select from rpc_migrations.copies as o where o.new_table = c.oid and o.ended_at is null)
            and not exists (
                select from rpc_migrations.journal as j
                where j.migration <> drop_unfinished_tables.migration and j.undone_at is null and n.name = any (j.made)
            )
    loop
        if not leftover.is_its then
            execute format('select exists (select from %s)', leftover.relation) into has_rows;
            continue when has_rows or exists (
                select from rpc_migrations.journal as j
                where
                    j.migration <> drop_unfinished_tables.migration and j.undone_at is null and j.made is null
                    and not exists (select from rpc_migrations.copies as o where o.migration = j.migration)
            );
        end if;
        delete from rpc_migrations.foreign_keys as k where k.relation = leftover.relation;
        execute format('drop table %s', leftover.relation);
        dropped := concat_ws(', ', dropped, leftover.name);
    end loop;
    return format('the new table %s was taken away, and no other was changed', dropped) where dropped is not null;
end;
$function$;


-- What must hold for a rollback after the swap. Raises RM001.
create or replace function rpc_migrations.check_rollback(copy rpc_migrations.copies, discard_changes boolean) returns void
language plpgsql
set search_path = ''
as $function$
declare
    name_in_use text := format('%I.%I', copy.schema_name, copy.table_name);
    backup text := format('%I.%I', copy.schema_name, copy.backup_name);
    reasons text;
begin
    if to_regclass(name_in_use) is distinct from copy.new_table::regclass then
        raise exception '% is not the table that this migration made%', name_in_use, rpc_migrations.restored_in_words(copy)
        using errcode = 'RM001', hint = 'Another migration has replaced it since, or it was renamed or dropped. Roll that one back first, or put the name back. '
            'If it was dropped, rename the original table by hand.';
    end if;
    if copy.old_table is not null and to_regclass(backup) is distinct from copy.old_table::regclass then
        raise exception 'the original table is not at % any more%', backup, rpc_migrations.restored_in_words(copy)
        using errcode = 'RM001', hint = 'It was dropped or renamed since. Put the name back; without it there is nothing to go back to.';
    end if;
    perform rpc_migrations.check_neighbours(copy.migration, copy.new_table);
    if discard_changes and copy.state = 'rolling back' and to_regclass(format('rpc_migrations.log_%s', copy.id)) is not null then
        raise exception 'a rollback that keeps the changes is under way, and may have brought some of them into % already', backup
        using errcode = 'RM001', hint = 'Finish it without --discard-changes.';
    end if;
    if discard_changes and copy.has_changes then
        raise exception 'a rollback that was given up has brought changes into % already', backup
        using errcode = 'RM001', hint = 'Nothing was changed. Roll back without --discard-changes.';
    end if;
    reasons := case when not discard_changes then rpc_migrations.lost_columns(copy) end;
    if reasons is not null then
        raise exception '% cannot be rolled back with what was written since: %', name_in_use, reasons
        using errcode = 'RM001', hint = 'Nothing was changed. Put the columns back, under their old names and with their old types, then run the '
            'same command again; or roll back with --discard-changes, to the data as it was at the swap.';
    end if;
    if copy.state = 'swapped' and not discard_changes then
        perform rpc_migrations.check_one_way(copy);
    end if;
    reasons := rpc_migrations.obstacles_in_words(case when copy.old_table is not null then copy.new_table end);
    if reasons is not null then
        raise exception '% cannot be rolled back: %', name_in_use, reasons
        using errcode = 'RM001', hint = 'Nothing was changed. Take these away or change them first, then run the same command again.';
    end if;
end;
$function$;


-- What the swap notes, so that a rollback need not look at every row: transactions before "xmin" were over. Whatever changes the
-- table in use after the swap has a later one, also where it began before it; so rows with an earlier xmin (which VACUUM keeps,
-- also where it freezes them) are as the swap left them, in these columns.
create or replace function rpc_migrations.swap_mark(new_table oid) returns jsonb
language sql volatile
set search_path = ''
as $function$
    select jsonb_build_object(
        'xmin', pg_snapshot_xmin(pg_current_snapshot())::text,
        'columns', (
            select jsonb_object_agg(a.attname, a.attnum)
            from pg_catalog.pg_attribute as a
            where a.attrelid = new_table and a.attnum > 0 and not a.attisdropped
        )
    );
$function$;


-- The condition that a row may have been changed since the swap. Null where that cannot be told by xmin: nothing was noted, so
-- long ago that transactions' numbers (32 bits of them in a row) have gone round, or a column was dropped and made anew, which
-- changes rows and no xmin.
create or replace function rpc_migrations.changed_since(copy rpc_migrations.copies, alias text) returns text
language sql volatile
set search_path = ''
as $function$
    select format('age(%s.xmin) <= (select age(%L::xid8::xid))', alias, copy.swap_mark ->> 'xmin')
    where
        pg_snapshot_xmax(pg_current_snapshot())::text::numeric - (copy.swap_mark ->> 'xmin')::numeric between 0 and 2000000000
        and not exists (
            select from jsonb_to_recordset(copy.columns) as c (name text)
            left join pg_catalog.pg_attribute as a on a.attrelid = copy.new_table and a.attname = c.name
            where a.attnum::text is distinct from copy.swap_mark -> 'columns' ->> c.name
        );
$function$;


-- Finds the rows that were changed between the swap and the beginning of the rollback, for about a second, and notes their keys
-- in the log, so that the replay brings them into the original table: rows of the table in use that the migration would not have
-- made of the original ones, in a first pass, and original rows that are gone, in a second one.
create or replace function rpc_migrations.find_changes(out done boolean, out rows bigint, out progress double precision)
language plpgsql
set search_path = ''
set row_security = off
set jit = off
set max_parallel_workers_per_gather = 0
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
begin
    rows := 0;
    progress := 1;
    done := copy.source is null or copy.state <> 'rolling back' or copy.pass > 2;
    if done then
        return;
    end if;
    perform rpc_migrations.hold_source(copy);
    if copy.pass = 2 and rpc_migrations.changed_since(copy, 's') is not null then
        if rpc_migrations.batch_size(100) = 100 then
            rows := rpc_migrations.find_unpaired(copy);
            update rpc_migrations.copies as c set pass = 3 where c.id = copy.id;
            return;
        end if;
        -- It took too long for one statement: everything is looked at again, in chunks.
        update rpc_migrations.copies as c set pass = 1, swap_mark = null, filenode = null where c.id = copy.id returning c.* into copy;
    end if;
    rows := rpc_migrations.find_changes_in_chunks(copy);
    select c.* into copy from rpc_migrations.copies as c where c.id = copy.id;
    progress := (copy.pass - 1 + copy.next_block / greatest(copy.end_block, 1)::double precision) / 2;
    if copy.next_block >= copy.end_block then
        update rpc_migrations.copies as c set pass = copy.pass + 1, filenode = null where c.id = copy.id;
    end if;
end;
$function$;


-- One pass over a table. Rows are looked up one by one in the other one, by its primary key: a plan that reads that whole table
-- for each chunk would take the longer the larger it is.
create or replace function rpc_migrations.find_changes_in_chunks(copy rpc_migrations.copies) returns bigint
language plpgsql
set search_path = ''
set row_security = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    statement text := format(
        case copy.pass
            when 1 then
                'insert into %1$s (%2$s) select %3$s from only %5$s as s left join only %6$s as t on %7$s '
                'where s.ctid >= $1 and s.ctid < $2 and %10$s '
                'and (t.ctid is null or row(%8$s)::record operator(pg_catalog.*<>) row(%9$s)::record)'
            else
                'insert into %1$s (%2$s) select %4$s from only %6$s as t '
                'where t.ctid >= $1 and t.ctid < $2 and not exists (select from only %5$s as s where %7$s)'
        end,
        parts.log, parts.keys, rpc_migrations.qualified_keys(copy, 's'), rpc_migrations.qualified_keys(copy, 't'),
        parts.source, parts.target, rpc_migrations.key_match(copy, 's', 't'), parts.source_row, parts.target_row,
        coalesce(rpc_migrations.changed_since(copy, 's'), 'true'));
begin
    copy := rpc_migrations.rewind_if_rewritten(copy, case copy.pass when 1 then copy.source else copy.target end);
    return (select coalesce(sum(c.rows), 0) from rpc_migrations.each_chunk(copy, statement) as c);
end;
$function$;


-- Notes the keys that one of the tables has and the other one lacks, but for new rows, which the first pass has found; and those
-- of original rows that somebody has changed by hand. In one statement, which reads little more than the primary keys' indexes.
create or replace function rpc_migrations.find_unpaired(copy rpc_migrations.copies) returns bigint
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    found_rows bigint;
begin
    execute format(
        $sql$
        insert into %1$s (%2$s)
        select %3$s from only %5$s as s where not exists (select from only %6$s as t where %7$s) and not %8$s
        union all
        select %4$s from only %6$s as t where not exists (select from only %5$s as s where %7$s) and not %9$s
        union all
        select %4$s from only %6$s as t where %9$s
        $sql$,
        parts.log, parts.keys, rpc_migrations.qualified_keys(copy, 's'), rpc_migrations.qualified_keys(copy, 't'),
        parts.source, parts.target, rpc_migrations.key_match(copy, 's', 't'),
        rpc_migrations.changed_since(copy, 's'), rpc_migrations.changed_since(copy, 't'));
    get diagnostics found_rows = row_count;
    return found_rows;
end;
$function$;


-- Puts the original table back in its place, under its own name and with its own rights, as rpc_migrations.swap put the
-- new one there. The migrated table is kept, closed to the API, under a name of its own ("kept_as"): nothing that the
-- further columns held is lost. From then on the migration counts as not run.
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
    ready boolean := true;
    began timestamptz;
begin
    rows := 0;
    ends_request := false;
    done := copy.id is null;
    if done then
        message := rpc_migrations.swapped_before(current_setting('rpc_migrations.migration', true));
        if message is not null then
            raise exception 'the row of rpc_migrations.copies that tells what was swapped is gone. The swap said: %', message
            using errcode = 'RM001', hint = 'No table was changed. To go back by hand: rename the table in use, and the original one to its name, and '
                'give that its rights again. To leave it as it is, give the rollback up with --give-up.';
        end if;
        return;
    end if;
    if copy.old_table is not null and (copy.state <> 'rolling back' or (copy.compared_at is null and not discard_changes)) then
        raise exception 'the swap comes after the comparison' using errcode = 'RM005', hint = 'Run the whole of the rollback.';
    end if;
    if keeps_changes then
        select p.* into ready, rows, holders, ends_request, message from rpc_migrations.prepare_swap(copy) as p;
    end if;
    if not ready then
        return;
    end if;
    began := clock_timestamp();
    begin
        perform rpc_migrations.lock_for_swap_back(copy, began);
        if keeps_changes then
            perform rpc_migrations.replay_rest(copy);
            perform rpc_migrations.limit_wait(copy, began);
        end if;
        kept_as := rpc_migrations.exchange_back_or_refuse(copy);
        done := true;
    exception when lock_not_available then
        holders := rpc_migrations.lock_holders(copy.new_table);
        message := rpc_migrations.what_was_waited_for(sqlerrm);
        if keeps_changes then
            rows := rows + rpc_migrations.catch_up(copy);
        end if;
    end;
    copy := rpc_migrations.note_attempt(copy, began);
    if done then
        message := case when copy.old_table is null then 'there was no table before' else 'the original table is back' end
            || format('; the migrated one is kept as %s', kept_as) || rpc_migrations.attempts_in_words(copy)
            || rpc_migrations.subscriptions_left(copy.new_table);
    end if;
end;
$function$;


-- Locks all that the swap back alters.
create or replace function rpc_migrations.lock_for_swap_back(copy rpc_migrations.copies, began timestamptz) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if copy.source is not null then
        perform rpc_migrations.lock_for_swap(copy, began);
    else
        execute format('lock table only %s in access exclusive mode', copy.new_table::regclass);
    end if;
end;
$function$;


-- Whether the swap back could be made: it is made, and undone, locks included. Whatever has come to depend on the table since the
-- migration and does not go with the original one (a view on a new column) shows here, before anything begins. Raises as it does.
create or replace function rpc_migrations.rehearse_swap_back(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
set lock_timeout = '20ms'
as $function$
begin
    perform rpc_migrations.lock_for_swap_back(copy, clock_timestamp());
    perform rpc_migrations.exchange_back_or_refuse(copy);
    raise exception 'only rehearsed' using errcode = 'RM099';
exception when sqlstate 'RM099' then
    null;
end;
$function$;


-- The exchange, with an error that says what to do. Raises RM001.
create or replace function rpc_migrations.exchange_back_or_refuse(copy rpc_migrations.copies) returns text
language plpgsql
set search_path = ''
as $function$
begin
    return rpc_migrations.exchange_back(copy);
exception when others then
    if sqlstate ~ '^(40|55P03|RM)' and sqlstate <> 'RM001' then
        raise;
    end if;
    raise exception '%.% cannot be rolled back: %', quote_ident(copy.schema_name), quote_ident(copy.table_name), sqlerrm
    using errcode = 'RM001', detail = format('SQLSTATE %s', sqlstate), hint = 'No table in use was changed. The original table does not go with what is named: '
        'drop or change that, then run the same command again. A rollback that has begun can be given up with --give-up.';
end;
$function$;


-- The exchange of the two tables, backward. Answers the name under which the migrated table is kept.
create or replace function rpc_migrations.exchange_back(copy rpc_migrations.copies) returns text
language plpgsql
set search_path = ''
as $function$
declare
    name_in_use text := format('%I.%I', copy.schema_name, copy.table_name);
    kept text := rpc_migrations.derived_name(
        copy.schema_name, copy.table_name, copy.table_name, copy.table_name || to_char(clock_timestamp(), '"_rolled_back_"YYYYMMDDHH24MISS'));
    carried jsonb := '[]';
    put_back jsonb := '[]';
begin
    if copy.source is not null then
        carried := rpc_migrations.statements_to_carry(
            copy.source, copy.target, name_in_use, array[
                'foreign key to the table', 'view', 'function', 'rule of another table', 'publication', 'sequence', 'policy of another table'
            ]);
        carried := rpc_migrations.texts_from_before(carried, copy.retold);
        perform rpc_migrations.run_each(carried, 'detach');
    end if;
    perform rpc_migrations.move_aside(copy.new_table, kept);
    if copy.source is not null then
        perform rpc_migrations.move_back(copy.schema_name, copy.renamed);
        perform rpc_migrations.carry_positions(copy.new_table, copy.old_table);
        perform rpc_migrations.run_each(carried, 'statement');
        perform rpc_migrations.fit_sequences(copy.new_table, copy.old_table);
        perform rpc_migrations.reopen_table(copy);
        put_back := rpc_migrations.make_taken_off_keys(copy.old_table, copy.new_table);
        perform rpc_migrations.wake_triggers(copy);
        perform rpc_migrations.end_capture(copy.id);
    end if;
    perform rpc_migrations.close_table(copy.new_table);
    update rpc_migrations.copies as c
    set
        state = 'rolled back', ended_at = clock_timestamp(), kept_as = format('%I.%I', copy.schema_name, kept),
        unvalidated = put_back || rpc_migrations.unvalidated_keys(copy.old_table, carried, copy.unvalidated)
    where c.id = copy.id;
    perform rpc_migrations.take_off_keys(copy.new_table, and_cascades => false);
    perform rpc_migrations.quiet_triggers(copy, copy.new_table);
    perform rpc_migrations.move_subscriptions(copy.new_table, copy.old_table);
    perform rpc_migrations.mark_undone(copy.migration);
    notify pgrst, 'reload schema';
    return format('%I.%I', copy.schema_name, kept);
end;
$function$;


-- Views, functions and so on that nobody has altered since the swap get the text again that they had before it ("retold").
create or replace function rpc_migrations.texts_from_before(carried jsonb, retold jsonb) returns jsonb
language sql immutable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(
        e.value || coalesce((
            select jsonb_build_object('statement', r.value -> 'before')
            from jsonb_array_elements(retold) as r
            where r.value ->> 'kind' = e.value ->> 'kind' and r.value ->> 'name' = e.value ->> 'name'
                and r.value -> 'after' = e.value -> 'statement'
        ), '{}')
        order by e.place), '[]')
    from jsonb_array_elements(carried) with ordinality as e (value, place);
$function$;


-- Gives what move_aside has renamed its old name again, in so far as it is still there.
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


-- Gives the original table the rights back that the swap took from it.
create or replace function rpc_migrations.reopen_table(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.run_each((
        select jsonb_agg(e.value order by e.place)
        from jsonb_array_elements(copy.definition) with ordinality as e (value, place)
        where e.value ->> 'kind' = 'grant'
    ), 'statement');
    if not copy.definition @> '[{"kind": "row security", "name": "enabled"}]' then
        execute format('alter table %s disable row level security', copy.old_table::regclass);
    end if;
end;
$function$;
