-- The rollback. Before the swap it just removes the copy (see 15_abandon.sql). After it the original table, which is the backup, is brought
-- up to date while the application goes on, and takes its place back in another short transaction.

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
        where j.migration = copy.migration and rpc_migrations.is_of_a_rollback(j.step) and j.finished_at is not null and j.undone_at is null;
    end if;
    update rpc_migrations.copies as c
    set
        state = 'rolling back', source = copy.new_table, target = copy.old_table, compared_at = null, chunk_blocks = 16,
        keys = rpc_migrations.keys_of_original(copy),
        columns = (  -- types may have been renamed, on both tables
            select jsonb_agg(n.value || case when n.fits and n.value ->> 'type' = n.value ->> 'old_type'
                then jsonb_build_object('type', format_type(n.type, -1), 'old_type', format_type(n.type, -1)) else '{}' end order by n.place)
            from rpc_migrations.columns_now(copy) as n where not n.is_old
        ) || rpc_migrations.added_to_both(copy),
        filenode = null, caught_up = false, snapshots = null, attempts = 0, longest_attempt = 0
    where c.id = copy.id
    returning c.* into copy;
    perform rpc_migrations.revoke_all(copy.old_table);  -- somebody may have granted themselves a look at the backup
    perform rpc_migrations.quiet_again(copy);  -- or enabled its triggers
    perform rpc_migrations.rehearse_swap_back(copy);
    if discard_changes then
        select coalesce(d.rows, 0), d.message into rows, message from rpc_migrations.count_discarded(copy) as d;
    elsif not rpc_migrations.has_log(copy) then
        perform rpc_migrations.create_log(copy);
        -- Both locks at once: whoever has the parent meanwhile (and its trigger wants the child) would wait for us, and we for them.
        execute format('lock table only %s in share row exclusive mode', copy.new_table::regclass);
        perform rpc_migrations.take_off_keys(copy.old_table, and_cascades => true);
        perform rpc_migrations.begin_capture(copy);
        message := concat_ws('; ',
            format('changes of %s are being captured', copy.new_table::regclass) || rpc_migrations.realtime_warning(copy.new_table),
            rpc_migrations.defaults_in_words(copy),
            rpc_migrations.deletions_in_words(copy.new_table),
            rpc_migrations.subscribers_in_words(copy.schema_name, copy.table_name, copy.backup_name));
    end if;
end;
$function$;


-- For the person: which rows do not get back what they had in the columns that the migration dropped. The original table may not have them
-- any more: deleting a parent also deletes its rows there, and they may have got another parent since. Null: it dropped none.
create or replace function rpc_migrations.defaults_in_words(copy rpc_migrations.copies) returns text
language sql stable
set search_path = ''
as $function$
    select format('rows that were added since, or got another key or parent, may get the default in what was dropped: %s',
        string_agg(quote_ident(d.name), ', '))
    from jsonb_array_elements_text(copy.alteration -> 'dropped') as d (name)
    having count(*) > 0;
$function$;


-- Disables what somebody has enabled of the original table's triggers and rules since the swap. They get back the state that was noted then.
-- Those that were disabled before it stay so; what the first versions left enabled has its state noted now.
create or replace function rpc_migrations.quiet_again(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.quiet_triggers(copy, copy.old_table);
    update rpc_migrations.copies as c
    set
        quieted = rpc_migrations.without_disabled(c.quieted, 'trigger', c.definition) || copy.quieted,
        quieted_rules = rpc_migrations.without_disabled(c.quieted_rules, 'rule', c.definition) || copy.quieted_rules
    where c.id = copy.id;
end;
$function$;


-- States by name, without those of triggers or rules that are disabled in a definition.
create or replace function rpc_migrations.without_disabled(states jsonb, kind text, definition jsonb) returns jsonb
language sql immutable
set search_path = ''
as $function$
    select coalesce(jsonb_object_agg(s.key, s.value), '{}')
    from jsonb_each(states) as s
    where not exists (
        select
        from jsonb_to_recordset(definition) as d (kind text, name text, statement text)
        where d.kind = without_disabled.kind and d.name = s.key and strpos(d.statement, format(' disable %s %I', d.kind, d.name)) > 0
    );
$function$;


-- The columns that both tables had at the swap, as they are now in each: whether a column is still what it was, and its type; null: it is
-- gone. A type that was renamed or moved to another schema (an extension's, say) is still the same, and so is another type that both now have.
create or replace function rpc_migrations.columns_now(copy rpc_migrations.copies)
returns table (value jsonb, place bigint, is_old boolean, relation regclass, name name, fits boolean, type oid, typmod integer)
language sql stable
set search_path = ''
as $function$
    select
        c.value, c.place, t.is_old, t.relation, t.name,
        a.attname is not null and (
            t.type in (format_type(a.atttypid, -1), format_type(a.atttypid, a.atttypmod)) is not false
            or coalesce(c.value ->> 'type' = c.value ->> 'old_type' and a.atttypid = t.other_type, false)
        ),
        a.atttypid, a.atttypmod
    from jsonb_array_elements(copy.columns) with ordinality as c (value, place)
    cross join lateral (
        select (c.value ->> 'name')::name as new_name, coalesce(c.value ->> 'old_name', c.value ->> 'name')::name as old_name
    ) as n
    left join pg_catalog.pg_attribute as new on new.attrelid = copy.new_table and new.attname = n.new_name
    left join pg_catalog.pg_attribute as old on old.attrelid = copy.old_table and old.attname = n.old_name
    cross join lateral (
        values
            (false, copy.new_table::regclass, n.new_name, c.value ->> 'type', old.atttypid),
            (true, copy.old_table::regclass, n.old_name, c.value ->> 'old_type', new.atttypid)
    ) as t (is_old, relation, name, type, other_type)
    left join pg_catalog.pg_attribute as a on a.attrelid = t.relation and a.attname = t.name and a.attnum > 0 and not a.attisdropped;
$function$;


-- Columns that both tables had at the swap and that one of them no longer has, or has with another type, so that changes cannot be
-- brought back into the original table. Null: there are none.
create or replace function rpc_migrations.lost_columns(copy rpc_migrations.copies) returns text
language sql stable
set search_path = ''
as $function$
    select string_agg(
        case when c.type is null then format('column %I of %s is gone (dropped or renamed since)', c.name, c.relation)
            else format('column %I of %s is %s now, and was %s', c.name, c.relation, format_type(c.type, c.typmod),
                c.value ->> case when c.is_old then 'old_type' else 'type' end) end,
        '; ' order by c.relation, c.place)
    from rpc_migrations.columns_now(copy) as c
    where not c.fits;
$function$;


-- How many rows --discard-changes discards, judged by the columns that both tables still have as they were at the swap. Null: that cannot
-- be counted.
create or replace function rpc_migrations.count_discarded(copy rpc_migrations.copies, out rows bigint, out message text)
language plpgsql
set search_path = ''
as $function$
declare
    lost text := rpc_migrations.lost_columns(copy);
begin
    copy.source := copy.new_table;
    copy.target := copy.old_table;
    copy.keys := rpc_migrations.keys_of_original(copy);
    copy.columns := (
        select jsonb_agg(c.value order by c.place)
        from (select n.value, n.place from rpc_migrations.columns_now(copy) as n group by n.value, n.place having bool_and(n.fits)) as c
    );
    if copy.keys is null or exists (
        select from jsonb_array_elements(copy.keys) as k
        where not coalesce(copy.columns, '[]') @> jsonb_build_array(jsonb_build_object('name', k ->> 'name'))
    ) then
        message := format('what was changed since the migration cannot be counted: %s', coalesce(lost, 'the primary key is gone'));
        return;
    end if;
    select d.differing into rows from rpc_migrations.differences(copy) as d;
    message := format('added, changed or deleted since the migration: %s', rpc_migrations.rows_in_words(rows))
        || coalesce(' (without what cannot be compared: ' || lost || ')', '');
end;
$function$;


-- Policies, triggers and rules that somebody has made, altered or dropped on the original table since the swap, and not on the table in use
-- as well: after the rollback they would act on what the application does, or be missing there. So would foreign keys that were removed, if
-- nothing knows of them any more. Null: there are none.
create or replace function rpc_migrations.changed_aside(copy rpc_migrations.copies) returns text
language sql stable
set search_path = ''
as $function$
    with things (relation, kind, name) as (
        select p.polrelid, 'policy', p.polname from pg_catalog.pg_policy as p where p.polrelid in (copy.old_table, copy.new_table)
        union all
        select t.tgrelid, 'trigger', t.tgname
        from pg_catalog.pg_trigger as t
        where t.tgrelid in (copy.old_table, copy.new_table) and not t.tgisinternal and t.tgname !~ '^rpc_migrations_'
        union all
        select r.ev_class, 'rule', r.rulename from pg_catalog.pg_rewrite as r where r.ev_class in (copy.old_table, copy.new_table)
        union all
        select c.conrelid, 'foreign key', c.conname
        from pg_catalog.pg_constraint as c
        where
            c.conrelid in (copy.old_table, copy.new_table) and c.confrelid not in (copy.old_table, copy.new_table)
            and c.contype = 'f' and c.conparentid = 0
        union all
        select copy.old_table, 'foreign key', k.name from rpc_migrations.taken_off_keys(copy.old_table) as k
    ),
    changed as (
        select t.kind, t.name, case t.relation when copy.old_table then '%1$s %2$I of %3$s was made after the swap'
            else '%1$s %2$I of %3$s is gone (dropped or renamed since), and %4$s has it' end as message
        from things as t
        where
            copy.definition is not null  -- the first versions did not note it
            and not exists (select from things as o where o.relation <> t.relation and (o.kind, o.name) = (t.kind, t.name))
            -- A policy that calls a function of the table's rows is no longer there since the swap itself, and is not of this kind.
            and (t.relation = copy.new_table) = exists (
                select from jsonb_to_recordset(copy.definition) as d (kind text, name text) where (d.kind, d.name) = (t.kind, t.name::text))
        union all
        select d.kind, d.name::name, '%1$s %2$I of %3$s was altered after the swap (it was: ' || replace(d.statement, '%', '%%') || ')'
        from jsonb_each(copy.swap_mark -> 'acting') as noted
        inner join jsonb_each(rpc_migrations.acting_on(copy.old_table)) as now using (key)
        inner join jsonb_to_recordset(copy.definition) as d (kind text, name text, statement text) on concat_ws(' ', d.kind, d.name) = noted.key
        where
            copy.swap_mark -> 'version' = to_jsonb(current_setting('server_version_num')::integer / 10000)
            and noted.value -> 0 <> now.value -> 0 and noted.value -> 1 <> now.value -> 1
            and rpc_migrations.acting_on(copy.new_table) -> noted.key -> 0 is distinct from now.value -> 0
    )
    select string_agg(format(m.message, m.kind, m.name, copy.old_table::regclass, copy.new_table::regclass), '; ' order by m.kind, m.name)
    from changed as m;
$function$;


-- Raises RM001 unless both tables are where the swap has put them, in the hands of one owner.
create or replace function rpc_migrations.check_places(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    name_in_use text := rpc_migrations.name_in_use(copy);
    backup text := rpc_migrations.name_of_backup(copy);
    owners text;
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
    select format('%s belongs to %s, and %s to %s', backup, o.relowner::regrole, name_in_use, n.relowner::regrole) into owners
    from pg_catalog.pg_class as o inner join pg_catalog.pg_class as n on n.oid = copy.new_table and n.relowner <> o.relowner
    where o.oid = copy.old_table;
    if found then
        raise exception '%', owners
        using errcode = 'RM001', hint = format('Nothing was changed. Give it back, and run the same command again. To do that, run: alter table %s owner to %s;',
            backup, (select c.relowner::regrole from pg_catalog.pg_class as c where c.oid = copy.new_table));
    end if;
end;
$function$;


-- Raises RM001 if what was written since the swap cannot be brought back into the original table; or cannot be discarded, because some of
-- it is there already.
create or replace function rpc_migrations.check_changes(copy rpc_migrations.copies, discard_changes boolean) returns void
language plpgsql
set search_path = ''
as $function$
declare
    name_in_use text := rpc_migrations.name_in_use(copy);
    backup text := rpc_migrations.name_of_backup(copy);
    reasons text;
begin
    if discard_changes and copy.state = 'rolling back' and rpc_migrations.has_log(copy) then
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
    select string_agg(c.oid::regclass::text, ', ') into reasons
    from pg_catalog.pg_class as c
    where c.oid in (copy.old_table, copy.new_table) and rpc_migrations.key_index(c.oid) is null
        and copy.old_table is not null and not discard_changes and not rpc_migrations.has_no_key(copy);
    if reasons is not null then
        raise exception '% cannot be rolled back with what was written since: there is no primary key any more on %', name_in_use, reasons
        using errcode = 'RM001', hint = 'Nothing was changed. Put it back, then run the same command again; '
            'or roll back with --discard-changes, to the data as it was at the swap.';
    end if;
    if copy.state = 'swapped' and not discard_changes then
        perform rpc_migrations.check_one_way(copy);
    end if;
end;
$function$;


-- What must hold for a rollback after the swap. Raises RM001.
create or replace function rpc_migrations.check_rollback(copy rpc_migrations.copies, discard_changes boolean) returns void
language plpgsql
set search_path = ''
as $function$
declare
    name_in_use text := rpc_migrations.name_in_use(copy);
    reasons text;
begin
    perform rpc_migrations.check_places(copy);
    perform rpc_migrations.check_neighbours(copy.migration, copy.new_table);
    reasons := rpc_migrations.changed_aside(copy);
    if reasons is not null then
        raise exception '% cannot be rolled back: %', name_in_use, reasons
        using errcode = 'RM001', hint = format('Nothing was changed. Drop what was made on %s, make what is gone again, as %s has it, and '
            'what was altered as it was; then run the same command again.', rpc_migrations.name_of_backup(copy), name_in_use);
    end if;
    perform rpc_migrations.check_changes(copy, discard_changes);
    if copy.old_table is not null then
        perform rpc_migrations.check_obstacles(copy.new_table, 'rolled back');
    end if;
end;
$function$;
