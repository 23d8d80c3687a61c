-- The twin: an empty table of the same columns, on which the statements are run to see what they do, in a schema of its own and with a
-- sample of rows beside it. All of it is undone.

-- Runs the statements on a twin, and undoes it. Returns what they have made of the table (see read_twin): {create, parts, columns, dropped,
-- rules, not_nulls, schema, conversions, filled}, which are the statement that makes it, parts as describe_table returns them, the old columns that
-- are still there as [{old, new}], the names of those that are gone, the added checks and foreign keys, the names of not-null constraints,
-- where the new table is made, the expressions of "type ... using", and the values of added columns.
-- Raises RM001 if that cannot be done online, or the statements' own error.
create or replace function rpc_migrations.try_alterations(copy rpc_migrations.copies, alterations text[], conversions jsonb) returns jsonb
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    alteration jsonb;
    problems text;
begin
    for attempt in 1..3 loop
        begin
            select t.alteration, t.problems into alteration, problems
            from rpc_migrations.alter_twin(copy, alterations, conversions) as t;
            raise exception using errcode = 'RM099';
        exception
            when sqlstate 'RM099' then
                exit;
            when foreign_key_violation then
                -- Perhaps a row of the sample was deleted, and then the one it refers to, before the twin's foreign key locked that table.
                if attempt = 3 then
                    raise;
                end if;
        end;
    end loop;
    if problems is not null then
        raise exception '% cannot be rebuilt this way: %', copy.old_table::regclass, problems
        using errcode = 'RM001', hint = 'Nothing was changed. Change the step file, then run the same command again.';
    end if;
    return alteration;
end;
$function$;


-- What the old table looks like, without things of the twin that depend on it.
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
    indexes jsonb;
    resolved jsonb;
    keys jsonb;
    statement text;
begin
    twin := rpc_migrations.make_twin(copy, twin_name);
    keys := rpc_migrations.add_keys_to_itself(copy.old_table, twin_name);
    select jsonb_object_agg(a.attnum, a.attname) into numbers
    from pg_catalog.pg_attribute as a where a.attrelid = twin and a.attnum > 0;
    select jsonb_object_agg(c.relname, c.oid) into indexes
    from pg_catalog.pg_index as i
    inner join pg_catalog.pg_class as c on c.oid = i.indexrelid
    where i.indrelid = twin;
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
    select coalesce(jsonb_object_agg(r.key, rpc_migrations.of_the_type(r.value, a.atttypid)), '{}') into resolved
    from jsonb_each_text(resolved) as r
    left join jsonb_each_text(numbers) as n on n.value = r.key
    left join pg_catalog.pg_attribute as a on a.attrelid = twin and a.attnum = n.key::smallint and not a.attisdropped;
    problems := rpc_migrations.drop_keys_to_itself(twin, keys);
    if problems is not null then
        return;
    end if;
    copy.alteration := jsonb_build_object('schema', rpc_migrations.schema_for_new(twin), 'conversions', resolved);
    alteration := copy.alteration || rpc_migrations.read_twin(copy, twin, numbers);
    select string_agg(p, '; ') into problems from rpc_migrations.problems_of_alteration(copy, twin, alteration, indexes) as p;
    if problems is null then
        problems := rpc_migrations.differing_sample(copy, twin, alteration);
    end if;
    if problems is null then
        alteration := alteration || jsonb_build_object('filled', rpc_migrations.filled_values(copy, twin, alteration));
    end if;
end;
$function$;


-- Whether a part is of the table itself, so that ALTER TABLE may change it and a twin has it.
create or replace function rpc_migrations.is_of_the_table(phase text, kind text) returns boolean
language sql immutable
set search_path = ''
as $function$
    select phase in ('columns', 'build') or phase = 'swap' and kind in (
        'foreign key', 'trigger', 'rule', 'row security', 'policy', 'grant', 'storage option', 'index setting', 'clustering', 'replica identity',
        'comment'
    );
$function$;


-- Whether a part that describe_table returns is a column that the table already has.
create or replace function rpc_migrations.has_column(relation oid, kind text, name text) returns boolean
language sql stable
set search_path = ''
as $function$
    select kind = 'column' and exists (select from pg_catalog.pg_attribute as a where a.attrelid = relation and a.attname = name);
$function$;


-- Raises RM001 if a table that has just been made has more than its statement says, because an event trigger acts on new tables. A setting
-- that the old table has, too, does no harm; anything else could not be made again, and a column would be in another place.
create or replace function rpc_migrations.refuse_event_triggers(old_table oid, new_table oid) returns void
language plpgsql stable
set search_path = ''
as $function$
declare
    added text;
begin
    with columns as (
        select a.attrelid, a.attname, row_number() over (partition by a.attrelid order by a.attnum) as place
        from pg_catalog.pg_attribute as a
        where a.attrelid in (old_table, new_table) and a.attnum > 0 and not a.attisdropped
    )
    select string_agg(concat_ws(' ', m.kind, m.name), ', ') into added
    from (
        select 'column' as kind, n.attname::text as name
        from columns as n
        where n.attrelid = new_table
            and not exists (select from columns as o where o.attrelid = old_table and o.attname = n.attname and o.place = n.place)
        union all
        select p.kind, p.name
        from rpc_migrations.describe_table(new_table, 'x') as p
        where
            p.phase <> 'along' and p.kind not in ('column', 'sequence', 'grant', 'owner')
            and not (p.kind in ('row security', 'comment', 'storage option', 'replica identity', 'publication') and exists (
                select from rpc_migrations.describe_table(old_table, 'x') as o where o.kind = p.kind and o.name = p.name))
    ) as m;
    if added is not null then
        raise exception '% cannot be rebuilt: an event trigger adds something to every new table: %',
            old_table::regclass, added
        using errcode = 'RM001', hint = 'Nothing was changed. Disable it (alter event trigger ... disable), run the same command again, '
            'and enable it when the copy has begun.';
    end if;
end;
$function$;


-- The first rows of a table, at most 1,000 and at most a few megabytes of them, as a query.
create or replace function rpc_migrations.first_rows(relation oid, columns text) returns text
language sql stable
set search_path = ''
as $function$
    select format(
        'select %1$s from (select s.*, sum(%2$s) over (rows unbounded preceding) as rpc_migrations_bytes, row_number() over () as rpc_migrations_number '
        'from (select %1$s from only %3$s limit 1000) as s) as s where s.rpc_migrations_bytes < 3000000 or s.rpc_migrations_number = 1',
        columns, string_agg(format('coalesce(pg_column_size(s.%I), 0)', a.attname), ' + '), relation::regclass)
    from pg_catalog.pg_attribute as a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = '';
$function$;


-- Makes the twin, in a schema of its own, with some of the rows, of which it keeps another copy as they were. Foreign keys and policies
-- come last: they lock tables of others (see describe_security) until all of it is undone.
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
    perform rpc_migrations.make_again('a generated column', null, rpc_migrations.create_statement(copy.old_table, twin_name));
    perform rpc_migrations.refuse_event_triggers(copy.old_table, to_regclass(twin_name));
    perform rpc_migrations.revoke_all(to_regclass(twin_name));
    perform rpc_migrations.make_unlogged_as(copy.old_table, to_regclass(twin_name));
    for part in
        select p.*
        from rpc_migrations.describe_table(copy.old_table, twin_name) as p
        where p.phase = 'columns' and not rpc_migrations.has_column(to_regclass(twin_name), p.kind, p.name)
    loop
        perform rpc_migrations.make_again(part.kind, part.name, part.statement);
    end loop;
    copy.new_table := to_regclass(twin_name);
    perform rpc_migrations.adapt_new_table(copy);
    select string_agg(quote_ident(a.attname), ', ') into columns
    from pg_catalog.pg_attribute as a
    where a.attrelid = copy.old_table and a.attnum > 0 and not a.attisdropped and a.attgenerated = '';
    perform rpc_migrations.run(
        'create table rpc_migrations_twin.rpc_migrations_sample as ' || rpc_migrations.first_rows(copy.old_table, columns));
    perform rpc_migrations.make_again('a generated column', null, format(
        'insert into %s (%s) overriding system value select %2$s from rpc_migrations_twin.rpc_migrations_sample', twin_name, columns));
    for part in
        select p.phase, p.kind, p.name, p.definition, p.statement, p.detach
        from rpc_migrations.describe_table(copy.old_table, twin_name)
            with ordinality as p (phase, kind, name, definition, statement, detach, place)
        where p.phase <> 'columns' and rpc_migrations.is_of_the_table(p.phase, p.kind)
        order by p.kind in ('policy', 'foreign key', 'comment'), p.place
    loop
        begin
            -- in lower case it is ours: a key that is not valid only while the swap makes it
            perform rpc_migrations.make_again(part.kind, part.name, regexp_replace(part.statement, ' not valid$', ''));
        exception when check_violation then
            perform rpc_migrations.leave_out_of_sample(copy, part.name, twin_name, columns);
            perform rpc_migrations.make_again(part.kind, part.name, part.statement);
        end;
        if part.kind = 'statistics' then
            execute format('alter statistics rpc_migrations.%I set schema rpc_migrations_twin', part.name);
        end if;
    end loop;
    return copy.new_table;
end;
$function$;


-- The foreign keys of a table to itself, by name; without what changes when a column gets another type.
create or replace function rpc_migrations.keys_to_itself(relation oid) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_object_agg(c.conname, to_jsonb(c) - array['oid', 'conindid', 'conpfeqop', 'conppeqop', 'conffeqop']), '{}')
    from pg_catalog.pg_constraint as c
    where c.conrelid = relation and c.confrelid = relation and c.contype = 'f' and c.conparentid = 0;
$function$;


-- Gives the twin the table's foreign keys to itself, as not valid: of the rows that they point at, it has a sample. They are not read from
-- it, because they go along with those that point at the table; but the statements are not to miss them. Returns them.
create or replace function rpc_migrations.add_keys_to_itself(old_table oid, twin_name text) returns jsonb
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.execute_each(array(
        select format('alter table %s add constraint %I %s%s', twin_name, c.conname,
            replace(pg_get_constraintdef(c.oid), format(' REFERENCES %s(', old_table::regclass), format(' REFERENCES %s(', twin_name)),
            case when c.convalidated then ' not valid' end)
        from pg_catalog.pg_constraint as c
        where c.conrelid = old_table and c.confrelid = old_table and c.contype = 'f'
        order by c.oid
    ));
    return rpc_migrations.keys_to_itself(to_regclass(twin_name));
end;
$function$;


-- Takes them off again. What is wrong if the statements have changed one; null if they have not.
create or replace function rpc_migrations.drop_keys_to_itself(twin oid, keys jsonb) returns text
language plpgsql
set search_path = ''
as $function$
declare
    now_there jsonb := rpc_migrations.keys_to_itself(twin);
    changed text;
begin
    select string_agg(k.key, ', ') into changed from jsonb_each(keys) as k where k.value is distinct from now_there -> k.key;
    if changed is not null then
        return format('a foreign key to the table itself (%s) is dropped or altered; do that in a step before or after the rebuild', changed);
    end if;
    perform rpc_migrations.execute_each(array(
        select format('alter table %s drop constraint %I', twin::regclass, k.key) from jsonb_each(keys) as k
    ));
    return null;
end;
$function$;


-- Deletes rows that no longer hold to a check from the sample and the twin.
create or replace function rpc_migrations.leave_out_of_sample(
    copy rpc_migrations.copies, check_name text, twin_name text, columns text
) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.run(format('delete from %s where not (%s)', twin_name, (
        select pg_get_expr(c.conbin, c.conrelid)
        from pg_catalog.pg_constraint as c
        where c.conrelid = copy.old_table and c.conname = check_name
    )));
    execute 'truncate table rpc_migrations_twin.rpc_migrations_sample';
    execute format('insert into rpc_migrations_twin.rpc_migrations_sample (%s) select %1$s from %s', columns, twin_name);
end;
$function$;


-- Runs one statement on the twin; names in it find the twin by the table's name. An error names the statement.
create or replace function rpc_migrations.alter_by(twin_name text, alteration text) returns void
language plpgsql
set search_path = ''
as $function$
declare
    error_code text;
    error_message text;
    error_detail text;
    error_hint text;
begin
    perform pg_catalog.set_config(
        'search_path', pg_catalog.concat('rpc_migrations_twin, ', rpc_migrations.path_of_the_owner(), ', pg_temp'), true);
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


-- Whether something of the twin that is otherwise built before the swap has to wait for it: a check that is not valid, or a policy
-- that mentions the table.
create or replace function rpc_migrations.is_made_late(kind text, statement text, name_in_use text) returns boolean
language sql immutable
set search_path = ''
as $function$
    select
        kind = 'check constraint' and statement ~ ' NOT VALID$'
        or kind = 'policy' and strpos(substr(statement, strpos(statement, ' as ')), name_in_use) > 0;
$function$;


-- An expression of the step file with all names qualified: the copy looks none up, so that nothing that others put into a schema later
-- is found. (It is PostgreSQL that qualifies them, by printing the expression of a constraint.)
create or replace function rpc_migrations.resolved(twin_name text, expression text) returns text
language plpgsql
set search_path = ''
set extra_float_digits = 1
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


-- A literal that is all of a resolved expression, read as a value of the type that its column gets, as ALTER TABLE reads it. Any other
-- expression stays as it is: it has a type. (Without the type's length: what is too long is refused, not cut off.)
create or replace function rpc_migrations.of_the_type(expression text, type oid) returns text
language sql stable
set search_path = ''
as $function$
    select case when expression ~ '^(NULL::unknown|E?''([^'']|'''')*'')$' then concat_ws('::', expression, format_type(type, -1)) else expression end;
$function$;
