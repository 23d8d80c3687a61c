-- How rows are told apart: by the columns of a key, and without one by all of them; and when two rows are the same.

-- The condition that two rows have the same key, with the operators of the key's own index. If the key is all columns, a hash of those
-- that have one lets the planner join by it.
create or replace function rpc_migrations.key_match(copy rpc_migrations.copies, one_alias text, other_alias text) returns text
language sql immutable
set search_path = ''
as $function$
    select concat_ws(' and ',
        'pg_catalog.hash_record_extended(row(' || string_agg(format('%s.%I', one_alias, k.name), ', ') filter (where k.hashed)
        || '), 0) = pg_catalog.hash_record_extended(row('
        || string_agg(format('%s.%I', other_alias, k.name), ', ') filter (where k.hashed) || '), 0)',
        string_agg(
            case when k.operator is null then format('%s.%I is not distinct from %s.%I', one_alias, k.name, other_alias, k.name)
                else format('%s.%I operator(%s) %s.%I', one_alias, k.name, k.operator, other_alias, k.name) end, ' and '))
    from (
        -- Copies that an earlier version began have no "hashed": all of their types have a hash.
        select r.name, r.operator, r.operator is null and r.hashed is not false as hashed
        from jsonb_to_recordset(copy.keys) as r (name text, operator text, hashed boolean)
    ) as k;
$function$;


-- Of several rows with the same key, one: what stands behind SELECT for that. DISTINCT itself goes by the type's own equality, which may not
-- be that of key_match: citext takes for the same what its letters, by which such rows are told apart, do not.
create or replace function rpc_migrations.distinct_keys(copy rpc_migrations.copies) returns text
language sql stable
set search_path = ''
as $function$
    select format('distinct on (%s) %s',
        string_agg(format(case when t.typcategory = 'S' and coalesce(k.operator, 'pg_catalog.') ~ '^pg_catalog\.' then '%I::text' else '%I' end, k.name), ', '),
        string_agg(quote_ident(k.name), ', '))
    from jsonb_to_recordset(copy.keys) as k (name name, operator text)
    inner join pg_catalog.pg_attribute as a on a.attrelid = to_regclass(format('rpc_migrations.log_%s', copy.id)) and a.attname = k.name
    inner join pg_catalog.pg_type as t on t.oid = a.atttypid;
$function$;


-- Whether the rows of a copy have no key but all of their columns.
create or replace function rpc_migrations.has_no_key(copy rpc_migrations.copies) returns boolean
language sql immutable
set search_path = ''
as $function$
    select coalesce(copy.keys @> '[{"operator": null}]', false);
$function$;


-- The rows of each table that the other one lacks, or has less often, for tables without a key. Values that are equal but written
-- differently (1.0 and 1.00) count as different.
create or replace function rpc_migrations.rows_without_equal(copy rpc_migrations.copies) returns text
language sql stable
set search_path = ''
as $function$
    select format(
        $sql$
        select %1$s from (
            (select %1$s, row(%1$s)::text from only %2$s except all select %1$s, row(%1$s)::text from only %3$s)
            union all
            (select %1$s, row(%1$s)::text from only %3$s except all select %1$s, row(%1$s)::text from only %2$s)
        ) as r (%1$s, rpc_migrations_text)
        $sql$,
        p.keys, p.source, p.target)
    from rpc_migrations.copy_parts(copy) as p;
$function$;


-- The condition that a row has no entry in the log.
create or replace function rpc_migrations.not_logged(copy rpc_migrations.copies, alias text) returns text
language sql stable
set search_path = ''
as $function$
    select format('not exists (select from rpc_migrations.log_%s as l where %s)', copy.id, rpc_migrations.key_match(copy, 'l', alias));
$function$;


-- The columns by which rows are told apart, of one side of a join.
create or replace function rpc_migrations.qualified_keys(copy rpc_migrations.copies, alias text) returns text
language sql immutable
set search_path = ''
as $function$
    select string_agg(format('%s.%I', alias, k.name), ', ') from jsonb_to_recordset(copy.keys) as k (name text);
$function$;


-- The indexes by which the rows of a table can be told apart, the best one first: the primary key's, and unique ones of columns that may
-- not be null, whatever their kind (the tables that Prisma makes between two others have such).
create or replace function rpc_migrations.key_indexes(relation oid) returns setof oid
language sql stable
set search_path = ''
as $function$
    select i.indexrelid
    from pg_catalog.pg_index as i
    where
        i.indrelid = relation and i.indisvalid
        and (
            i.indisprimary
            or i.indisunique and i.indimmediate and not i.indisexclusion and i.indpred is null and i.indexprs is null
            and not exists (
                select
                from unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
                inner join pg_catalog.pg_attribute as a on a.attrelid = relation and a.attnum = k.attnum
                where k.place <= i.indnkeyatts and (not a.attnotnull or rpc_migrations.may_hold_null(relation, a.attnum))
            )
        )
    order by i.indisprimary desc, i.indisreplident desc, i.indnkeyatts, i.indkey::text;
$function$;


-- The index by which the rows of a table are told apart. Null: none.
create or replace function rpc_migrations.key_index(relation oid) returns oid
language sql stable
set search_path = ''
as $function$
    select i.oid from rpc_migrations.key_indexes(relation) as i (oid) limit 1;
$function$;


-- The columns by which the rows of a table are told apart: those of its key's index, with the equality operator of the index's operator
-- class (strategy 3 of a btree), so that no search_path decides what "equal" means. Without a key: all columns that are not generated,
-- without an operator. Identical rows are then treated alike: they are replayed together, as many as there are.
create or replace function rpc_migrations.key_columns(relation oid) returns table (name name, number smallint, operator text, place bigint)
language plpgsql stable rows 3
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
declare
    key oid := rpc_migrations.key_index(relation);
begin
    return query
        select a.attname, a.attnum, format('%I.%s', n.nspname, o.oprname), k.place
        from pg_catalog.pg_index as i
        cross join lateral unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality as k (attnum, opclass, place)
        inner join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
        inner join pg_catalog.pg_opclass as c on c.oid = k.opclass
        inner join pg_catalog.pg_amop as m
            on m.amopfamily = c.opcfamily and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype and m.amopstrategy = 3
        inner join pg_catalog.pg_operator as o on o.oid = m.amopopr
        inner join pg_catalog.pg_namespace as n on n.oid = o.oprnamespace
        where i.indexrelid = key and k.place <= i.indnkeyatts
        union all
        select a.attname, a.attnum, null, a.attnum
        from pg_catalog.pg_attribute as a
        where key is null and a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = '';
end;
$function$;


-- Whether the values of a type can be compared and sorted, which it takes to tell rows without a key apart; and whether they have a hash.
create or replace function rpc_migrations.can_be_told_apart(type oid, hashed boolean default false) returns boolean
language plpgsql stable
set search_path = ''
as $function$
declare
    compared record;
begin
    execute format(
        'select null::%1$s is not distinct from null::%1$s, '
        || case when hashed then 'hash_record_extended(row(null::%1$s), 0)' else 'row_number() over (order by null::%1$s)' end,
        format_type(rpc_migrations.base_type(type), -1))
    into compared;
    return true;
exception when undefined_function or ambiguous_function then  -- the latter where others that it may be cast to can be
    return false;
end;
$function$;


-- The columns by which rows are told apart, as one JSON value (see copies.keys). Null if there is no key, and values cannot be compared.
create or replace function rpc_migrations.row_keys(relation oid) returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_agg(
        jsonb_build_object('name', k.name, 'operator', k.operator)
        || case when k.operator is null then jsonb_build_object('hashed', rpc_migrations.can_be_told_apart(a.atttypid, hashed => true))
            else '{}' end
        order by k.place)
    from rpc_migrations.key_columns(relation) as k
    inner join pg_catalog.pg_attribute as a on a.attrelid = relation and a.attnum = k.number
    having bool_and(k.operator is not null or rpc_migrations.can_be_told_apart(a.atttypid));
$function$;


-- The columns by which the rows of a copy's original table are told apart now: its key may be another one since. Without any key, all
-- that were noted.
create or replace function rpc_migrations.keys_of_original(copy rpc_migrations.copies) returns jsonb
language sql stable
set search_path = ''
as $function$
    select case when rpc_migrations.has_no_key(copy) then copy.keys else rpc_migrations.row_keys(copy.old_table) end;
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
    -- The domain itself may refuse the NULL.
    execute format('select hash_record_extended(row(null::%s), 0)', format_type(rpc_migrations.base_type(type), -1)) into hash;
    return false;
exception when undefined_function then
    return true;
end;
$function$;
