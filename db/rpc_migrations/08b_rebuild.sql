-- A rebuild that is told in ALTER TABLE's own words. The statements are run on an empty twin of the table, which is undone
-- afterwards: what they have made of it is read from the catalogs, and is what the new table will be. Columns are matched by their
-- numbers, so that one that is renamed keeps its values and one that is dropped does not come back.
--
-- A sample of the rows goes through the statements as well, and has to come out of them as the copy would make it: whatever the
-- statements do to rows that was not understood here is refused before anything changes.

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
    execute format('lock table only %s in access share mode', copy.old_table::regclass);
    copy.alteration := rpc_migrations.try_alterations(copy, alterations, conversions);
    copy.new_table := rpc_migrations.make_altered(copy);
    perform rpc_migrations.check_begin(copy, parse_ident(old_table), parse_ident(backup));
    perform rpc_migrations.close_to_others();
    copy.columns := rpc_migrations.plan_altered_columns(copy, copy.new_table, with_rows => true);
    copy := rpc_migrations.remember_copy(copy);
    perform rpc_migrations.try_copy(copy);
    perform rpc_migrations.check_rules(copy);
    rows := 0;
    message := concat_ws('; ', rpc_migrations.start_copy(copy), rpc_migrations.one_way_in_words(copy));
end;
$function$;


-- Copies no row: PostgreSQL says now what it would not assign.
create or replace function rpc_migrations.try_copy(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
begin
    execute format(
        'insert into %s (%s) overriding system value select %s from only %s as s where false', parts.target, parts.columns, parts.read, parts.source);
end;
$function$;


-- Raises RM001 where rows do not hold to a check or foreign key that the statements have added: it would be found when it is made,
-- after the copy. One about columns that the old table lacks is found then, and so is one whose operators are not found here.
create or replace function rpc_migrations.check_rules(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    rule record;
    condition text;
    broken bigint;
    problems text[] := '{}';
begin
    for rule in
        select r.*
        from jsonb_to_recordset(copy.alteration -> 'rules') as r (name text, expression text, parent text, columns text[], parent_columns text[])
        where not exists (
            select from unnest(r.columns) as c (name)
            where c.name not in (select p.name from jsonb_to_recordset(copy.columns) as p (name text))
        )
    loop
        select coalesce('not (' || rule.expression || ')', format('%s and not exists (select from %s as p where %s)',
            string_agg(format('n.%I is not null', c.name), ' and '), rule.parent, string_agg(format('p.%I = n.%I', c.parent_name, c.name), ' and ')))
        into condition
        from unnest(rule.columns, rule.parent_columns) as c (name, parent_name);
        begin
            execute format('select count(*) from (select %s from only %s as s) as n (%s) where %s', parts.read, parts.source, parts.columns, condition)
            into broken;
        exception when undefined_function or insufficient_privilege then
            broken := 0;
        end;
        if broken > 0 then
            problems := problems || format('%s row(s) do not hold to the constraint %I', broken, rule.name);
        end if;
    end loop;
    if problems <> '{}' then
        raise exception '% cannot be held by the new table: %', copy.old_table::regclass, array_to_string(problems, '; ')
        using errcode = 'RM001', hint = 'Nothing was changed. Mend these rows, then run the same command again.';
    end if;
end;
$function$;


-- What a rollback after the swap will not have, for a message. Null: nothing.
create or replace function rpc_migrations.one_way_in_words(copy rpc_migrations.copies) returns text
language sql immutable
set search_path = ''
as $function$
    select format('%s converted one way: a rollback after the swap is refused once a value of it was changed or a row added, but for --discard-changes',
        string_agg(format('%I', c.name), ', '))
    from jsonb_to_recordset(copy.columns) as c (name text, expression text)
    where c.expression is not null
    having count(*) > 0;
$function$;


-- Runs the statements on a twin, and undoes it. Answers what they have made of the table: {parts, columns, dropped}, which are parts
-- as describe_table tells them, the old columns that are still there as [{old, new}], and the names of those that are gone.
-- Raises RM001 where that cannot be done online, or the statements' own error.
create or replace function rpc_migrations.try_alterations(copy rpc_migrations.copies, alterations text[], conversions jsonb) returns jsonb
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    alteration jsonb;
    problems text;
begin
    begin
        select t.alteration, t.problems into alteration, problems
        from rpc_migrations.alter_twin(copy, alterations, conversions) as t;
        raise exception using errcode = 'RM007';
    exception when sqlstate 'RM007' then
        null;
    end;
    if problems is not null then
        raise exception '% cannot be rebuilt so: %', copy.old_table::regclass, problems
        using errcode = 'RM001', hint = 'Nothing was changed. Change the step file, then run the same command again.';
    end if;
    return alteration;
end;
$function$;


-- What the old table looks like, without what of the twin depends on it.
create or replace function rpc_migrations.definition_without_twin(relation oid) returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_agg(e.value order by e.place)
    from jsonb_array_elements(rpc_migrations.table_definition(relation)) with ordinality as e (value, place)
    where coalesce(strpos(e.value ->> 'statement', 'rpc_migrations_twin.'), 0) = 0;
$function$;


-- What try_alterations does, before it is undone.
create or replace function rpc_migrations.alter_twin(
    copy rpc_migrations.copies, alterations text[], conversions jsonb, out alteration jsonb, out problems text
)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    definition jsonb := rpc_migrations.definition_without_twin(copy.old_table);
    twin_name text := format('rpc_migrations_twin.%I', copy.table_name);
    twin oid;
    numbers jsonb;
    resolved jsonb;
    statement text;
begin
    twin := rpc_migrations.make_twin(copy, twin_name);
    select jsonb_object_agg(a.attnum, a.attname) into numbers
    from pg_catalog.pg_attribute as a where a.attrelid = twin and a.attnum > 0;
    select coalesce(jsonb_object_agg(c.key, rpc_migrations.resolved(twin_name, c.value)), '{}') into resolved
    from jsonb_each_text(conversions) as c;
    foreach statement in array alterations loop
        perform rpc_migrations.alter_by(twin_name, statement);
    end loop;
    if rpc_migrations.definition_without_twin(copy.old_table) <> definition then
        problems := 'the statements alter another table than the one that is rebuilt, or somebody has just altered it';
        return;
    end if;
    if to_regclass(twin_name) is distinct from twin::regclass then
        problems := 'the statements drop, move or rename the table';
        return;
    end if;
    alteration := rpc_migrations.read_twin(copy, twin, numbers) || jsonb_build_object('conversions', resolved);
    select string_agg(p, '; ') into problems from rpc_migrations.problems_of_alteration(copy, twin, alteration) as p;
    if problems is null then
        problems := rpc_migrations.differing_sample(copy, twin, alteration);
    end if;
end;
$function$;


-- Kinds of things that are the table's own, and that a twin has of the swap's: ALTER TABLE changes them.
create or replace function rpc_migrations.is_of_the_table(phase text, kind text) returns boolean
language sql immutable
set search_path = ''
as $function$
    select phase in ('columns', 'build') or phase = 'swap' and kind in (
        'foreign key', 'trigger', 'rule', 'row security', 'policy', 'grant', 'storage option', 'index setting', 'clustering', 'replica identity',
        'comment'
    );
$function$;


-- Makes the twin, in a schema of its own, with at most 1,000 of the rows; they are there twice, also as they were.
create or replace function rpc_migrations.make_twin(copy rpc_migrations.copies, twin_name text) returns oid
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    columns text;
    part rpc_migrations.part;
begin
    create schema rpc_migrations_twin;
    execute format('create table %s ()', twin_name);
    perform rpc_migrations.revoke_all(to_regclass(twin_name));
    for part in
        select p.* from rpc_migrations.describe_table(copy.old_table, twin_name) as p where p.phase = 'columns'
    loop
        execute part.statement;
    end loop;
    copy.new_table := to_regclass(twin_name);
    perform rpc_migrations.adapt_new_table(copy);
    select string_agg(quote_ident(a.attname), ', ') into columns
    from pg_catalog.pg_attribute as a
    where a.attrelid = copy.old_table and a.attnum > 0 and not a.attisdropped and a.attgenerated = '';
    execute format(
        'create table rpc_migrations_twin.rpc_migrations_sample as select %s from only %s limit 1000', columns, copy.old_table::regclass);
    execute format(
        'insert into %s (%s) overriding system value select %2$s from rpc_migrations_twin.rpc_migrations_sample', twin_name, columns);
    for part in
        select p.*
        from rpc_migrations.describe_table(copy.old_table, twin_name) as p
        where p.phase <> 'columns' and rpc_migrations.is_of_the_table(p.phase, p.kind)
    loop
        execute regexp_replace(part.statement, ' not valid$', '');  -- in small letters: a key that is made so in the swap only
        if part.kind = 'statistics' then
            execute format('alter statistics rpc_migrations.%I set schema rpc_migrations_twin', part.name);
        end if;
    end loop;
    return copy.new_table;
end;
$function$;


-- Runs one statement on the twin, which its own texts find by the table's name. An error tells the statement.
create or replace function rpc_migrations.alter_by(twin_name text, alteration text) returns void
language plpgsql
set search_path = rpc_migrations_twin, public, extensions, pg_temp
as $function$
declare
    error_code text;
    error_message text;
    error_detail text;
    error_hint text;
begin
    execute pg_catalog.format('alter table %s %s', twin_name, alteration);
    set constraints all immediate;
exception when others then
    get stacked diagnostics
        error_code = returned_sqlstate, error_message = message_text, error_detail = pg_exception_detail, error_hint = pg_exception_hint;
    raise exception using
        errcode = error_code,
        message = pg_catalog.replace(error_message, 'rpc_migrations_twin.', ''),
        detail = pg_catalog.concat_ws(e'\n', nullif(error_detail, ''), pg_catalog.format('In: alter table ... %s', pg_catalog.left(alteration, 300))),
        hint = error_hint;
end;
$function$;


-- Whether something of the twin that is built before the swap otherwise has to wait for it: a check that is not valid, and a policy
-- that mentions the table.
create or replace function rpc_migrations.is_made_late(kind text, statement text, name_in_use text) returns boolean
language sql immutable
set search_path = ''
as $function$
    select
        kind = 'check constraint' and statement ~ ' NOT VALID$'
        or kind = 'policy' and strpos(substr(statement, strpos(statement, ' as ')), name_in_use) > 0;
$function$;


-- An expression of the step file with all names in full: the copy looks none up, and whatever is put where names are looked up later
-- is not found. (PostgreSQL writes expressions back for constraints.)
create or replace function rpc_migrations.resolved(twin_name text, expression text) returns text
language plpgsql
set search_path = ''
as $function$
declare
    resolved text;
begin
    perform rpc_migrations.alter_by(twin_name, format(E'add constraint rpc_migrations_resolved check ((%s\n) is not null) not valid', expression));
    select pg_get_expr(c.conbin, c.conrelid) into resolved
    from pg_catalog.pg_constraint as c
    where c.conrelid = to_regclass(twin_name) and c.conname = 'rpc_migrations_resolved';
    perform rpc_migrations.alter_by(twin_name, 'drop constraint rpc_migrations_resolved');
    if resolved !~ '^\(.* IS NOT NULL\)$' then
        raise exception 'an expression that is not understood: %', expression
        using errcode = 'RM001', hint = 'Nothing was changed. Write it as a function and call that.';
    end if;
    return substr(resolved, 2, length(resolved) - length('( IS NOT NULL)'));
end;
$function$;


-- What the statements have made of the twin. A check that is not valid is made in the swap: before, rows that were there
-- already and change could not be replayed.
create or replace function rpc_migrations.read_twin(copy rpc_migrations.copies, twin oid, numbers jsonb) returns jsonb
language sql stable
set search_path = ''
as $function$
    with
    names as (
        select format('rpc_migrations.%I', copy.table_name) as before, format('%I.%I', copy.schema_name, copy.table_name) as after
    ),
    parts as (
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
        )
    )
    select jsonb_build_object(
        'parts', (
            select jsonb_agg(
                jsonb_build_object('phase', p.phase, 'kind', p.kind, 'name', p.name, 'definition', p.definition, 'statement', p.statement)
                order by p.place)
            from parts as p
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
        'rules', coalesce((
            select jsonb_agg(jsonb_build_object(
                'name', c.conname, 'expression', pg_get_expr(c.conbin, c.conrelid), 'parent', c.confrelid::regclass::text,
                'columns', array(
                    select a.attname from unnest(c.conkey) with ordinality as k (number, place)
                    inner join pg_catalog.pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.number order by k.place),
                'parent_columns', array(
                    select a.attname from unnest(c.confkey) with ordinality as k (number, place)
                    inner join pg_catalog.pg_attribute as a on a.attrelid = c.confrelid and a.attnum = k.number order by k.place)
            ))
            from pg_catalog.pg_constraint as c
            where c.conrelid = twin and c.contype in ('c', 'f') and c.convalidated and not exists (
                select from pg_catalog.pg_constraint as o
                where o.conrelid = copy.old_table and o.conname = c.conname and o.convalidated
                    and pg_get_constraintdef(o.oid) = pg_get_constraintdef(c.oid)
            )
        ), '[]'),
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
    new_name text := format('rpc_migrations.%I', copy.table_name);
    new_table oid;
    statement text;
begin
    execute format('create table %s ()', new_name);
    new_table := to_regclass(new_name);
    perform rpc_migrations.revoke_all(new_table);
    for statement in
        select p.statement
        from rows from (jsonb_to_recordset(copy.alteration -> 'parts') as (phase text, statement text)) with ordinality as p (phase, statement, place)
        where p.phase = 'columns'
        order by p.place
    loop
        execute statement;
    end loop;
    for statement in
        select format('alter table %s rename constraint %I to %I', new_name, c.conname, n.value)
        from jsonb_each_text(copy.alteration -> 'not_nulls') as n
        inner join pg_catalog.pg_attribute as a on a.attrelid = new_table and a.attname = n.key
        inner join pg_catalog.pg_constraint as c on c.conrelid = new_table and c.contype = 'n' and c.conkey = array[a.attnum]
        where c.conname <> n.value
    loop
        execute statement;
    end loop;
    return new_table;
end;
$function$;


-- What cannot be done online of what the statements have made, one sentence each.
create or replace function rpc_migrations.problems_of_alteration(
    copy rpc_migrations.copies, twin oid, alteration jsonb
) returns setof text
language sql stable
set search_path = ''
as $function$
    with
    changed as (
        select c.old as name, c.new as new_name from jsonb_to_recordset(alteration -> 'columns') as c (old text, new text) where c.old <> c.new
        union all
        select d.name, null from jsonb_array_elements_text(alteration -> 'dropped') as d (name)
    ),
    key_columns as (
        select
            c.oid = copy.old_table as is_old,
            array_agg(coalesce(m.new, a.attname) order by k.place) as names
        from (values (copy.old_table), (twin)) as c (oid)
        inner join pg_catalog.pg_index as i on i.indrelid = c.oid and i.indisprimary
        cross join lateral unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
        inner join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
        left join jsonb_to_recordset(alteration -> 'columns') as m (old text, new text) on c.oid = copy.old_table and m.old = a.attname
        where k.place <= i.indnkeyatts
        group by c.oid
    ),
    old_key as (
        select a.attname::text as name
        from pg_catalog.pg_index as i
        inner join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[])
        where i.indrelid = copy.old_table and i.indisprimary
    )
    select format('the new table: %s', o) from rpc_migrations.obstacles_in_words(twin) as o where o is not null
    union all
    select 'the primary key has other columns afterwards; rows are told by it, so that has to be done in a step after the rebuild'
    where (select k.names from key_columns as k where k.is_old) is distinct from (select k.names from key_columns as k where not k.is_old)
    union all
    select format('column %I belongs to the primary key and is renamed, dropped or converted; do that in a step after the rebuild', k.name)
    from old_key as k
    where k.name in (select c.name from changed as c) or alteration -> 'conversions' ? k.name
    union all
    -- Its own things follow a column that is renamed or dropped, on the twin as on the table; those of others do not.
    select distinct format('column %I is %s, and this depends on it: %s', c.name, case when c.new_name is null then 'dropped' else 'renamed' end,
        pg_describe_object(d.classid, d.objid, d.objsubid))
    from changed as c
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
    )
    union all
    select format('a foreign key to the table itself (%I) is added; do that in a step after the rebuild', c.conname)
    from pg_catalog.pg_constraint as c
    where c.conrelid = twin and c.contype = 'f' and c.confrelid in (twin, copy.old_table)
    union all
    -- Sequences go from table to table by the names of their columns.
    select format('column %I is new under the name of an older one that has a sequence', a.attname)
    from pg_catalog.pg_attribute as a
    inner join pg_catalog.pg_attribute as o on o.attrelid = copy.old_table and o.attname = a.attname and not o.attisdropped
    where a.attrelid = twin and a.attnum > 0 and not a.attisdropped
        and not alteration -> 'columns' @> jsonb_build_array(jsonb_build_object('old', a.attname, 'new', a.attname))
        and pg_get_serial_sequence(copy.old_table::regclass::text, o.attname) is not null
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
        where n.indrelid = twin and n.indisunique and y.relname = x.relname
            and array(select pg_get_indexdef(n.indexrelid, g, false) from generate_series(1, n.indnkeyatts) as g)
            = array(select pg_get_indexdef(i.indexrelid, g, false) from generate_series(1, i.indnkeyatts) as g)
    )
    union all
    select format('%s %s refers to the table in a way that is not known here', p.kind, p.name)
    from jsonb_to_recordset(alteration -> 'parts') as p (kind text, name text, statement text)
    where strpos(p.statement, 'rpc_migrations_twin') > 0
    union all
    select format('column %I is not one of those that the table has and keeps, so it cannot be converted', c.name)
    from jsonb_object_keys(alteration -> 'conversions') as c (name)
    where not alteration -> 'columns' @> jsonb_build_array(jsonb_build_object('old', c.name));
$function$;


-- Whether the copy would make other rows of the sample than the statements have made of it; a sentence, or null.
create or replace function rpc_migrations.differing_sample(copy rpc_migrations.copies, twin oid, alteration jsonb) returns text
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    parts record;
    col record;
    has_differing boolean;
begin
    copy.alteration := alteration;
    copy.columns := rpc_migrations.plan_altered_columns(copy, twin, with_rows => false);
    copy.keys := rpc_migrations.primary_key(copy.old_table);
    copy.new_table := twin;
    copy.source := to_regclass('rpc_migrations_twin.rpc_migrations_sample');
    copy.target := twin;
    parts := rpc_migrations.copy_parts(copy);
    execute format(
        'select exists (select from only %s as s where not exists (select from only %s as t '
        'where %s and row(%s)::record operator(pg_catalog.*=) row(%s)::record))',
        parts.source, parts.target, rpc_migrations.key_match(copy, 's', 't'), parts.source_row, parts.target_row)
    into has_differing;
    if has_differing then
        return 'rows would not become what these statements make of them; an expression has to give the same value each time, '
            'and each column may get a new type once';
    end if;
    for col in
        select a.attname as name, format('(%s)::%s', coalesce(pg_get_expr(d.adbin, d.adrelid), 'null'), format_type(a.atttypid, a.atttypmod)) as default_value
        from pg_catalog.pg_attribute as a
        left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = twin and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attidentity = ''
            and not alteration -> 'columns' @> jsonb_build_array(jsonb_build_object('new', a.attname))
    loop
        execute format(
            'select exists (select from %1$s as t where (%2$s)::text is not distinct from (%2$s)::text and t.%3$I::text is distinct from (%2$s)::text)',
            twin::regclass, col.default_value, col.name)
        into has_differing;
        if has_differing then
            return format('rows that are there get another value in column %I than new ones by its default', col.name);
        end if;
    end loop;
    return null;
end;
$function$;


-- Which columns are copied and how, as plan_columns tells for others: each that the old table has and the new one keeps and does not
-- generate. Raises RM001, naming the columns, where the old rows (all of them are read: "with_rows") cannot be held by the new
-- table as they are.
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
            o.attgenerated as old_generated, n.attgenerated, copy.alteration -> 'conversions' ->> o.attname as expression,
            o.attcollation <> n.attcollation and o.attnum = any (
                select unnest(i.indkey::int2[]) from pg_catalog.pg_index as i where i.indrelid = copy.old_table and i.indisprimary
            ) as other_order,
            (
                select string_agg(distinct w.ev_class::regclass::text, ', ')
                from pg_catalog.pg_depend as p
                inner join pg_catalog.pg_rewrite as w on w.oid = p.objid and p.classid = 'pg_catalog.pg_rewrite'::regclass
                where p.refclassid = 'pg_catalog.pg_class'::regclass and p.refobjid = copy.old_table and p.refobjsubid = o.attnum
            ) as views
        from jsonb_to_recordset(copy.alteration -> 'columns') as c (old name, new name)
        inner join pg_catalog.pg_attribute as o on o.attrelid = copy.old_table and o.attname = c.old and not o.attisdropped
        inner join pg_catalog.pg_attribute as n on n.attrelid = new_table and n.attname = c.new and not n.attisdropped
        order by n.attnum
    loop
        continue when col.attgenerated <> '';
        if col.expression is null and not rpc_migrations.type_fits(col.old_type, col.new_type) then
            problems := array_append(problems, format('column %I is %s and becomes %s only by a USING', col.name, col.old_type_name, col.new_type_name));
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
            case when col.expression is null then format_type(col.new_type, -1) else col.new_type_name end,
            'old_type', format_type(col.old_type, -1),
            'expression', col.expression, 'as_text', rpc_migrations.compares_as_text(col.new_type)
        );
    end loop;
    if problems <> '{}' then
        raise exception '% cannot be held by the new table: %', copy.old_table::regclass, array_to_string(problems, '; ')
        using errcode = 'RM001', hint = 'Nothing was changed. Mend these rows or columns, then run the same command again.';
    end if;
    return plan;
end;
$function$;


-- What is wrong with converting a column's values by an expression: a value that makes PostgreSQL refuse it; NULLs where there
-- may be none; another value each time. Empty where all is right.
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
    execute format(
        'select count(*) filter (where (%1$s)::%2$s is null), count(*) filter (where (%1$s)::text is distinct from (%1$s)::text) from only %3$s as s',
        value, new_type, copy.old_table::regclass)
    into nulls, unsteady;
    return case when unsteady > 0 then array[format('the expression for %I gives another value each time', column_name)]
        when must_fill and nulls > 0 then array[format('%I may not be null, and the expression makes that of %s row(s)', column_name, nulls)]
        else '{}' end;
exception when data_exception or integrity_constraint_violation then
    return array[format('%I cannot be converted (%s)', column_name, sqlerrm)];
end;
$function$;


-- What a rollback that keeps the changes cannot put back: rows changed or added since the swap of which a column was converted one
-- way, and added ones that would lack a value of a column which was dropped. Raises RM001, before anything is changed.
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
    where a.attnotnull and not a.atthasdef and a.attidentity = '';
    if one_way is null and needed is null then
        return;
    end if;
    execute format(
        'select count(*) from only %s as s left join only %s as g on %s where g.ctid is null%s',
        parts.source, parts.target, rpc_migrations.key_match(copy, 's', 'g'),
        ' or row(' || parts.one_way || ')::record operator(pg_catalog.*<>) row(' || parts.one_way_before || ')::record')
    into lost;
    if lost > 0 then
        raise exception '% row(s) of % were changed or added since the migration, and cannot be put back: %', lost, parts.source,
            concat_ws('; ', one_way || ' was converted one way (type ... using)', needed || ' was dropped, and may not be null')
        using errcode = 'RM001', hint = 'Nothing was changed. --discard-changes restores the data as it was at the swap.';
    end if;
end;
$function$;
