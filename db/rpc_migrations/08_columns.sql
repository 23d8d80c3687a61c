-- Which columns are copied, and whether the new table can hold every row of the old one: types, NULLs, the order of columns. Rows that
-- cannot be held are counted, and named with the query that finds them.

-- The views (and tables with rules) that read a column. Null: none.
create or replace function rpc_migrations.views_on(relation oid, attnum smallint) returns text
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        select string_agg(distinct w.ev_class::regclass::text, ', ')
        from pg_catalog.pg_depend as d
        inner join pg_catalog.pg_rewrite as w on w.oid = d.objid and d.classid = 'pg_catalog.pg_rewrite'::regclass
        where d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = relation and d.refobjsubid = views_on.attnum
    );
end;
$function$;


-- Raises RM001 with the problems that rows or columns of the old table make in the new one, if there are any.
create or replace function rpc_migrations.refuse_problems(old_table oid, problems text[]) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if problems <> '{}' then
        raise exception '% cannot be held by the new table: %', old_table::regclass, array_to_string(problems, '; ')
        using errcode = 'RM001', hint = 'Nothing was changed. Fix these rows or columns, then run the same command again.';
    end if;
end;
$function$;


-- Which columns are copied and how: every column of the old table that the new one has and does not generate.
-- Raises RM001, naming the columns, if the new table cannot hold the old rows as they are.
create or replace function rpc_migrations.plan_columns(old_table oid, new_table oid) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    col record;
    plan jsonb := '[]';
    problems text[] := rpc_migrations.problems_of_nulls(old_table, new_table);
    fallback text;
begin
    for col in
        select
            o.attname as name, o.attnum as number, n.attnum as new_number, o.atttypid as old_type, n.atttypid as new_type,
            format_type(o.atttypid, o.atttypmod) as old_type_name, format_type(n.atttypid, n.atttypmod) as new_type_name,
            o.atttypid = n.atttypid and n.atttypmod in (-1, o.atttypmod) as same_type,
            n.attnotnull and not (o.attnotnull and not rpc_migrations.may_hold_null(old_table, o.attnum)) as must_fill,
            n.attgenerated, pg_get_expr(d.adbin, d.adrelid) as default_value
        from pg_catalog.pg_attribute as n
        inner join pg_catalog.pg_attribute as o on o.attrelid = old_table and o.attname = n.attname and o.attnum > 0
        left join pg_catalog.pg_attrdef as d on d.adrelid = n.attrelid and d.adnum = n.attnum
        where n.attrelid = new_table and n.attnum > 0 and not n.attisdropped
        order by n.attnum
    loop
        fallback := null;
        if col.attgenerated <> '' then
            problems := problems || rpc_migrations.outdated_values(old_table, col.number, new_table, col.new_number);
            continue;
        end if;
        if not rpc_migrations.type_fits(col.old_type, col.new_type) then
            problems := array_append(problems, format('column %I is %s and cannot become %s', col.name, col.old_type_name, col.new_type_name));
            continue;
        end if;
        if col.must_fill and col.default_value is not null then
            -- Evaluated once, so that every NULL becomes the same value and the comparison before the swap can tell.
            select a.fallback into fallback
            from rpc_migrations.ask(
                format('select quote_literal((%s)::text) || %L', col.default_value, '::' || col.new_type_name)) as a (fallback text);
        end if;
        problems := problems || array(
            select p from rpc_migrations.problems_of_column(old_table, col.number, new_table, col.new_number, fallback is not null) as p);
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
    problems := problems || rpc_migrations.named_by_place(old_table, new_table);
    perform rpc_migrations.refuse_problems(old_table, problems);
    return plan;
end;
$function$;


-- Columns of the new table that may not be null and that nothing fills, as the old table lacks them; and columns that may be null there
-- although they tell the rows apart. One sentence each.
create or replace function rpc_migrations.problems_of_nulls(old_table oid, new_table oid) returns text[]
language sql stable
set search_path = ''
as $function$
    select coalesce(array_agg(p.problem order by n.attnum), '{}')
    from pg_catalog.pg_attribute as n
    left join pg_catalog.pg_attribute as o on o.attrelid = old_table and o.attname = n.attname and o.attnum > 0
    cross join lateral (
        select format('column %I of the new table is not null and has no default, but the old table lacks it', n.attname)
        where n.attnotnull and o.attname is null and not n.atthasdef and n.attidentity = ''
        union all
        select format('column %I tells the rows apart, as the table has no primary key, and may be null in the new one; declare it not null', n.attname)
        from pg_catalog.pg_index as i
        where not n.attnotnull and i.indexrelid = rpc_migrations.key_index(old_table) and not i.indisprimary
            and o.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])  -- without those that it only includes
    ) as p (problem)
    where n.attrelid = new_table and n.attnum > 0 and not n.attisdropped;
$function$;


-- If the new table has the old one's columns in another order: what names them by their place ("things as t (a, b, c)"), or makes rows
-- of the table column by column. One sentence each; empty if the new table begins with the old one's columns.
create or replace function rpc_migrations.named_by_place(old_table oid, new_table oid) returns text[]
language sql stable
set search_path = ''
as $function$
    with columns as (
        select a.attrelid, a.attname, row_number() over (partition by a.attrelid order by a.attnum) as place
        from pg_catalog.pg_attribute as a
        where a.attrelid in (old_table, new_table) and a.attnum > 0 and not a.attisdropped
    ),
    table_name as (
        select rpc_migrations.as_pattern(old_table::regclass::text) || '( AS)? ("([^"]|"")+"|[^ ,;()"]+)\(' as with_columns
    )
    select coalesce(array_agg(format('the new table has the columns in another order, and %s %s goes by their places', t.kind, t.name) order by t.kind, t.name), '{}')
    from (
        select p.kind, p.name
        from rpc_migrations.describe_table(old_table, old_table::regclass::text) as p, table_name as n
        where p.kind in ('view', 'function', 'rule', 'rule of another table', 'policy', 'policy of another table') and p.statement ~ n.with_columns
        union
        select 'function', p.oid::regprocedure::text
        from rpc_migrations.depending('pg_catalog.pg_proc', old_table) as d
        inner join pg_catalog.pg_proc as p on p.oid = d.object
        inner join pg_catalog.pg_class as c on c.oid = old_table and p.prorettype = c.reltype
        inner join pg_catalog.pg_language as l on l.oid = p.prolang
        where d.on_rows and l.lanname = 'sql' and (p.prosqlbody is not null or p.prosrc !~ '\*')
    ) as t
    where exists (
        select from columns as o
        where o.attrelid = old_table
            and not exists (select from columns as n where n.attrelid = new_table and n.attname = o.attname and n.place = o.place)
    );
$function$;


-- The policies, publications with a condition and functions with an SQL body that use a column, if an expression with it may mean something
-- else once the column has another type: 3 / 2 is 1 of an integer and 1.5 of a numeric. Null if there are none, or if the type is a wider
-- integer, or one that has the same values (text and varchar).
create or replace function rpc_migrations.uses_of_type(relation oid, column_number smallint, old_type oid, new_type oid) returns text
language plpgsql stable
set search_path = ''
as $function$
begin
    old_type := rpc_migrations.base_type(old_type);
    new_type := rpc_migrations.base_type(new_type);
    if old_type = new_type
        or old_type in ('pg_catalog.int2'::regtype, 'pg_catalog.int4'::regtype) and new_type in ('pg_catalog.int4'::regtype, 'pg_catalog.int8'::regtype)
        or exists (
            select from pg_catalog.pg_cast as c
            where c.castsource = old_type and c.casttarget = new_type and c.castmethod = 'b' and c.castcontext = 'i')
    then
        return null;
    end if;
    return (
        select string_agg(distinct pg_describe_object(d.classid, d.objid, 0), ', ')
        from pg_catalog.pg_depend as d
        where d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = relation and d.refobjsubid = column_number
            and (
                d.classid in ('pg_catalog.pg_policy'::regclass, 'pg_catalog.pg_proc'::regclass)
                or d.classid = 'pg_catalog.pg_publication_rel'::regclass and exists (
                    select from pg_catalog.pg_publication_rel as r where r.oid = d.objid and r.prqual is not null)
            )
    );
end;
$function$;


-- What is wrong with changing a column by which rows are told apart: its values have to match those of the other table. Null if nothing is.
create or replace function rpc_migrations.problem_of_key(old_table oid, number smallint, new_type oid, other_collation boolean, other_values boolean) returns text
language plpgsql stable
set search_path = ''
as $function$
declare
    key record;
begin
    select k.name, k.operator, a.atttypid as type into key
    from rpc_migrations.key_columns(old_table) as k
    inner join pg_catalog.pg_attribute as a on a.attrelid = old_table and a.attnum = k.number
    where k.number = problem_of_key.number;
    if not found or not (other_collation or other_values) then
        return null;
    elsif key.operator is null then
        return format('column %I tells the rows apart, as the table has no primary key, and would change; add a primary key first', key.name);
    end if;
    execute format('select null::%1$s operator(%3$s) null::%2$s, null::%2$s operator(%3$s) null::%1$s',
        format_type(rpc_migrations.base_type(key.type), -1), format_type(rpc_migrations.base_type(new_type), -1), key.operator);
    return case when other_collation then format('column %I belongs to the primary key and would get another collation', key.name) end;
exception when undefined_function or ambiguous_function then
    return format('column %I belongs to the primary key, and %s cannot be compared with %s; do that in a step after the rebuild',
        key.name, format_type(new_type, -1), format_type(key.type, -1));
end;
$function$;


-- What is wrong with a column that both tables have, whatever its rows are. "other_values": some would change. One sentence each.
create or replace function rpc_migrations.problems_of_column(
    old_table oid, old_number smallint, new_table oid, new_number smallint, other_values boolean
) returns setof text
language sql stable
set search_path = ''
as $function$
    with changes as (
        select
            o.attname as name, o.atttypid as old_type, n.atttypid as new_type, o.attgenerated <> '' and n.attgenerated = '' as is_released,
            format_type(o.atttypid, o.atttypmod) <> t.name as other_type, o.attcollation <> n.attcollation as other_collation, t.name as new_name
        from pg_catalog.pg_attribute as o
        inner join pg_catalog.pg_attribute as n on n.attrelid = new_table and n.attnum = new_number
        cross join lateral format_type(n.atttypid, n.atttypmod) as t (name)
        where o.attrelid = old_table and o.attnum = old_number
    )
    select format('column %I is generated in the old table and not in the new one, so there is no way back', c.name)
    from changes as c where c.is_released
    union all
    select format('column %I becomes %s, and a view''s columns cannot change: %s',
        c.name, case when c.other_type then c.new_name else 'one of another collation' end, v.names)
    from changes as c cross join lateral rpc_migrations.views_on(old_table, old_number) as v (names)
    where v.names is not null and (c.other_type or c.other_collation)
    union all
    select format('column %I becomes %s, with which these may mean something else; drop them before and make them again afterwards: %s',
        c.name, c.new_name, u.names)
    from changes as c cross join lateral rpc_migrations.uses_of_type(old_table, old_number, c.old_type, c.new_type) as u (names)
    where u.names is not null
    union all
    select k.problem
    from changes as c cross join lateral rpc_migrations.problem_of_key(
        old_table, old_number, c.new_type, c.other_collation, other_values or c.old_type <> c.new_type) as k (problem)
    where k.problem is not null;
$function$;


-- Whether values of one type may be assigned to another without an explicit cast: the same type, or a cast that an INSERT makes
-- by itself. A domain counts as its base type, an array as its elements.
create or replace function rpc_migrations.type_fits(old_type oid, new_type oid) returns boolean
language plpgsql stable
set search_path = ''
as $function$
declare
    element_of_old oid;
    element_of_new oid;
begin
    old_type := rpc_migrations.base_type(old_type);
    new_type := rpc_migrations.base_type(new_type);
    select o.typelem, n.typelem into element_of_old, element_of_new
    from pg_catalog.pg_type as o
    inner join pg_catalog.pg_type as n on n.oid = new_type and n.typcategory = 'A'
    where o.oid = old_type and o.typcategory = 'A';
    if found then
        return old_type = new_type or rpc_migrations.type_fits(element_of_old, element_of_new);
    end if;
    return old_type = new_type
        or exists (
            select from pg_catalog.pg_cast as c
            where c.castsource = old_type and c.casttarget = new_type and c.castcontext in ('i', 'a')
        )
        or exists (select from pg_catalog.pg_type as t where t.oid = new_type and t.typcategory = 'S');
end;
$function$;


-- The base type of a domain, also of a domain over domains; any other type is returned as it is.
create or replace function rpc_migrations.base_type(type oid) returns oid
language plpgsql stable
set search_path = ''
as $function$
declare
    below oid;
begin
    loop
        select t.typbasetype into below from pg_catalog.pg_type as t where t.oid = base_type.type;
        exit when coalesce(below, 0) = 0;
        base_type.type := below;
    end loop;
    return base_type.type;
end;
$function$;


-- What is wrong with the values of a column when it gets another type: those that would not survive the way there and back (cut
-- off or rounded), or one for which PostgreSQL refuses the cast. Empty if all fit. Of types without a canonical text (json)
-- only NULLs are looked at.
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
when cannot_coerce then
    return array[format('%I cannot become %s, which has no cast back to %s; "type ... using" goes one way', column_name, new_type, old_type)];
end;
$function$;


-- What is wrong with a column that is generated alike in both tables: rows for which its function would now give another value than they
-- have, so that they would change. Only expressions with a function that can be replaced are looked at. Empty if all is well.
create or replace function rpc_migrations.outdated_values(old_table oid, old_number smallint, new_table oid, new_number smallint) returns text[]
language plpgsql
set search_path = ''
as $function$
declare
    col record;
begin
    select
        a.attname as name, pg_get_expr(d.adbin, d.adrelid) as value, case when rpc_migrations.compares_as_text(a.atttypid) then '::text' else '' end as as_text,
        format_type(a.atttypid, a.atttypmod) as type
    into col
    from pg_catalog.pg_attribute as a
    inner join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    inner join pg_catalog.pg_attrdef as n on n.adrelid = new_table and n.adnum = new_number
    where
        a.attrelid = old_table and a.attnum = old_number and a.attgenerated = 's'
        and pg_get_expr(d.adbin, d.adrelid) = pg_get_expr(n.adbin, n.adrelid)
        and exists (
            select
            from pg_catalog.pg_depend as p
            inner join pg_catalog.pg_proc as f on f.oid = p.refobjid and p.refclassid = 'pg_catalog.pg_proc'::regclass
            inner join pg_catalog.pg_language as l on l.oid = f.prolang and l.lanname not in ('c', 'internal')
            where p.classid = 'pg_catalog.pg_attrdef'::regclass and p.objid = d.oid
        );
    if not found then
        return '{}';
    end if;
    return rpc_migrations.count_problem(
        old_table, format('%I%s is distinct from (%s)::%s%2$s', col.name, col.as_text, col.value, col.type),
        format('column %I is generated, and what it calls would give another value', col.name));
exception when undefined_function or undefined_table or insufficient_privilege then
    return '{}';  -- told where the column is made
end;
$function$;


-- A sentence about the rows for which a condition holds, with the query that finds them; empty if there are none.
create or replace function rpc_migrations.count_problem(relation oid, condition text, problem text) returns text[]
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    found_rows bigint;
begin
    select a.rows into found_rows
    from rpc_migrations.ask(format('select count(*) from only %s where %s', relation::regclass, condition)) as a (rows bigint);
    if found_rows = 0 then
        return '{}';
    end if;
    return array[format(
        '%s in %s, which this query finds: select * from %s where %s', problem, rpc_migrations.rows_in_words(found_rows), relation::regclass, condition)];
end;
$function$;
