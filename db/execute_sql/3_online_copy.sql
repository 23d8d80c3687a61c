-- Rebuilding a table while it is in use: capture changes in a log, copy, replay, compare, swap. In the manner of
-- pg_repack, but in short calls: no lock is held from one transaction to the next.
--
-- A step file calls, in this order: begin_copy, copy_batch, [builds indexes and so on], carry_over, replay, compare,
-- swap, validate_foreign_keys. rollback.sql calls begin_rollback, find_changes, replay, compare, swap_back and
-- validate_foreign_keys. Every one of them works on the one table that the current migration rebuilds.
--
-- Why no write is lost: a trigger on the source writes the primary key of every changed row into the log, in the
-- transaction of the change. Whoever sees a changed row therefore sees its log entry. A copied chunk leaves out every
-- row that has a log entry; the replay makes the target's row equal to the source's current one (or gone), in any
-- order, as often as it likes; and nothing leaves the log before the copy is complete. The swap replays what is left
-- under a lock that no writer gets past.


-- The copy of the migration whose step this is, or null where it rebuilds no table (any more).
create or replace function rpc_migrations.current_copy() returns rpc_migrations.copies
language sql
set search_path = ''
as $function$
    select c.*
    from rpc_migrations.copies as c
    where c.migration = current_setting('rpc_migrations.migration', true) and c.ended_at is null
    for update;
$function$;


-- Names and lists of a copy as SQL text. In a forward copy the source has the old table's form and the target the new
-- one's; in a rollback it is the other way round. Old rows are always looked at as the migration would make them: a
-- NULL in a column that may not be NULL any more is its default.
create or replace function rpc_migrations.copy_parts(
    copy rpc_migrations.copies,
    out source text, out target text, out log text, out keys text, out columns text, out read text, out source_row text, out target_row text
)
language sql stable
set search_path = ''
as $function$
    with parts as (
        select
            c.place,
            quote_ident(c.name) as name,
            case when c.fallback is null then format('%s.%I', old_alias, c.name)
                else format('coalesce(%s.%I, %s)', old_alias, c.name, c.fallback) end as old_value,
            format('%s.%I', new_alias, c.name) as new_value,
            c.type, c.old_type,
            case when c.as_text then '::text collate "C"' else '' end as as_text
        from (values (
            case when copy.source = copy.new_table then 't' else 's' end,
            case when copy.source = copy.new_table then 's' else 't' end
        )) as alias (old_alias, new_alias)
        cross join rows from (jsonb_to_recordset(copy.columns) as (name text, type text, old_type text, fallback text, as_text boolean))
            with ordinality as c (name, type, old_type, fallback, as_text, place)
    ),
    lists as (
        select
            string_agg(p.name, ', ' order by p.place) as columns,
            string_agg(p.old_value, ', ' order by p.place) as old_values,
            string_agg(format('(%s)::%s', p.new_value, p.old_type), ', ' order by p.place) as new_values,
            string_agg(format('(%s)::%s%s', p.old_value, p.type, p.as_text), ', ' order by p.place) as old_row,
            string_agg(format('%s%s', p.new_value, p.as_text), ', ' order by p.place) as new_row
        from parts as p
    )
    select
        copy.source::regclass::text,
        copy.target::regclass::text,
        format('rpc_migrations.log_%s', copy.id),
        (select string_agg(quote_ident(k.name), ', ') from jsonb_to_recordset(copy.keys) as k (name text)),
        l.columns,
        case when copy.source = copy.new_table then l.new_values else l.old_values end,
        case when copy.source = copy.new_table then l.new_row else l.old_row end,
        case when copy.source = copy.new_table then l.old_row else l.new_row end
    from lists as l;
$function$;


-- The condition that two rows have the same primary key, with the operators of the key's own index.
create or replace function rpc_migrations.key_match(copy rpc_migrations.copies, one_alias text, other_alias text) returns text
language sql immutable
set search_path = ''
as $function$
    select string_agg(format('%s.%I operator(%s) %s.%I', one_alias, k.name, k.operator, other_alias, k.name), ' and ')
    from jsonb_to_recordset(copy.keys) as k (name text, operator text);
$function$;


-- The primary key of a table: [{name, operator}], the equality operator being the one of the index's operator class
-- (strategy 3 of a btree), so that no search_path decides what "equal" means.
create or replace function rpc_migrations.primary_key(relation oid) returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_agg(
        jsonb_build_object('name', a.attname, 'operator', format('%I.%s', n.nspname, o.oprname)) order by k.place
    )
    from pg_catalog.pg_index as i
    cross join lateral unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality as k (attnum, opclass, place)
    inner join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
    inner join pg_catalog.pg_opclass as c on c.oid = k.opclass
    inner join pg_catalog.pg_amop as m
        on m.amopfamily = c.opcfamily and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype and m.amopstrategy = 3
    inner join pg_catalog.pg_operator as o on o.oid = m.amopopr
    inner join pg_catalog.pg_namespace as n on n.oid = o.oprnamespace
    where i.indrelid = relation and i.indisprimary and k.place <= i.indnkeyatts;
$function$;


-- Whether a column must be compared as text: its type has no hash of its own (json, xml, point), or it is a text whose
-- equality may take different strings for the same one.
create or replace function rpc_migrations.compares_as_text(type oid) returns boolean
language plpgsql stable
set search_path = ''
as $function$
declare
    hash bigint;
begin
    if exists (select from pg_catalog.pg_type as t where t.oid = compares_as_text.type and t.typcategory = 'S') then
        return true;
    end if;
    execute format('select hash_record_extended(row(null::%s), 0)', format_type(compares_as_text.type, -1)) into hash;
    return false;
exception when undefined_function then
    return true;
end;
$function$;


-- Which columns are copied and how: every column of the old table that the new one has and does not generate.
-- Raises RM001, naming the columns, where the old rows cannot be held by the new table as they are.
create or replace function rpc_migrations.plan_columns(old_table oid, new_table oid) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    col record;
    plan jsonb := '[]';
    problems text[] := '{}';
    fallback text;
begin
    for col in
        select
            o.attname as name, o.atttypid as old_type, n.atttypid as new_type,
            o.attname is not null as in_old, n.attname is not null as in_new,
            format_type(o.atttypid, o.atttypmod) as old_type_name, format_type(n.atttypid, n.atttypmod) as new_type_name,
            o.atttypid = n.atttypid and n.atttypmod in (-1, o.atttypmod) as same_type,
            n.attname as new_name, n.attnotnull and not coalesce(o.attnotnull, false) as must_fill,
            o.attgenerated as old_generated, n.attgenerated, n.attidentity, pg_get_expr(d.adbin, d.adrelid) as default_value,
            o.attcollation <> n.attcollation and o.attnum = any (
                select unnest(i.indkey::int2[]) from pg_catalog.pg_index as i where i.indrelid = old_table and i.indisprimary
            ) as other_order,
            (
                select string_agg(distinct w.ev_class::regclass::text, ', ')
                from pg_catalog.pg_depend as p
                inner join pg_catalog.pg_rewrite as w on w.oid = p.objid and p.classid = 'pg_catalog.pg_rewrite'::regclass
                where p.refclassid = 'pg_catalog.pg_class'::regclass and p.refobjid = old_table and p.refobjsubid = o.attnum
            ) as views
        from (select a.* from pg_catalog.pg_attribute as a where a.attrelid = old_table and a.attnum > 0 and not a.attisdropped) as o
        full join (select a.* from pg_catalog.pg_attribute as a where a.attrelid = new_table and a.attnum > 0 and not a.attisdropped) as n
            on n.attname = o.attname
        left join pg_catalog.pg_attrdef as d on d.adrelid = n.attrelid and d.adnum = n.attnum
        order by n.attnum
    loop
        fallback := null;
        if not col.in_old then
            if col.must_fill and col.default_value is null and col.attidentity = '' then
                problems := array_append(problems, format('column %I of the new table is not null and has no default, and the old table lacks it', col.new_name));
            end if;
            continue;
        end if;
        continue when col.attgenerated <> '';
        if not rpc_migrations.type_fits(col.old_type, col.new_type) then
            problems := array_append(problems, format('column %I is %s and cannot become %s', col.name, col.old_type_name, col.new_type_name));
            continue;
        end if;
        if col.old_generated <> '' then
            problems := array_append(problems, format('column %I is generated in the old table and not in the new one, so there is no way back', col.name));
        end if;
        if col.views is not null and col.old_type_name <> col.new_type_name then
            problems := array_append(problems, format('column %I becomes %s, and a view''s columns cannot change: %s',
                col.name, col.new_type_name, col.views));
        end if;
        if col.other_order then
            problems := array_append(problems, format('column %I belongs to the primary key and has another collation', col.name));
        end if;
        if col.must_fill and col.default_value is not null then
            -- Evaluated once, so that every NULL becomes the same value and the comparison before the swap can tell.
            execute format('select quote_literal((%s)::text) || %L', col.default_value, '::' || col.new_type_name) into fallback;
        end if;
        if col.must_fill and fallback is null then
            problems := problems || rpc_migrations.count_problem(old_table, format('%I is null', col.name), format('%I may not be null', col.name));
        end if;
        if not col.same_type then
            problems := problems || rpc_migrations.misfits(old_table, col.name, col.old_type_name, col.new_type_name);
        end if;
        plan := plan || jsonb_build_object(
            'name', col.name, 'type', format_type(col.new_type, -1), 'old_type', format_type(col.old_type, -1),
            'fallback', fallback, 'as_text', rpc_migrations.compares_as_text(col.new_type)
        );
    end loop;
    if problems <> '{}' then
        raise exception '% cannot be held by the new table: %', old_table::regclass, array_to_string(problems, '; ')
        using errcode = 'RM001', hint = 'Nothing was changed. Mend these rows or columns, then run the same command again.';
    end if;
    return plan;
end;
$function$;


-- Whether every value of one type may be assigned to another without being asked for by name: the same type, or a cast
-- that an INSERT makes on its own.
create or replace function rpc_migrations.type_fits(old_type oid, new_type oid) returns boolean
language sql stable
set search_path = ''
as $function$
    select
        old_type = new_type
        or exists (
            select from pg_catalog.pg_cast as c
            where c.castsource = old_type and c.casttarget = new_type and c.castcontext in ('i', 'a')
        )
        or exists (select from pg_catalog.pg_type as t where t.oid = new_type and t.typcategory = 'S');
$function$;


-- What is wrong with the values of a column when it gets another type: those that would not be the same again if they
-- came back to the old one (cut off or rounded), or a value that makes PostgreSQL refuse the cast. Empty where all fit. Types
-- that are written in other words each time (json) are not looked at.
create or replace function rpc_migrations.misfits(relation oid, column_name text, old_type text, new_type text) returns text[]
language plpgsql
set search_path = ''
as $function$
begin
    return rpc_migrations.count_problem(
        relation,
        case when old_type ~ '^json' then format('(%I)::%s is null and %I is not null', column_name, new_type, column_name)
            else format('(%1$I)::%2$s::%3$s is distinct from %1$I', column_name, new_type, old_type) end,
        format('%I does not fit %s', column_name, new_type));
exception when data_exception or integrity_constraint_violation then
    return array[format('%I does not fit %s (%s)', column_name, new_type, sqlerrm)];
end;
$function$;


-- A sentence about the rows for which a condition holds, with the query that finds them; empty where there are none.
create or replace function rpc_migrations.count_problem(relation oid, condition text, problem text) returns text[]
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    found_rows bigint;
begin
    execute format('select count(*) from only %s where %s', relation::regclass, condition) into found_rows;
    if found_rows = 0 then
        return '{}';
    end if;
    return array[format('%s in %s row(s), which this query finds: select * from %s where %s', problem, found_rows, relation::regclass, condition)];
end;
$function$;


-- Makes the log of a copy and the trigger function that writes it. The function belongs to us and runs with our
-- rights: the application's roles may not even see the schema.
create or replace function rpc_migrations.create_log(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    old_keys text;
    new_keys text;
begin
    select string_agg(format('old.%I', k.name), ', '), string_agg(format('new.%I', k.name), ', ') into old_keys, new_keys
    from jsonb_to_recordset(copy.keys) as k (name text);

    execute format('create table %s as select %s from %s with no data', parts.log, parts.keys, parts.source);
    execute format(
        'alter table %s add column rpc_migrations_id bigint generated always as identity primary key, '
        'add column rpc_migrations_truncated boolean not null default false', parts.log);
    execute format('create index on %s (%s)', parts.log, parts.keys);
    execute format('create index on %s (rpc_migrations_id) where rpc_migrations_truncated', parts.log);
    execute format('revoke all on table %s from public, anon, authenticated, service_role', parts.log);
    execute format(
        'create function rpc_migrations.capture_%s() returns trigger language plpgsql security definer set search_path = %L as %L',
        copy.id, '', format(
            $body$
            begin
                if tg_op = 'TRUNCATE' then
                    insert into %1$s (rpc_migrations_truncated) values (true);
                    return null;
                end if;
                if tg_op in ('UPDATE', 'DELETE') then
                    insert into %1$s (%2$s) values (%3$s);
                end if;
                if tg_op = 'INSERT' or (tg_op = 'UPDATE' and not (%5$s)) then
                    insert into %1$s (%2$s) values (%4$s);
                end if;
                return null;
            end;
            $body$,
            parts.log, parts.keys, old_keys, new_keys, rpc_migrations.key_match(copy, 'old', 'new')));
    execute format('revoke all on function rpc_migrations.capture_%s() from public, anon, authenticated, service_role', copy.id);
end;
$function$;


-- Begins to capture the changes of the source. The lock that the triggers need waits for every transaction that has
-- written to the table, so each change is either there for the copy to see or in the log. The triggers fire always:
-- also for a session that plays a replica's role.
create or replace function rpc_migrations.begin_capture(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    source text := copy.source::regclass;
begin
    execute format('lock table only %s in share row exclusive mode', source);
    execute format(
        'create trigger rpc_migrations_capture after insert or update or delete on %s for each row execute function rpc_migrations.capture_%s()',
        source, copy.id);
    execute format(
        'create trigger rpc_migrations_capture_truncate after truncate on %s for each statement execute function rpc_migrations.capture_%s()',
        source, copy.id);
    execute format(
        'alter table %s enable always trigger rpc_migrations_capture, enable always trigger rpc_migrations_capture_truncate', source);
    perform rpc_migrations.check_source(copy);
end;
$function$;


-- Checks, under a lock, that the source is still what it was when the copy began and that nothing came to depend on it that
-- cannot be carried over. In a rollback the source is the new table, which only steps aside: there it may have changed.
-- Raises RM003 with what has changed.
create or replace function rpc_migrations.check_source(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    changes text;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        -- A snapshot taken before the lock would hide what was written until then.
        raise exception 'the transaction is "%"', current_setting('transaction_isolation')
        using errcode = 'RM005', hint = 'Run this in a transaction that is "read committed".';
    end if;
    select string_agg(o, '; ') into changes from rpc_migrations.obstacles(copy.source) as o;
    if copy.state <> 'rolling back' and rpc_migrations.table_definition(copy.source) <> copy.definition then
        changes := concat_ws('; ', rpc_migrations.definition_changes(copy.definition, rpc_migrations.table_definition(copy.source)), changes);
    end if;
    if to_regclass(format('rpc_migrations.log_%s', copy.id)) is not null and (
        select count(*) <> 2
        from pg_catalog.pg_trigger as t
        where t.tgrelid = copy.source and t.tgname ~ '^rpc_migrations_capture' and t.tgenabled = 'A'
    ) then
        changes := concat_ws('; ', 'its triggers were switched off, so that changes may have been missed', changes);
    end if;
    if changes is not null then
        raise exception '% was altered since the copy began: %', copy.source::regclass, changes
        using errcode = 'RM003',
            hint = 'No table in use was changed by this. Take the alteration back and run the same command again; or, before '
                'the swap, roll the migration back (which takes away the copy only) and begin anew.';
    end if;
end;
$function$;


-- Keeps the source from being truncated, rewritten or altered until the end of this transaction: a lock that no read or
-- write conflicts with. Once it is held, a truncation is either in the log or will not happen before we are done.
create or replace function rpc_migrations.hold_source(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if not exists (select from pg_catalog.pg_class as c where c.oid = copy.source) then
        raise exception '%.% was dropped while it was being rebuilt', quote_ident(copy.schema_name), quote_ident(copy.table_name)
        using errcode = 'RM003', hint = 'Roll the migration back, which takes away the copy.';
    end if;
    execute format('lock table only %s in access share mode', copy.source::regclass);
    perform rpc_migrations.check_source(copy);
end;
$function$;


-- Begins to rebuild a table: checks that it can be done, gives the new table the columns that only the old one has, and
-- begins to capture changes. "new_table" has been created by an earlier step, empty, in the schema rpc_migrations and
-- under the name that it will have (so that everything that PostgreSQL names after it is named rightly). Where there is
-- no old table there is nothing to copy. Raises RM001 where the old table cannot be carried over, with all reasons.
create or replace function rpc_migrations.begin_copy(old_table text, backup text, out rows bigint, out message text)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    copy rpc_migrations.copies;
    old_name text[] := parse_ident(old_table);
    backup_name text[] := parse_ident(backup);
    further record;
    reasons text;
begin
    copy.migration := nullif(current_setting('rpc_migrations.migration', true), '');
    copy.schema_name := old_name[1];
    copy.table_name := old_name[2];
    copy.backup_name := backup_name[array_upper(backup_name, 1)];
    copy.old_table := to_regclass(old_table);
    copy.new_table := to_regclass('rpc_migrations.' || quote_ident(copy.table_name));
    perform rpc_migrations.check_begin(copy, old_name, backup_name);
    execute format('revoke all on table %s from public, anon, authenticated, service_role', copy.new_table::regclass);
    -- A worker that vacuums or analyzes the new table would be in the way of building it. The swap turns it on again.
    execute format('alter table %s set (autovacuum_enabled = false)', copy.new_table::regclass);

    if copy.old_table is null then
        insert into rpc_migrations.copies (migration, state, schema_name, table_name, backup_name, new_table)
        values (copy.migration, 'copied', copy.schema_name, copy.table_name, copy.backup_name, copy.new_table);
        rows := 0;
        message := format('there is no %s yet: nothing to copy', old_table);
        return;
    end if;

    select string_agg(o, '; ') into reasons from rpc_migrations.obstacles(copy.old_table) as o;
    if reasons is not null then
        raise exception '% cannot be rebuilt: %', copy.old_table::regclass, reasons
        using errcode = 'RM001', hint = 'Nothing was changed. Take these away or change them first, then run the same command again.';
    end if;
    for further in
        select m.statement
        from rpc_migrations.missing_in_target(copy.old_table, copy.new_table, copy.new_table::regclass::text, 'columns') as m
    loop
        execute further.statement;
    end loop;
    perform rpc_migrations.share_sequences(copy);

    insert into rpc_migrations.copies (
        migration, state, schema_name, table_name, backup_name, old_table, new_table, source, target,
        keys, columns, definition
    )
    values (
        copy.migration, 'copying', copy.schema_name, copy.table_name, copy.backup_name, copy.old_table, copy.new_table,
        copy.old_table, copy.new_table,
        rpc_migrations.primary_key(copy.old_table), rpc_migrations.plan_columns(copy.old_table, copy.new_table),
        rpc_migrations.table_definition(copy.old_table)
    )
    returning * into copy;
    perform rpc_migrations.create_log(copy);
    perform rpc_migrations.begin_capture(copy);
    rows := 0;
    message := format('changes of %s are being captured', copy.old_table::regclass);
end;
$function$;


-- Where a column is serial in both tables, the new one draws from the old one's sequence: with its position and rights.
create or replace function rpc_migrations.share_sequences(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    col record;
begin
    for col in
        select
            a.attname as name,
            pg_get_serial_sequence(copy.old_table::regclass::text, a.attname) as old_sequence,
            pg_get_serial_sequence(copy.new_table::regclass::text, a.attname) as new_sequence
        from pg_catalog.pg_attribute as o
        inner join pg_catalog.pg_attribute as a on a.attrelid = copy.new_table and a.attname = o.attname and a.attidentity = ''
        where o.attrelid = copy.old_table and o.attnum > 0 and o.attidentity = '' and not a.attisdropped
    loop
        continue when col.old_sequence is null or col.new_sequence is null;
        execute format('alter table %s alter column %I set default nextval(%L::regclass)', copy.new_table::regclass, col.name, col.old_sequence);
        execute format('drop sequence %s', col.new_sequence);
    end loop;
end;
$function$;


-- What must hold before a copy begins, apart from the old table's own form. Raises RM001 or RM005.
create or replace function rpc_migrations.check_begin(copy rpc_migrations.copies, old_name text[], backup_name text[]) returns void
language plpgsql
set search_path = ''
as $function$
declare
    has_rows boolean;
    other text;
begin
    if copy.migration is null or array_length(old_name, 1) is distinct from 2 then
        raise exception 'begin_copy takes a table''s name with its schema, and is called in a step of a step file'
        using errcode = 'RM005', hint = 'Write for example rpc_migrations.begin_copy(''public.orders'', ''public.orders_backup'').';
    end if;
    if array_length(backup_name, 1) is distinct from 2 or backup_name[1] <> old_name[1]
        or backup_name[2] = old_name[2] or octet_length(backup_name[2]) > 63 then
        raise exception 'the backup must be in the schema of the old table, under another name of at most 63 bytes'
        using errcode = 'RM005', hint = format('Write for example %I.%I.', old_name[1], left(old_name[2], 40) || '_backup');
    end if;
    select c.migration into other
    from rpc_migrations.copies as c
    where c.migration = copy.migration and c.ended_at is null
        or copy.old_table in (c.source, c.target) and c.state in ('copying', 'copied', 'rolling back')
    limit 1;
    if found then
        raise exception 'migration % already rebuilds a table, or this one', other
        using errcode = 'RM005', hint = 'Rebuild one table in a step file, and finish or roll back the other migration first.';
    end if;
    if to_regclass(format('%I.%I', old_name[1], copy.backup_name)) is not null then
        raise exception '%.% is already there', quote_ident(old_name[1]), quote_ident(copy.backup_name)
        using errcode = 'RM001',
            hint = 'It may hold the only copy of older data, so it is left alone. Rename it, or drop it if you are sure, then run the same command again.';
    end if;
    if copy.new_table is null then
        raise exception 'there is no table rpc_migrations.%', quote_ident(copy.table_name)
        using errcode = 'RM005', hint = 'Create it in an earlier step, with the columns that the new table shall have.';
    end if;
    if exists (select from pg_catalog.pg_constraint as c where c.conrelid = copy.new_table and c.confrelid = copy.new_table) then
        raise exception 'the new table has a foreign key that points at itself'
        using errcode = 'RM005', hint = 'Leave it out: the old table''s is carried over; add a new one in a step after the swap.';
    end if;
    execute format('select exists (select from %s)', copy.new_table::regclass) into has_rows;
    if has_rows then
        raise exception 'rpc_migrations.% is not empty', quote_ident(copy.table_name)
        using errcode = 'RM005', hint = 'The copy fills it. Take out the step that puts rows into it.';
    end if;
end;
$function$;


-- Triggers of the target stay quiet until the swap: they have fired once, when the application wrote the row.
create or replace function rpc_migrations.quiet_triggers(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    noisy record;
begin
    for noisy in
        select t.tgname, t.tgenabled
        from pg_catalog.pg_trigger as t
        where t.tgrelid = copy.target and not t.tgisinternal and t.tgenabled <> 'D'
    loop
        execute format('alter table %s disable trigger %I', copy.target::regclass, noisy.tgname);
        update rpc_migrations.copies as c
        set quieted = c.quieted || jsonb_build_object(noisy.tgname, noisy.tgenabled)
        where c.id = copy.id;
    end loop;
end;
$function$;


-- Begins the scan of a table at its first block, the first time and whenever the table has another file than before
-- (TRUNCATE, VACUUM FULL, CLUSTER): the places where rows stood mean nothing then. The lock, which only such commands
-- conflict with, keeps the answer true until the end of the transaction.
create or replace function rpc_migrations.rewind_if_rewritten(copy rpc_migrations.copies, scanned oid) returns rpc_migrations.copies
language plpgsql
set search_path = ''
as $function$
begin
    execute format('lock table only %s in access share mode', scanned::regclass);
    if copy.filenode is distinct from pg_relation_filenode(scanned) then
        update rpc_migrations.copies as c
        set
            filenode = pg_relation_filenode(scanned), next_block = 0,
            end_block = pg_relation_size(scanned) / current_setting('block_size')::bigint
        where c.id = copy.id
        returning c.* into copy;
    end if;
    return copy;
end;
$function$;


-- Copies rows in physical order, chunk by chunk, until about a second has gone by. Chunks grow while they are quick and
-- shrink while they are slow; after a statement timeout the caller asks for smaller ones (see batch_size).
create or replace function rpc_migrations.copy_batch(out done boolean, out rows bigint, out progress double precision)
language plpgsql
set search_path = ''
set row_security = off
set jit = off
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    parts record;
    chunk_rows bigint;
begin
    if copy.id is null then
        raise exception 'no table is being rebuilt by this migration'
        using errcode = 'RM005', hint = 'Call rpc_migrations.begin_copy in an earlier step of the same step file.';
    end if;
    rows := 0;
    if copy.state = 'copying' then
        perform rpc_migrations.quiet_triggers(copy);
        perform rpc_migrations.hold_source(copy);
        copy := rpc_migrations.rewind_if_rewritten(copy, copy.source);
        parts := rpc_migrations.copy_parts(copy);
        if copy.next_block = 0 then
            execute format('truncate table only %s', parts.target);
        end if;
        if pg_relation_size(parts.log) > 16000000 then
            -- Each chunk would read all of a long log; looking up each row's key costs a little more and stays the same.
            perform set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true);
        end if;
        for chunk_rows in
            select c.rows from rpc_migrations.each_chunk(copy, format(
                'insert into %1$s (%2$s) overriding system value select %3$s from only %4$s as s '
                'where s.ctid >= $1 and s.ctid < $2 and not exists (select from %5$s as l where %6$s)',
                parts.target, parts.columns, parts.read, parts.source, parts.log, rpc_migrations.key_match(copy, 'l', 's')
            )) as c
        loop
            rows := rows + chunk_rows;
        end loop;
        select c.* into copy from rpc_migrations.copies as c where c.id = copy.id;
        if copy.next_block >= copy.end_block then
            update rpc_migrations.copies as c set state = 'copied' where c.id = copy.id returning c.* into copy;
        end if;
    end if;
    done := copy.state <> 'copying';
    progress := case when done then 1 else copy.next_block::double precision / copy.end_block end;
end;
$function$;


-- Runs a statement for one chunk of blocks after another, as ($1 <= ctid < $2), until about a second has gone by or the
-- last block is done, and remembers where it stopped. Answers the rows of each chunk.
create or replace function rpc_migrations.each_chunk(copy rpc_migrations.copies, statement text) returns table (rows bigint)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    began timestamptz := clock_timestamp();
    chunk_began timestamptz;
    chunk_seconds double precision;
    chunk bigint;
    last_block bigint;
begin
    while copy.next_block < copy.end_block and clock_timestamp() < began + interval '1 second' loop
        chunk := rpc_migrations.batch_size(copy.chunk_blocks);
        last_block := least(copy.next_block + chunk, copy.end_block);
        chunk_began := clock_timestamp();
        execute statement using format('(%s,0)', copy.next_block)::tid, format('(%s,0)', last_block)::tid;
        get diagnostics rows = row_count;
        return next;
        chunk_seconds := extract(epoch from clock_timestamp() - chunk_began);
        copy.next_block := last_block;
        copy.chunk_blocks := case
            when chunk_seconds < 0.15 then least(chunk * 2, 65536)
            when chunk_seconds > 0.5 then greatest(chunk / 4, 1)
            else chunk
        end;
    end loop;
    update rpc_migrations.copies as c
    set next_block = copy.next_block, chunk_blocks = copy.chunk_blocks
    where c.id = copy.id;
end;
$function$;


-- Builds on the new table, one a call, each constraint and index of the old table that the step file has not defined
-- (foreign keys as not valid first, then validated in a call of their own).
create or replace function rpc_migrations.carry_over(out done boolean, out rows bigint, out message text)
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    next_one record;
begin
    done := true;
    rows := 0;
    if copy.old_table is null or copy.state <> 'copied' then
        return;
    end if;
    select m.* into next_one
    from rpc_migrations.missing_in_target(copy.source, copy.target, copy.target::regclass::text, 'build') as m
    order by m.kind = 'foreign key', m.kind <> 'primary key', m.place
    limit 1;
    if not found then
        select 'foreign key' as kind, c.conname::text as name,
            format('alter table %s validate constraint %I', copy.target::regclass, c.conname) as statement
        into next_one
        from pg_catalog.pg_constraint as c
        where
            c.conrelid = copy.target and c.contype = 'f' and not c.convalidated
            and not exists (
                select from pg_catalog.pg_constraint as o
                where o.conrelid = copy.source and o.conname = c.conname and not o.convalidated
            )
        limit 1;
    end if;
    if found then
        execute next_one.statement;
        done := false;
        rows := 1;
        message := concat_ws(' ', next_one.kind, next_one.name);
    end if;
end;
$function$;


-- Takes a number of entries from the log and makes the target's rows with these keys equal to the source's, or gone.
-- One statement, hence one snapshot: what is read of the log and of the source belongs together. Entries are deleted by
-- the ids that were read, never by "up to the highest", because a transaction with a lower id may commit later. Rows
-- are deleted first and inserted then, so that values may change places between rows under a unique index.
-- Answers how many entries were taken. Always by index: a plan that reads a whole table for each batch would be chosen
-- for lack of statistics, and take the longer the larger the table is.
create or replace function rpc_migrations.replay_entries(copy rpc_migrations.copies, entries bigint) returns bigint
language plpgsql
set search_path = ''
set row_security = off
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    taken_entries bigint;
begin
    -- Those that can wait for the commit would raise their errors where nobody catches them.
    set constraints all immediate;
    execute format(
        $sql$
        with taken as materialized (
            select l.* from %1$s as l order by l.rpc_migrations_id limit $1
        ),
        forgotten as (
            delete from %1$s as l using taken as t where l.rpc_migrations_id = t.rpc_migrations_id
        ),
        keys as materialized (select distinct %2$s from taken),
        gone as (
            delete from only %3$s as t using keys as k where %4$s returning 1
        ),
        present as (
            insert into %3$s (%5$s) overriding system value
            select %6$s from keys as k inner join only %7$s as s on %8$s
            where (select count(*) from gone) is not null
        )
        select count(*) from taken
        $sql$,
        parts.log, parts.keys, parts.target, rpc_migrations.key_match(copy, 't', 'k'), parts.columns, parts.read, parts.source,
        rpc_migrations.key_match(copy, 's', 'k'))
    into taken_entries
    using entries;
    return taken_entries;
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
        execute format('delete from %s where rpc_migrations_truncated', log);
        execute format('truncate table only %s', copy.target::regclass);
    end if;
end;
$function$;


-- Replays the log until little is left of it, for about a second. A conflict with a unique index or a foreign key may
-- be a change that is in the log but was not among the entries taken, so it is no error here: the batch is taken back
-- and a later one takes more. What is left for the swap is replayed with all that there is, and has to fit.
create or replace function rpc_migrations.replay(out done boolean, out rows bigint, out message text)
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    began timestamptz := clock_timestamp();
    entries bigint := rpc_migrations.batch_size(5000);
    taken bigint;
begin
    rows := 0;
    done := copy.source is null or copy.state = 'copying';
    if done then
        return;
    end if;
    perform rpc_migrations.quiet_triggers(copy);
    perform rpc_migrations.hold_source(copy);
    perform rpc_migrations.replay_truncation(copy);
    while not done and clock_timestamp() < began + interval '1 second' loop
        begin
            taken := rpc_migrations.replay_entries(copy, entries);
            rows := rows + taken;
            done := taken < least(entries, 500);
            message := null;
        exception when unique_violation or foreign_key_violation then
            message := sqlerrm;
            done := entries >= 80000;
            entries := entries * 4;
        end;
    end loop;
end;
$function$;


-- Compares source and target in one snapshot, by the number of rows and a hash of all columns that both have, in which
-- the order of the rows plays no part. Rows with an entry in the log are left out: the replay will see to them.
-- Raises RM004 where they differ, with the number of differing rows and up to five of their keys.
create or replace function rpc_migrations.compare(out rows bigint, out message text)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    parts record;
    result record;
    differing bigint;
    examples text;
begin
    rows := 0;
    if copy.source is null or copy.state = 'copying' then
        return;
    end if;
    perform rpc_migrations.hold_source(copy);
    perform rpc_migrations.replay_truncation(copy);
    parts := rpc_migrations.copy_parts(copy);
    execute format(
        $sql$
        select s.rows as source_rows, s.hash as source_hash, t.rows as target_rows, t.hash as target_hash
        from (
            select count(*) as rows, bit_xor(hash_record_extended(row(%1$s), 0)) as hash
            from only %2$s as s where not exists (select from %5$s as l where %6$s)
        ) as s
        cross join (
            select count(*) as rows, bit_xor(hash_record_extended(row(%3$s), 0)) as hash
            from only %4$s as t where not exists (select from %5$s as l where %7$s)
        ) as t
        $sql$,
        parts.source_row, parts.source, parts.target_row, parts.target, parts.log,
        rpc_migrations.key_match(copy, 'l', 's'), rpc_migrations.key_match(copy, 'l', 't'))
    into result;
    if result.source_rows <> result.target_rows or result.source_hash is distinct from result.target_hash then
        select d.differing, d.examples into differing, examples from rpc_migrations.differences(copy) as d;
        raise exception '% and its new version differ in % row(s)', parts.source, differing
        using errcode = 'RM004', detail = format('For example those with the primary keys: %s', examples),
            hint = 'Nothing was changed. Roll the migration back and run it again; if it happens again, do not use it for this table.';
    end if;
    update rpc_migrations.copies as c set compared_at = clock_timestamp() where c.id = copy.id;
    rows := result.source_rows;
    message := 'source and target are the same';
end;
$function$;


-- How many rows differ between source and target, and the primary keys of up to five of them. Rows with an entry in the
-- log, where there is one, are left out.
create or replace function rpc_migrations.differences(copy rpc_migrations.copies, out differing bigint, out examples text)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    not_logged text := '';
begin
    if to_regclass(parts.log) is not null then
        not_logged := format('where not exists (select from %s as l where %s)', parts.log, rpc_migrations.key_match(copy, 'l', 'd'));
    end if;
    execute format(
        $sql$
        with differing as (
            select %1$s from only %2$s as s
            where not exists (select from only %3$s as t where %4$s and row(%5$s)::record operator(pg_catalog.*=) row(%6$s)::record)
            union
            select %1$s from only %3$s as t
            where not exists (select from only %2$s as s where %4$s)
        ),
        counted as (select d.*, row_number() over () as place from differing as d %7$s)
        select count(*), string_agg(row(%1$s)::text, ' ') filter (where c.place <= 5) from counted as c
        $sql$,
        parts.keys, parts.source, parts.target, rpc_migrations.key_match(copy, 's', 't'), parts.source_row, parts.target_row, not_logged)
    into differing, examples;
end;
$function$;
