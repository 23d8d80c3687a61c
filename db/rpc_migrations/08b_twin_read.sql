-- What the twin has become, read from the catalogs; the new table that is made from it; and what cannot be done online, or would do
-- something else to the rows than the statements.

-- What the twin is made of: parts as describe_table tells them, those of the swap under the name that the table has then. A check that is
-- not valid is made in the swap: before, rows that were there already and change could not be replayed.
create or replace function rpc_migrations.parts_of_twin(copy rpc_migrations.copies, twin oid)
returns table (phase text, kind text, name text, definition text, statement text, place bigint)
language sql stable
set search_path = ''
as $function$
    with names as (
        select rpc_migrations.new_name(copy) as before, rpc_migrations.name_in_use(copy) as after
    )
    select p.phase, p.kind, p.name, p.definition, p.statement, p.place
    from names as n cross join lateral rpc_migrations.describe_table(twin, n.before)
        with ordinality as p (phase, kind, name, definition, statement, detach, place)
    where p.phase in ('columns', 'build') and not rpc_migrations.is_made_late(p.kind, p.statement, n.after)
    union all
    select 'swap', p.kind, p.name, p.definition, p.statement, p.place
    from names as n cross join lateral rpc_migrations.describe_table(twin, n.after)
        with ordinality as p (phase, kind, name, definition, statement, detach, place)
    where p.phase <> 'columns' and rpc_migrations.is_of_the_table(p.phase, p.kind)
        and (p.phase = 'swap' or rpc_migrations.is_made_late(p.kind, p.statement, n.after))
    union all
    -- A sequence that ALTER TABLE makes has what default privileges grant.
    select 'swap', 'right on a sequence', concat_ws(' ', s.relname, acl.grantee, acl.privilege_type), null,
        format('grant %s on sequence %I.%I to %s', acl.privilege_type, copy.schema_name, s.relname, rpc_migrations.role_name(acl.grantee))
        || case when acl.is_grantable then ' with grant option' else '' end,
        1000000
    from rpc_migrations.identity_sequences(twin) as i
    inner join pg_catalog.pg_class as s on s.oid = i.sequence
    inner join pg_catalog.pg_default_acl as d
        on d.defaclrole = s.relowner and d.defaclobjtype = 'S'
        and d.defaclnamespace in (0, to_regnamespace(quote_ident(copy.schema_name)))
    cross join lateral aclexplode(d.defaclacl) as acl
    where acl.grantee <> s.relowner and s.relname not in (
        select o.relname
        from rpc_migrations.identity_sequences(copy.old_table) as q
        inner join pg_catalog.pg_class as o on o.oid = q.sequence
    );
$function$;


-- The checks and foreign keys that the statements have added to the twin, with the condition that a row "n" breaks them, and their columns.
create or replace function rpc_migrations.rules_of_twin(copy rpc_migrations.copies, twin oid) returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_agg(jsonb_build_object(
        'name', c.conname,
        'broken', case c.contype
            when 'c' then format('not (%s)', pg_get_expr(c.conbin, c.conrelid)) else rpc_migrations.orphan_condition(c.oid, 'n') end,
        'columns', array(select a.attname from pg_catalog.pg_attribute as a where a.attrelid = c.conrelid and a.attnum = any (c.conkey))
    ))
    from pg_catalog.pg_constraint as c
    where c.conrelid = twin and c.contype in ('c', 'f') and c.convalidated and c.conparentid = 0 and not exists (
        select from pg_catalog.pg_constraint as o
        where o.conrelid = copy.old_table and o.conname = c.conname and o.convalidated
            and pg_get_constraintdef(o.oid) = pg_get_constraintdef(c.oid)
    );
$function$;


-- What the statements have made of the twin. "numbers": the old table's columns, by their numbers on the twin.
create or replace function rpc_migrations.read_twin(copy rpc_migrations.copies, twin oid, numbers jsonb) returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_build_object(
        'create', rpc_migrations.create_statement(twin, rpc_migrations.new_name(copy)),
        'parts', (
            select jsonb_agg(
                jsonb_build_object('phase', p.phase, 'kind', p.kind, 'name', p.name, 'definition', p.definition, 'statement', p.statement)
                order by p.place)
            from rpc_migrations.parts_of_twin(copy, twin) as p
        ),
        'columns', (
            select jsonb_agg(jsonb_build_object('old', c.value, 'new', a.attname) order by a.attnum)
            from jsonb_each_text(numbers) as c
            inner join pg_catalog.pg_attribute as a on a.attrelid = twin and a.attnum = c.key::smallint and not a.attisdropped
        ),
        'dropped', coalesce((
            select jsonb_agg(c.value order by a.attnum)
            from jsonb_each_text(numbers) as c
            inner join pg_catalog.pg_attribute as a on a.attrelid = twin and a.attnum = c.key::smallint and a.attisdropped
            inner join pg_catalog.pg_attribute as o on o.attrelid = copy.old_table and o.attname = c.value and o.attgenerated = ''
        ), '[]'),
        'rules', coalesce(rpc_migrations.rules_of_twin(copy, twin), '[]'),
        'not_nulls', coalesce((
            select jsonb_object_agg(a.attname, c.conname)
            from pg_catalog.pg_constraint as c
            inner join pg_catalog.pg_attribute as a on a.attrelid = c.conrelid and c.conkey = array[a.attnum]
            where c.conrelid = twin and c.contype = 'n' and c.convalidated
        ), '{}')
    );
$function$;


-- Makes the new table, empty, with the columns that the twin has.
create or replace function rpc_migrations.make_altered(copy rpc_migrations.copies) returns oid
language plpgsql
set search_path = ''
as $function$
declare
    new_name text := rpc_migrations.new_name(copy);
    new_table oid;
    statement text;
begin
    perform rpc_migrations.make_second_schema(copy.alteration ->> 'schema');
    perform rpc_migrations.run(coalesce(copy.alteration ->> 'create', format('create table %s ()', new_name)));
    new_table := to_regclass(new_name);
    perform rpc_migrations.revoke_all(new_table);
    perform rpc_migrations.make_unlogged_as(copy.old_table, new_table);
    for statement in
        select p.statement
        from rows from (jsonb_to_recordset(copy.alteration -> 'parts') as (phase text, kind text, name text, statement text))
            with ordinality as p (phase, kind, name, statement, place)
        where p.phase = 'columns' and not rpc_migrations.has_column(new_table, p.kind, p.name)
        order by p.place
    loop
        perform rpc_migrations.run(statement);
    end loop;
    perform rpc_migrations.execute_each(array(
        select format('alter table %s rename constraint %I to %I', new_name, c.conname, n.value)
        from jsonb_each_text(copy.alteration -> 'not_nulls') as n
        inner join pg_catalog.pg_attribute as a on a.attrelid = new_table and a.attname = n.key
        inner join pg_catalog.pg_constraint as c on c.conrelid = new_table and c.contype = 'n' and c.conkey = array[a.attnum]
        where c.conname <> n.value
    ));
    return new_table;
end;
$function$;


-- The columns of the old table that the statements have renamed, and those that they have dropped ("new_name" is null), generated ones
-- among them, which "dropped" leaves out because they have no values to be put back.
create or replace function rpc_migrations.changed_columns(copy rpc_migrations.copies, alteration jsonb)
returns table (name text, new_name text)
language sql stable
set search_path = ''
as $function$
    select a.attname::text, c.new
    from pg_catalog.pg_attribute as a
    left join jsonb_to_recordset(alteration -> 'columns') as c (old text, new text) on c.old = a.attname
    where a.attrelid = copy.old_table and a.attnum > 0 and not a.attisdropped and c.new is distinct from a.attname;
$function$;


-- The columns that an index is on, in their order, without those that it only includes. An index on expressions has none for these.
create or replace function rpc_migrations.columns_of_index(index oid) returns table (name text, place bigint)
language sql stable
set search_path = ''
as $function$
    select a.attname::text, k.place
    from pg_catalog.pg_index as i
    cross join unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
    inner join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where i.indexrelid = columns_of_index.index and k.place <= i.indnkeyatts
    order by k.place;
$function$;


-- What the statements change about the columns by which rows are told apart, and must not. One sentence each.
create or replace function rpc_migrations.problems_of_changed_key(copy rpc_migrations.copies, twin oid, alteration jsonb) returns setof text
language sql stable
set search_path = ''
as $function$
    with key as (
        select
            i.indisprimary,
            case when i.indisprimary then 'the primary key' else format('the index %I', c.relname) end as described,
            array_agg(coalesce(m.new, k.name::text) order by k.place) as columns
        from pg_catalog.pg_index as i
        inner join pg_catalog.pg_class as c on c.oid = i.indexrelid
        cross join rpc_migrations.key_columns(copy.old_table) as k
        left join jsonb_to_recordset(alteration -> 'columns') as m (old text, new text) on m.old = k.name
        where i.indexrelid = rpc_migrations.key_index(copy.old_table)
        group by i.indisprimary, c.relname
    )
    select format('%s would have other columns or be gone, and rows are told apart by it; do that in a step after the rebuild', key.described)
    from key
    where not exists (
        select
        from rpc_migrations.key_indexes(twin) as t (oid)
        inner join pg_catalog.pg_index as i on i.indexrelid = t.oid and (i.indisprimary or not key.indisprimary)
        where key.columns = array(select k.name from rpc_migrations.columns_of_index(i.indexrelid) as k)
    )
    union all
    select format('column %I %s and is renamed, dropped or converted; do that in a step after the rebuild', k.name,
        coalesce('belongs to ' || key.described, 'tells the rows apart, as the table has no primary key,'))
    from rpc_migrations.key_columns(copy.old_table) as k
    left join key on true
    where k.name::text in (select c.name from rpc_migrations.changed_columns(copy, alteration) as c) or alteration -> 'conversions' ? k.name::text;
$function$;


-- Whether something that depends on a column belongs to others and follows it when it is renamed (see run_carried).
create or replace function rpc_migrations.follows_a_renamed_column(relation oid, catalog oid, object oid) returns boolean
language sql stable
set search_path = ''
as $function$
    select case catalog
        when 'pg_catalog.pg_constraint'::regclass then exists (
            select from pg_catalog.pg_constraint as c where c.oid = object and c.contype = 'f' and c.confrelid = relation)
        when 'pg_catalog.pg_rewrite'::regclass then exists (
            select from pg_catalog.pg_rewrite as r where r.oid = object and r.ev_class <> relation)
        when 'pg_catalog.pg_policy'::regclass then exists (
            select from pg_catalog.pg_policy as p where p.oid = object and p.polrelid <> relation)
        else catalog in ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_publication_rel'::regclass)
    end;
$function$;


-- What depends on a column that the statements rename or drop. The table's own things follow it, on the twin as on the table; so do those of
-- others if it is renamed. One sentence each for all else.
create or replace function rpc_migrations.problems_of_changed_columns(copy rpc_migrations.copies, alteration jsonb) returns setof text
language sql stable
set search_path = ''
as $function$
    select distinct format('column %I is %s, and this depends on it: %s', c.name, case when c.new_name is null then 'dropped' else 'renamed' end,
        pg_describe_object(d.classid, d.objid, d.objsubid))
    from rpc_migrations.changed_columns(copy, alteration) as c
    inner join pg_catalog.pg_attribute as a on a.attrelid = copy.old_table and a.attname = c.name
    inner join pg_catalog.pg_depend as d
        on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = copy.old_table and d.refobjsubid = a.attnum
    where not (
        d.classid = 'pg_catalog.pg_constraint'::regclass and exists (
            select from pg_catalog.pg_constraint as k where k.oid = d.objid and k.conrelid = copy.old_table and k.confrelid <> copy.old_table)
        or d.classid = 'pg_catalog.pg_class'::regclass and exists (
            select from pg_catalog.pg_class as x where x.oid = d.objid and (x.relkind = 'i' or x.relkind = 'S' and c.new_name is null))
        or d.classid = 'pg_catalog.pg_class'::regclass and d.objid = copy.old_table
        or d.classid = 'pg_catalog.pg_attrdef'::regclass and exists (
            select from pg_catalog.pg_attrdef as e where e.oid = d.objid and e.adrelid = copy.old_table)
        or d.classid = 'pg_catalog.pg_trigger'::regclass and exists (
            select from pg_catalog.pg_trigger as t where t.oid = d.objid and t.tgrelid = copy.old_table)
        or d.classid = 'pg_catalog.pg_policy'::regclass and exists (
            select from rpc_migrations.describe_security(copy.old_table, copy.old_table::regclass::text) as s
            inner join pg_catalog.pg_policy as p on p.polname = s.name
            where p.oid = d.objid and p.polrelid = copy.old_table and s.kind = 'policy' and s.phase = 'build')
        or d.classid = 'pg_catalog.pg_statistic_ext'::regclass
        or c.new_name is not null and rpc_migrations.follows_a_renamed_column(copy.old_table, d.classid, d.objid)
    )
    union
    -- On the twin nothing but the column itself depends on its sequence, which goes with it.
    select format('column %I is dropped with its sequence %s, and this depends on it: %s', c.name, q.oid::regclass,
        pg_describe_object(d.classid, d.objid, d.objsubid))
    from rpc_migrations.changed_columns(copy, alteration) as c
    inner join pg_catalog.pg_attribute as a on a.attrelid = copy.old_table and a.attname = c.name
    inner join pg_catalog.pg_depend as o
        on o.classid = 'pg_catalog.pg_class'::regclass and o.refclassid = o.classid and o.refobjid = copy.old_table and o.refobjsubid = a.attnum
    inner join pg_catalog.pg_class as q on q.oid = o.objid and q.relkind = 'S'
    inner join pg_catalog.pg_depend as d on d.refclassid = o.classid and d.refobjid = q.oid
    where c.new_name is null and not exists (
        select
        from pg_catalog.pg_attrdef as e
        inner join pg_catalog.pg_attribute as g on g.attrelid = e.adrelid and g.attnum = e.adnum
        inner join rpc_migrations.changed_columns(copy, alteration) as also on also.name = g.attname and also.new_name is null
        where d.classid = 'pg_catalog.pg_attrdef'::regclass and e.oid = d.objid and e.adrelid = copy.old_table
    );
$function$;


-- Columns whose sequences would get lost: these go from table to table by the names of their columns. One sentence each.
create or replace function rpc_migrations.problems_of_sequences(copy rpc_migrations.copies, twin oid, alteration jsonb) returns setof text
language sql stable
set search_path = ''
as $function$
    select format('column %I is new under the name of an older one that has a sequence', a.attname)
    from pg_catalog.pg_attribute as a
    inner join pg_catalog.pg_attribute as o on o.attrelid = copy.old_table and o.attname = a.attname and not o.attisdropped
    where a.attrelid = twin and a.attnum > 0 and not a.attisdropped
        and not alteration -> 'columns' @> jsonb_build_array(jsonb_build_object('old', a.attname, 'new', a.attname))
        and pg_get_serial_sequence(copy.old_table::regclass::text, o.attname) is not null
    union all
    select format('column %I becomes an identity column and has a sequence already, %s; do that in a step after the rebuild', a.attname, s.name)
    from jsonb_to_recordset(alteration -> 'columns') as c (old text, new text)
    inner join pg_catalog.pg_attribute as a on a.attrelid = twin and a.attname = c.new and a.attidentity <> ''
    inner join pg_catalog.pg_attribute as o on o.attrelid = copy.old_table and o.attname = c.old and o.attidentity = ''
    cross join lateral pg_get_serial_sequence(copy.old_table::regclass::text, o.attname) as s (name)
    where s.name is not null;
$function$;


-- What the statements have made that cannot be done online. One sentence each. "indexes": the twin's as they were called before.
create or replace function rpc_migrations.problems_of_alteration(copy rpc_migrations.copies, twin oid, alteration jsonb, indexes jsonb)
returns setof text
language sql stable
set search_path = ''
as $function$
    select format('the new table: %s', o) from rpc_migrations.obstacles_in_words(twin) as o where o is not null
    union all
    select p from rpc_migrations.problems_of_changed_key(copy, twin, alteration) as p
    union all
    select p from rpc_migrations.problems_of_changed_columns(copy, alteration) as p
    where strpos(p, 'rpc_migrations_twin.') = 0  -- what depends on it on the twin, depends on it on the table, too
    union all
    select format('a foreign key to the table itself (%I) is added; do that in a step after the rebuild', c.conname)
    from pg_catalog.pg_constraint as c
    where c.conrelid = twin and c.contype = 'f' and c.confrelid in (twin, copy.old_table)
    union all
    select p from rpc_migrations.problems_of_sequences(copy, twin, alteration) as p
    union all
    select format('a new %s would be called %I, and there is one of that name', case c.relkind when 'S' then 'sequence' else 'index' end, c.relname)
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_class as o on o.oid = to_regclass(format('%I.%I', copy.schema_name, c.relname))
    where
        c.relnamespace = to_regnamespace('rpc_migrations_twin') and c.relkind in ('i', 'S')
        and not exists (select from pg_catalog.pg_index as i where i.indexrelid = o.oid and i.indrelid = copy.old_table)
        and o.oid not in (select i.sequence from rpc_migrations.identity_sequences(copy.old_table) as i)
    union all
    select format('the foreign key %I of %s needs %I as it is', k.conname, k.conrelid::regclass, x.relname)
    from pg_catalog.pg_constraint as k
    inner join pg_catalog.pg_class as x on x.oid = k.conindid
    inner join pg_catalog.pg_index as i on i.indexrelid = x.oid
    where k.confrelid = copy.old_table and k.contype = 'f' and not exists (
        select
        from pg_catalog.pg_index as n
        inner join pg_catalog.pg_class as y on y.oid = n.indexrelid
        where n.indrelid = twin and n.indisunique and (y.relname = x.relname or y.oid = (indexes ->> x.relname::text)::oid)
            and array(select k.name from rpc_migrations.columns_of_index(n.indexrelid) as k)
            = array(select coalesce(c.new_name, k.name) from rpc_migrations.columns_of_index(i.indexrelid) as k
                left join rpc_migrations.changed_columns(copy, alteration) as c on c.name = k.name order by k.place)
    )
    union all
    select format('%s %s refers to the table in an unknown way', p.kind, p.name)
    from jsonb_to_recordset(alteration -> 'parts') as p (kind text, name text, statement text)
    where strpos(p.statement, 'rpc_migrations_twin') > 0
    union all
    select format('column %I is not one of those that the table has and keeps, so it cannot be converted', c.name)
    from jsonb_object_keys(alteration -> 'conversions') as c (name)
    where not alteration -> 'columns' @> jsonb_build_array(jsonb_build_object('old', c.name));
$function$;


-- A sentence if the copy would make other rows of the sample than the statements have made; else null.
create or replace function rpc_migrations.differing_sample(copy rpc_migrations.copies, twin oid, alteration jsonb) returns text
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    parts record;
    has_differing boolean;
begin
    copy.alteration := alteration;
    copy.columns := rpc_migrations.plan_altered_columns(copy, twin, with_rows => false);
    copy.keys := rpc_migrations.row_keys(copy.old_table);
    copy.new_table := twin;
    copy.source := to_regclass('rpc_migrations_twin.rpc_migrations_sample');
    copy.target := twin;
    parts := rpc_migrations.copy_parts(copy);
    select a.answer into has_differing
    from rpc_migrations.ask(format(
        'select exists (select from only %s as s where not exists (select from only %s as t '
        'where %s and row(%s)::record operator(pg_catalog.*=) row(%s)::record))',
        parts.source, parts.target, rpc_migrations.key_match(copy, 's', 't'), parts.source_row, parts.target_row)) as a (answer boolean);
    if has_differing then
        return 'rows would not become what these statements make of them; an expression has to give the same value each time, '
            'and each column may get a new type once';
    end if;
    return null;
end;
$function$;


-- What the statements give existing rows in added columns, by column, as SQL: ALTER TABLE evaluates a default once for all rows, unless it is
-- another one each time (a random number); then it is left to the copy, and not in here. The default may be another one now, or gone.
-- Raises RM001 for a column whose rows get different values though its default now would not give them.
create or replace function rpc_migrations.filled_values(copy rpc_migrations.copies, twin oid, alteration jsonb) returns jsonb
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    col record;
    filled jsonb := '{}';
    given record;
begin
    for col in
        select
            a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
            coalesce(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(t.typdefaultbin, 0), 'null') as default_value,
            (a.attmissingval::text::text[])[1] as given_to_all,
            -- whatever the session's DateStyle is
            format(case when t.typcategory = 'D' then 'to_jsonb(t.%I) #>> ''{}''' else 't.%I::text' end, a.attname) as written
        from pg_catalog.pg_attribute as a
        inner join pg_catalog.pg_type as t on t.oid = a.atttypid
        left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = twin and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attidentity = ''
            and not alteration -> 'columns' @> jsonb_build_array(jsonb_build_object('new', a.attname))
    loop
        -- Arrays, because nulls count as well; a hundred, because the clock or a random number may be the same twice.
        select a.is_steady, a.rows, a.different, a.value into given
        from rpc_migrations.ask(format(
            'select (select count(distinct array[((%2$s)::%3$s)::text]) = 1 from generate_series(1, 100)), count(*), '
            'count(distinct array[%4$s]), min(%4$s) from %1$s as t',
            twin::regclass, col.default_value, col.type, col.written)) as a (is_steady boolean, rows bigint, different bigint, value text);
        if given.is_steady and given.different > 1
            or given.rows = 1 and given.value is not null and col.default_value = 'null' and col.given_to_all is null
        then
            raise exception '% cannot be rebuilt this way: existing rows would get other values in column % than its default gives new ones',
                copy.old_table::regclass, quote_ident(col.name)
            using errcode = 'RM001', hint = 'Nothing was changed. Change the step file, then run the same command again.';
        elsif given.rows = 0 and col.given_to_all is not null then
            filled := filled || jsonb_build_object(col.name, format('%L::%s', col.given_to_all, col.type));
        elsif given.different = 1 and (given.is_steady or given.rows > 1 or given.value is null or col.given_to_all is not null) then
            filled := filled || jsonb_build_object(col.name, format('%L::%s', given.value, col.type));
        end if;
    end loop;
    return filled;
end;
$function$;
