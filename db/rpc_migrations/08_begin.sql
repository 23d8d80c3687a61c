-- The beginning of a copy. Everything that could stop it later and can be seen now is looked for now: the names, the form of
-- the old table, every old row that the new table could not hold as it is, and whatever a rehearsal of the rest finds. Then
-- changes are captured, and the copy may begin.

-- Begins to rebuild a table: checks that it can be done, gives the new table the columns that only the old one has, and
-- begins to capture changes. The new table has been created by an earlier step, empty, in the schema rpc_migrations and
-- under the name that it will have (so that everything that PostgreSQL names after it is named rightly). Where there is
-- no old table there is nothing to copy. Raises RM001 where the old table cannot be carried over, with all reasons.
create or replace function rpc_migrations.begin_copy(old_table text, backup text, out rows bigint, out message text)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.named_copy(old_table, backup);
    further record;
begin
    copy.new_table := to_regclass(rpc_migrations.new_name(copy));
    perform rpc_migrations.check_begin(copy);
    perform rpc_migrations.close_to_others();
    if copy.old_table is null then
        copy.state := 'copied';
        copy := rpc_migrations.remember_copy(copy);
        perform rpc_migrations.rehearse(copy);
        rows := 0;
        message := format('there is no table %s: nothing to copy, and no backup', old_table);
        return;
    end if;

    perform rpc_migrations.check_obstacles(copy.old_table);
    perform rpc_migrations.work_on(copy);
    for further in
        select m.*
        from rpc_migrations.missing_in_target(copy.old_table, copy.new_table, copy.new_table::regclass::text, 'columns') as m
    loop
        perform rpc_migrations.make_again(further.kind, further.name, further.statement);
    end loop;
    perform rpc_migrations.make_unlogged_as(copy.old_table, copy.new_table);
    perform rpc_migrations.share_sequences(copy);
    perform rpc_migrations.adapt_new_table(copy);
    perform rpc_migrations.check_conflicts(copy);
    copy.columns := rpc_migrations.plan_columns(copy.old_table, copy.new_table);
    copy := rpc_migrations.remember_copy(copy);
    rows := 0;
    message := rpc_migrations.start_copy(copy);
end;
$function$;


-- A copy that is about to begin, with what follows from the names of its tables; not in the journal yet. Raises RM005 if one of
-- the names has no schema or does not fit.
create or replace function rpc_migrations.named_copy(old_table text, backup text) returns rpc_migrations.copies
language plpgsql stable
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies;
    old_name text[] := parse_ident(old_table);
    backup_name text[] := parse_ident(backup);
begin
    copy.migration := nullif(current_setting('rpc_migrations.migration', true), '');
    if copy.migration is null or array_length(old_name, 1) is distinct from 2 then
        raise exception 'begin_copy takes a table''s name with its schema, and is called in a step of a step file'
        using errcode = 'RM005', hint = 'Write for example rpc_migrations.begin_copy(''public.orders'', ''public.orders_backup'').';
    end if;
    if array_length(backup_name, 1) is distinct from 2 or backup_name[1] <> old_name[1]
        or backup_name[2] = old_name[2] or octet_length(backup_name[2]) > 63 then
        raise exception 'the backup must be in the schema of the old table, under another name of at most 63 bytes'
        using errcode = 'RM005', hint = format('Write for example %I.%I.', old_name[1], left(old_name[2], 40) || '_backup');
    end if;
    copy.state := 'copying';
    copy.schema_name := old_name[1];
    copy.table_name := old_name[2];
    copy.backup_name := backup_name[2];
    copy.old_table := to_regclass(old_table);
    copy.settings := rpc_migrations.session_settings();
    return copy;
end;
$function$;


-- Raises RM001 if the table cannot be rebuilt ("done"; or rolled back), with all reasons and the statements that remove them.
create or replace function rpc_migrations.check_obstacles(relation oid, done text default 'rebuilt') returns void
language plpgsql
set search_path = ''
as $function$
declare
    reasons text := rpc_migrations.obstacles_in_words(relation);
begin
    if reasons is not null then
        raise exception '% cannot be %: %', relation::regclass, done, reasons
        using errcode = 'RM001', detail = coalesce(rpc_migrations.ways_out(relation), ''),
            hint = 'Nothing was changed. Remove or change these first, then run the same command again.';
    end if;
end;
$function$;


-- Inserts a copy that begins into the table of copies, and returns it as it is there.
create or replace function rpc_migrations.remember_copy(copy rpc_migrations.copies) returns rpc_migrations.copies
language plpgsql
set search_path = ''
as $function$
begin
    -- Autovacuum on the new table would be in the way of building it. The swap turns it on again.
    execute format('alter table %s set (autovacuum_enabled = false)', copy.new_table::regclass);
    insert into rpc_migrations.copies (
        migration, state, schema_name, table_name, backup_name, old_table, new_table, source, target,
        keys, columns, definition, alteration, home, settings
    )
    values (
        copy.migration, copy.state, copy.schema_name, copy.table_name, copy.backup_name, copy.old_table, copy.new_table,
        copy.old_table, case when copy.old_table is not null then copy.new_table end,
        rpc_migrations.row_keys(copy.old_table), copy.columns,
        case when copy.old_table is not null then rpc_migrations.table_definition(copy.old_table) end, copy.alteration,
        rpc_migrations.home(), copy.settings
    )
    returning * into copy;
    perform rpc_migrations.work_on(copy);
    return copy;
end;
$function$;


-- How much disk it takes to rebuild a large table, for a message; null for a small one.
create or replace function rpc_migrations.room_in_words(relation oid) returns text
language sql stable
set search_path = ''
as $function$
    select format('it takes about %s of disk, and for a while as much again of WAL', pg_size_pretty(s.size))
    from pg_total_relation_size(relation) as s (size)
    where s.size > 100000000;
$function$;


-- Rehearses what follows, and begins to capture changes; answers a message.
create or replace function rpc_migrations.start_copy(copy rpc_migrations.copies) returns text
language plpgsql
set search_path = ''
as $function$
declare
    not_rehearsed text;
begin
    not_rehearsed := rpc_migrations.rehearse(copy);
    perform rpc_migrations.create_log(copy);
    perform rpc_migrations.begin_capture(copy);
    return concat_ws('; ',
        format('changes of %s are being captured', copy.old_table::regclass) || rpc_migrations.realtime_warning(copy.old_table),
        rpc_migrations.room_in_words(copy.old_table), rpc_migrations.deletions_in_words(copy.old_table),
        rpc_migrations.subscribers_in_words(copy.schema_name, copy.table_name, copy.backup_name), not_rehearsed);
end;
$function$;


-- Raises RM001 if the backup's name is that of a type: a table is a type as well. (An array type gives way, as it does to anything that
-- is created.)
create or replace function rpc_migrations.check_type_of_name(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if copy.old_table is not null and exists (
        select from pg_catalog.pg_type as t
        left join pg_catalog.pg_class as c on c.oid = t.typrelid
        where
            t.typnamespace = to_regnamespace(quote_ident(copy.schema_name)) and t.typname = copy.backup_name
            and coalesce(c.relkind, 'c') = 'c'  -- the others are told as what they are
            and not exists (select from pg_catalog.pg_type as e where e.typarray = t.oid)
    ) then
        raise exception 'type % is already there', rpc_migrations.name_of_backup(copy)
        using errcode = 'RM001', hint = format(
            'Nothing was changed. The original table is to be kept under that name. Write another one into the step file (`-- rebuild: %s backup NAME`, or '
            'what begin_copy is called with), or rename the type, then run the same command again.', copy.old_table::regclass);
    end if;
end;
$function$;


-- What must hold before a copy begins, apart from the old table's own form. Raises RM001 or RM005.
create or replace function rpc_migrations.check_begin(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    has_rows boolean;
    other text;
begin
    perform rpc_migrations.find_restored_tables();
    select c.migration into other
    from rpc_migrations.copies as c
    where c.migration = copy.migration and c.ended_at is null
        or copy.old_table in (c.source, c.target) and c.state in ('copying', 'copied', 'rolling back')
    limit 1;
    if found then
        raise exception 'migration % is already rebuilding this table or another one', other
        using errcode = 'RM005', hint = 'Rebuild one table in a step file, and finish or roll back the other migration first.';
    end if;
    perform rpc_migrations.check_neighbours(copy.migration, copy.old_table);
    perform rpc_migrations.check_size_without_key(copy.old_table);
    perform rpc_migrations.check_type_of_name(copy);
    if to_regclass(rpc_migrations.name_of_backup(copy)) is not null then
        select c.migration into other
        from rpc_migrations.copies as c
        where c.state = 'swapped' and c.old_table = to_regclass(rpc_migrations.name_of_backup(copy));
        raise exception '% is already there', rpc_migrations.name_of_backup(copy)
        using errcode = 'RM001',
            hint = format(
                '%s; or write another name into the step file (`-- rebuild: %s backup NAME`, or what begin_copy is called with). Then run the same command '
                'again.',
                coalesce('It is the way back of migration ' || other || '. If you are sure of that one, finish it (--finish)',
                    'It may hold the only copy of older data, so it is left alone. Rename it, or drop it if you are sure'),
                rpc_migrations.name_in_use(copy));
    end if;
    select string_agg(quote_ident(p.pubname), ', ') into other
    from pg_catalog.pg_publication as p
    where p.puballtables and p.pubname !~ '^supabase_realtime';
    if other is not null then
        raise exception 'publication % is for all tables: the copy would go to its subscribers, which lack its table and stop', other
        using errcode = 'RM001', hint = 'Nothing was changed. Publish schemas instead, in one transaction: drop publication ...; '
            'create publication ... for tables in schema public; Then run the same command again.';
    end if;
    if copy.new_table is null then
        raise exception 'there is no table %', rpc_migrations.new_name(copy)
        using errcode = 'RM005', hint = 'Create it in an earlier step, with the columns that the new table is to have.';
    end if;
    select a.answer into has_rows
    from rpc_migrations.ask(format('select exists (select from %s)', copy.new_table::regclass)) as a (answer boolean);
    if has_rows then
        raise exception '% is not empty', rpc_migrations.new_name(copy)
        using errcode = 'RM005', hint = 'The copy fills it. Take out the step that puts rows into it.';
    end if;
end;
$function$;


-- Raises RM001 for a table without a key that is not small: each replay reads all of it, and so does the swap under its lock.
create or replace function rpc_migrations.check_size_without_key(relation oid) returns void
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    is_too_large boolean;
begin
    if relation is null or rpc_migrations.key_index(relation) is not null then
        return;
    end if;
    select a.answer into is_too_large
    from rpc_migrations.ask(
        format('select count(*) > 10000 from (select from only %s limit 10001) as r', relation::regclass)) as a (answer boolean);
    if is_too_large then
        raise exception '% cannot be rebuilt: it has no primary key, nor a unique index of columns that may not be null, and more than 10,000 rows',
            relation::regclass
        using errcode = 'RM001', hint = 'Nothing was changed. Add one (alter table ... add primary key ...), then run the same command again.';
    end if;
end;
$function$;


-- Raises RM005 while a table that a foreign key connects with this one is being rebuilt: its swap makes foreign keys of this one anew,
-- which would look like an alteration of it.
create or replace function rpc_migrations.check_neighbours(migration text, relation oid) returns void
language plpgsql
set search_path = ''
as $function$
declare
    other record;
begin
    select c.migration, n.neighbour into other
    from rpc_migrations.copies as c
    cross join lateral (select case c.state when 'swapped' then c.new_table else c.source end) as n (neighbour)
    inner join pg_catalog.pg_constraint as k
        on k.contype = 'f' and (k.conrelid, k.confrelid) in ((relation, n.neighbour), (n.neighbour, relation))
    where
        c.migration <> check_neighbours.migration and n.neighbour <> relation
        and (c.state in ('copying', 'copied', 'rolling back') or c.state = 'swapped' and c.unvalidated <> '[]')
    limit 1;
    if found then
        raise exception 'migration % rebuilds %, and a foreign key connects that with this table', other.migration, other.neighbour::regclass
        using errcode = 'RM005', hint = 'Nothing was changed. Finish the other migration or roll it back first, then run the same command again.';
    end if;
end;
$function$;
