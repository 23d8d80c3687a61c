-- A rebuild written as ALTER TABLE. The statements are run on an empty twin of the table, which is undone afterwards: what they have
-- made of it is read from the catalogs, and is what the new table will be. Columns are matched by their numbers, so that a renamed
-- one keeps its values and a dropped one does not come back.
--
-- A sample of the rows goes through the statements as well, and must come out as the copy would make it: if the statements do anything
-- to rows that was not understood here, they are refused before anything changes.

-- Begins to rebuild a table by ALTER TABLE: "alterations" are the texts that follow the table's name, "conversions" the expressions
-- of those that say "type ... using", by column. All else is as with begin_copy. Raises RM001 where it cannot be done.
create or replace function rpc_migrations.begin_rebuild(
    old_table text, backup text, alterations text[], conversions jsonb default '{}', out rows bigint, out message text
)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.named_copy(old_table, backup);
begin
    if copy.old_table is null then
        raise exception 'there is no table %', old_table
        using errcode = 'RM001', hint = 'Nothing was changed. Put the table''s name into the line `-- rebuild:`, or create the table in a step before.';
    end if;
    perform rpc_migrations.check_obstacles(copy.old_table);
    perform rpc_migrations.work_on(copy);
    execute format('lock table only %s in access share mode', copy.old_table::regclass);
    copy.alteration := rpc_migrations.try_alterations(copy, alterations, conversions);
    copy.new_table := rpc_migrations.make_altered(copy);
    perform rpc_migrations.check_begin(copy);
    perform rpc_migrations.close_to_others();
    copy.columns := rpc_migrations.plan_altered_columns(copy, copy.new_table, with_rows => true);
    copy := rpc_migrations.remember_copy(copy);
    perform rpc_migrations.try_copy(copy);
    perform rpc_migrations.check_rules(copy);
    rows := 0;
    message := concat_ws('; ', rpc_migrations.start_copy(copy), rpc_migrations.one_way_in_words(copy));
end;
$function$;


-- Begins the rebuild that is a later migration of a file, with the text of its step, and undoes that. Raises what the beginning raises,
-- but ignores that others hold a lock that it needs.
create or replace function rpc_migrations.rehearse_beginning(migration text, query text) returns void
language plpgsql
set search_path = ''
set lock_timeout = '100ms'
as $function$
begin
    perform set_config('rpc_migrations.migration', migration, true);
    execute query;
    raise exception using errcode = 'RM099';
exception when sqlstate 'RM099' or lock_not_available then
    null;
end;
$function$;


-- Plans the copy without copying a row, so that PostgreSQL refuses now what it would not assign.
create or replace function rpc_migrations.try_copy(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
begin
    perform rpc_migrations.run(format(
        'insert into %s (%s) overriding system value select %s from only %s as s where false', parts.target, parts.columns, parts.read, parts.source));
end;
$function$;


-- Raises RM001 if rows violate a check or foreign key that the statements have added, which would otherwise fail after the copy. It does
-- so all the same if it is about columns that the old table lacks, or about the row as a whole, or uses operators that are not found here.
create or replace function rpc_migrations.check_rules(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    rule record;
    broken bigint;
    problems text[] := '{}';
begin
    for rule in
        select r.*
        from jsonb_to_recordset(copy.alteration -> 'rules') as r (name text, broken text, columns text[])
        where not exists (
            select from unnest(r.columns) as c (name)
            where c.name not in (select p.name from jsonb_to_recordset(copy.columns) as p (name text))
        )
    loop
        begin
            select a.rows into broken
            from rpc_migrations.ask(format(
                'select count(*) from (select %s from only %s as s) as n (%s) where %s',
                parts.read, parts.source, parts.columns, rule.broken)) as a (rows bigint);
        exception when undefined_function or ambiguous_function or insufficient_privilege or undefined_table then
            broken := 0;
        end;
        if broken > 0 then
            problems := problems || format('the constraint %I is violated by %s', rule.name, rpc_migrations.rows_in_words(broken));
        end if;
    end loop;
    perform rpc_migrations.refuse_problems(copy.old_table, problems);
end;
$function$;


-- What a rollback after the swap cannot bring back, for a message. Null: nothing.
create or replace function rpc_migrations.one_way_in_words(copy rpc_migrations.copies) returns text
language sql immutable
set search_path = ''
as $function$
    select format('%s converted one way: once a value of it was changed or a row added after the swap, a rollback is refused, except with --discard-changes',
        string_agg(format('%I', c.name), ', '))
    from jsonb_to_recordset(copy.columns) as c (name text, expression text)
    where c.expression is not null
    having count(*) > 0;
$function$;


-- Which columns are copied and how, as plan_columns for tables that ALTER TABLE makes: each that the old table has and the new one keeps
-- and does not generate. Raises RM001, naming the columns, if the new table cannot hold the old rows ("with_rows": all of them are read)
-- as they are.
create or replace function rpc_migrations.plan_altered_columns(
    copy rpc_migrations.copies, new_table oid, with_rows boolean
) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    col record;
    plan jsonb := '[]';
    problems text[] := '{}';
begin
    for col in
        select
            o.attname as name, n.attname as new_name, o.atttypid as old_type, n.atttypid as new_type,
            format_type(o.atttypid, o.atttypmod) as old_type_name, format_type(n.atttypid, n.atttypmod) as new_type_name,
            o.atttypid = n.atttypid and n.atttypmod in (-1, o.atttypmod) as same_type,
            n.attnotnull and not rpc_migrations.may_hold_null(new_table, n.attnum)
            and not (o.attnotnull and not rpc_migrations.may_hold_null(copy.old_table, o.attnum)) as must_fill,
            n.attgenerated, copy.alteration -> 'conversions' ->> o.attname as expression,
            o.attnum as number, n.attnum as new_number
        from jsonb_to_recordset(copy.alteration -> 'columns') as c (old name, new name)
        inner join pg_catalog.pg_attribute as o on o.attrelid = copy.old_table and o.attname = c.old and not o.attisdropped
        inner join pg_catalog.pg_attribute as n on n.attrelid = new_table and n.attname = c.new and not n.attisdropped
        order by n.attnum
    loop
        if col.attgenerated <> '' then
            problems := problems || case
                when with_rows then rpc_migrations.outdated_values(copy.old_table, col.number, new_table, col.new_number) else '{}' end;
            continue;
        end if;
        if col.expression is null and not rpc_migrations.type_fits(col.old_type, col.new_type) then
            problems := array_append(problems, format('column %I is %s and becomes %s only with a USING', col.name, col.old_type_name, col.new_type_name));
            continue;
        end if;
        problems := problems || array(
            select p from rpc_migrations.problems_of_column(copy.old_table, col.number, new_table, col.new_number, other_values => false) as p);
        if not with_rows then
            null;
        elsif col.expression is not null then
            problems := problems || rpc_migrations.unconvertible(copy, col.name, col.expression, col.new_type_name, col.must_fill);
        elsif col.must_fill then
            problems := problems || rpc_migrations.count_problem(copy.old_table, format('%I is null', col.name), format('%I may not be null', col.name));
        end if;
        if with_rows and col.expression is null and not col.same_type then
            problems := problems || rpc_migrations.misfits(copy.old_table, col.name, col.old_type_name, col.new_type_name);
        end if;
        plan := plan || jsonb_build_object(
            'name', col.new_name, 'old_name', col.name, 'type',
            -- Without its length no value is cut off by being read; a sample, which was assigned already, is written as the whole type does.
            case when col.expression is null and with_rows then format_type(col.new_type, -1) else col.new_type_name end,
            'old_type', format_type(col.old_type, -1),
            'expression', col.expression, 'as_text', rpc_migrations.compares_as_text(col.new_type)
        );
    end loop;
    perform rpc_migrations.refuse_problems(copy.old_table, problems);
    return plan;
end;
$function$;


-- What is wrong with converting a column's values by an expression: PostgreSQL refuses one; it gives NULL where that is not allowed, or
-- another value each time. Empty if all is well.
create or replace function rpc_migrations.unconvertible(
    copy rpc_migrations.copies, column_name text, expression text, new_type text, must_fill boolean
) returns text[]
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    value text := rpc_migrations.converted(copy, expression, 's');
    nulls bigint;
    unsteady bigint;
begin
    select a.nulls, a.unsteady into nulls, unsteady
    from rpc_migrations.ask(format(
        'select count(*) filter (where (%1$s)::%2$s is null), count(*) filter (where (%1$s)::text is distinct from (%1$s)::text) from only %3$s as s',
        value, new_type, copy.old_table::regclass)) as a (nulls bigint, unsteady bigint);
    return case when unsteady > 0 then array[format('the expression for %I gives another value each time', column_name)]
        when must_fill and nulls > 0 then array[format(
            '%I may not be null, but the expression gives null in %s', column_name, rpc_migrations.rows_in_words(nulls))]
        else '{}' end;
exception when data_exception or integrity_constraint_violation then
    return array[format('%I cannot be converted (%s)', column_name, sqlerrm)];
end;
$function$;


-- Whether a type takes a NULL. A domain may refuse it by NOT NULL or by a check, its own or that of a domain below it.
create or replace function rpc_migrations.takes_null(type oid) returns boolean
language plpgsql
set search_path = ''
as $function$
begin
    if exists (select from pg_catalog.pg_type as t where t.oid = takes_null.type and t.typtype = 'd') then
        perform a.answer from rpc_migrations.ask(format('select (null::%s) is null', format_type(type, -1))) as a (answer boolean);
    end if;
    return true;
exception when not_null_violation or check_violation then
    return false;
end;
$function$;


-- Raises RM001, before anything is changed, for what a rollback that keeps the changes cannot put back: rows changed or added since the
-- swap with a column that was converted one way, and added rows that would lack a value for a dropped NOT NULL column.
create or replace function rpc_migrations.check_one_way(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    parts record;
    lost bigint;
    one_way text;
    needed text;
begin
    if copy.alteration is null or copy.old_table is null then
        return;
    end if;
    copy.source := copy.new_table;
    copy.target := copy.old_table;
    parts := rpc_migrations.copy_parts(copy);
    select string_agg(quote_ident(c.name), ', ') into one_way
    from jsonb_to_recordset(copy.columns) as c (name text, expression text) where c.expression is not null;
    select string_agg(quote_ident(d.name), ', ') into needed
    from jsonb_array_elements_text(copy.alteration -> 'dropped') as d (name)
    inner join pg_catalog.pg_attribute as a on a.attrelid = copy.old_table and a.attname = d.name
    inner join pg_catalog.pg_type as t on t.oid = a.atttypid
    where (a.attnotnull or not rpc_migrations.takes_null(t.oid)) and not a.atthasdef and t.typdefaultbin is null and a.attidentity = '';
    if one_way is null and needed is null then
        return;
    end if;
    select a.rows into lost
    from rpc_migrations.ask(format(
        'select count(*) from only %s as s left join only %s as g on %s where g.ctid is null%s',
        parts.source, parts.target, rpc_migrations.key_match(copy, 's', 'g'),
        ' or row(' || parts.one_way || ')::record operator(pg_catalog.*<>) row(' || parts.one_way_before || ')::record')) as a (rows bigint);
    if lost > 0 then
        raise exception '% has % changed or added since the migration, which cannot be put back: %', parts.source, rpc_migrations.rows_in_words(lost),
            concat_ws('; ', one_way || ' was converted one way (type ... using)', needed || ' was dropped, and may not be null')
        using errcode = 'RM001', hint = 'Nothing was changed. --discard-changes restores the data as it was at the swap.';
    end if;
end;
$function$;
