-- A rollback before the swap: no table in use was changed, so what the migration has made is removed, and that is all.

-- Drops the new table, the capture and the log, and the old table is as if nothing had been.
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
    perform rpc_migrations.refuse_only_copy(copy, new_table);
    if copy.source is not null then
        perform rpc_migrations.end_capture(copy.id);
    end if;
    message := 'the copy was removed; the table is as it was' || rpc_migrations.restored_in_words(copy);
    if exists (
        select from pg_catalog.pg_class as c
        where c.oid = new_table and c.relnamespace in (select rpc_migrations.schemas_of_new_tables())
    ) then
        execute format('drop table %s', new_table);  -- whatever it is called by now
        perform rpc_migrations.drop_second_schema();
    elsif new_table is not null then
        message := format('%s, which was to be the new table, was moved there and stays; apart from that the table is as it was', new_table);
    end if;
    delete from rpc_migrations.foreign_keys as k where k.relation = copy.new_table;
    update rpc_migrations.copies as c set state = 'abandoned', ended_at = clock_timestamp() where c.id = copy.id;
    perform rpc_migrations.mark_undone(copy.migration);
end;
$function$;


-- Raises RM001 if somebody has dropped the old table meanwhile, and the new one has rows of it, which nobody else may have.
create or replace function rpc_migrations.refuse_only_copy(copy rpc_migrations.copies, new_table regclass) returns void
language plpgsql
set search_path = ''
as $function$
declare
    old_name text := rpc_migrations.name_in_use(copy);
    has_rows boolean := false;
begin
    if copy.source is null or new_table is null or to_regclass(old_name) is not null
        or exists (select from pg_catalog.pg_class as c where c.oid = copy.source)
        or not exists (
            select from pg_catalog.pg_class as c
            where c.oid = new_table and c.relnamespace in (select rpc_migrations.schemas_of_new_tables()))
    then
        return;
    end if;
    execute format('select exists (select from %s)', new_table) into has_rows;
    if has_rows then
        raise exception '% was dropped, and % has the rows that were copied before', old_name, new_table
        using errcode = 'RM001', hint = format('Nothing was changed. To keep them: alter table %1$s set schema %2$I; to let them go: drop table %1$s; '
            'then run the same command again.', new_table, copy.schema_name);
    end if;
end;
$function$;


-- Without a copy: removes what the migration has left behind all the same, and says so. It may have stopped between creating the new
-- table and beginning the copy; or somebody has deleted the copy's row, while a new table and a capture are still there. After the
-- swap there is no rollback without that row, as swap_back says.
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


-- The message of the swap of a migration that was not rolled back. Null: there was none.
create or replace function rpc_migrations.swapped_before(migration text) returns text
language sql stable
set search_path = ''
as $function$
    select j.result ->> 'message'
    from rpc_migrations.journal as j
    where
        j.migration = swapped_before.migration and j.undone_at is null and j.finished_at is not null and j.result ? 'ends_request'
        and not rpc_migrations.is_of_a_rollback(j.step) and not rpc_migrations.is_of_finishing(j.step);
$function$;


-- Raises RM001 if a migration that has no copy has swapped tables: only its row knows which. "advice": what can still be done.
create or replace function rpc_migrations.refuse_lost_copy(migration text, advice text) returns void
language plpgsql
set search_path = ''
as $function$
declare
    swap_said text := rpc_migrations.swapped_before(migration);
begin
    if swap_said is not null then
        raise exception 'the row of rpc_migrations.copies that tells what was swapped is gone. The swap said: %', swap_said
        using errcode = 'RM001', hint = advice;
    end if;
end;
$function$;


-- Drops what captures changes for copies that do not exist (any more); the triggers go with their function. Returns a message with the
-- tables; null: none.
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
    return format('the row of the copy was gone; what captured changes of %s for it was removed', coalesce(tables, 'no table (any more)'))
    where found;
end;
$function$;


-- Drops the new tables that the steps of a migration have made and that belong to no copy. If an earlier version has not noted who made
-- them: those that are empty, if no other migration can have made them. Returns a message with their names; null: none.
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
            select a.answer into has_rows
            from rpc_migrations.ask(format('select exists (select from %s)', leftover.relation)) as a (answer boolean);
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
    return format('the new table %s was removed, and no other was changed', dropped) where dropped is not null;
end;
$function$;
