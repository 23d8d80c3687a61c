-- Conflicts: the source was altered since the copy began, or something on the new table has the same name as something else on the old
-- one. Both are refused by name, before anything of the application's changes.

-- Whether rows were written whose keys could not be noted (see create_log).
create or replace function rpc_migrations.has_missed_changes(copy rpc_migrations.copies) returns boolean
language plpgsql
set search_path = ''
set enable_seqscan = off
as $function$
declare
    has_missed boolean := false;
begin
    if exists (  -- a log that an earlier version made has no such entries
        select from pg_catalog.pg_attribute as a
        where a.attrelid = to_regclass(format('rpc_migrations.log_%s', copy.id)) and a.attname = 'rpc_migrations_truncated' and not a.attnotnull
    ) then
        execute format('select exists (select from rpc_migrations.log_%s where rpc_migrations_truncated is null)', copy.id) into has_missed;
    end if;
    return has_missed;
end;
$function$;


-- Checks, under a lock, that the source is still what it was when the copy began, and that nothing that cannot be carried over has
-- come to depend on it. In a rollback the source is the new table, which only steps aside, so it may have changed. Raises RM003
-- with what has changed.
create or replace function rpc_migrations.check_source(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    changes text;
    has_missed boolean := rpc_migrations.has_missed_changes(copy);
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        -- A snapshot taken before the lock would hide what was written until then.
        raise exception 'the transaction is "%"', current_setting('transaction_isolation')
        using errcode = 'RM005', hint = 'Run this in a transaction that is "read committed".';
    end if;
    changes := rpc_migrations.obstacles_in_words(copy.source);
    if to_regclass(rpc_migrations.name_in_use(copy)) is distinct from copy.source::regclass then
        changes := concat_ws('; ', format('it was renamed or moved, and was %I.%I', copy.schema_name, copy.table_name), changes);
    elsif copy.state <> 'rolling back' and rpc_migrations.table_definition(copy.source) <> copy.definition then
        changes := concat_ws('; ', rpc_migrations.definition_changes(copy.definition, rpc_migrations.table_definition(copy.source)), changes);
    end if;
    select concat_ws('; ', 'a column by which rows are told apart may be null now: ' || string_agg(quote_ident(a.attname), ', '), changes) into changes
    from pg_catalog.pg_attribute as a
    where a.attrelid = copy.source and not a.attnotnull and not rpc_migrations.has_no_key(copy)
        and copy.keys @> jsonb_build_array(jsonb_build_object('name', a.attname));
    changes := nullif(changes, '');
    if copy.state = 'rolling back' and rpc_migrations.has_log(copy) then
        changes := nullif(concat_ws('; ', rpc_migrations.lost_columns(copy), changes), '');
    end if;
    if rpc_migrations.has_log(copy) and (
        select count(*) <> 2
        from pg_catalog.pg_trigger as t
        where t.tgrelid = copy.source and t.tgname ~ '^rpc_migrations_capture' and t.tgenabled = 'A'
    ) then
        changes := concat_ws('; ', 'its triggers were switched off, so that changes may have been missed', changes);
    end if;
    if has_missed then
        changes := concat_ws('; ', 'rows were written while a column by which they are told apart was another one, so that changes were missed', changes);
    end if;
    if changes is not null then
        raise exception '% was altered since the copy began%: %', copy.source::regclass, rpc_migrations.restored_in_words(copy), changes
        using errcode = 'RM003',
            hint = 'No table in use was changed by this. ' || case when has_missed then 'To take the alteration back is not enough: '
                    else 'Take the alteration back and run the same command again; or ' end
                || case copy.state when 'rolling back' then 'give the rollback up with --give-up: the migrated table stays.'
                    else 'roll the migration back (which only removes the copy) and start again.' end;
    end if;
end;
$function$;


-- Raises lock_not_available, so that the attempt is undone and the next one says what has changed, if rights on the old table were granted
-- or revoked since check_source, under the lock of the swap: up to PostgreSQL 17, GRANT and REVOKE take no lock on the table. They update
-- its row in pg_class, which is locked by us once the table is renamed: so this is called after that. Rights on columns have rows of
-- their own; the microseconds that are left until the commit remain a gap for them.
create or replace function rpc_migrations.check_rights(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if (
        select coalesce(jsonb_agg(r.statement), '[]')
        from rpc_migrations.describe_rights(copy.old_table, rpc_migrations.name_in_use(copy)) as r
        where r.kind = 'grant'
    ) <> jsonb_path_query_array(copy.definition, '$[*] ? (@.kind == "grant").statement') then
        raise exception 'rights were given or taken under the lock of the swap' using errcode = 'lock_not_available';
    end if;
end;
$function$;


-- How something on the old table would be described on the new one, whose columns may have other types: it is made on an empty table
-- with the same columns, and undone. Null if it cannot be made there.
create or replace function rpc_migrations.definition_on(target oid, kind text, name text, statement text) returns text
language plpgsql
set search_path = ''
as $function$
declare
    definition text;
begin
    create schema rpc_migrations_scratch;  -- of its own: names of indexes are the schema's, and ours has the new table's
    execute format('create table rpc_migrations_scratch.scratch (like %s)', target::regclass);
    perform rpc_migrations.run(definition_on.statement);
    select p.definition into definition
    from rpc_migrations.describe_table('rpc_migrations_scratch.scratch'::regclass, 'rpc_migrations_scratch.scratch', '{}') as p
    where p.kind = definition_on.kind and p.name = definition_on.name;
    raise exception using errcode = 'RM099';
exception when sqlstate 'RM099' then
    return definition;
when others then
    if not rpc_migrations.tells_against_it(sqlstate) then
        raise;
    end if;
    return null;  -- it is another one, then, and refused
end;
$function$;


-- What the new table has under the same name as something else on the old one: a plain index in place of a unique one, a permissive
-- policy in place of a restrictive one. One sentence each. None for a table that ALTER TABLE has made, where things may differ.
create or replace function rpc_migrations.conflicts(source oid, target oid) returns setof text
language sql
set search_path = ''
as $function$
    with
    old_parts as (select p.* from rpc_migrations.describe_table(source, 'rpc_migrations_scratch.scratch', '{}') as p),
    new_parts as (select p.* from rpc_migrations.describe_table(target, target::regclass::text, '{}') as p),
    pairs as (select p.* from rpc_migrations.pairs(source, target) as p)
    select format('%s %I is "%s" in the step file and "%s" now', o.kind, o.name, n.definition, o.definition)
    from old_parts as o
    inner join new_parts as n
        on n.name = o.name and (
            n.kind = o.kind
            or o.phase = 'build' and (n.phase = 'build' or n.kind = 'foreign key') and (
                -- Indexes share their names with each other, and a table's constraints with each other.
                array[o.kind, n.kind] <@ array['index', 'primary key', 'unique constraint', 'exclusion constraint']
                or array[o.kind, n.kind] <@ array[
                    'primary key', 'unique constraint', 'exclusion constraint', 'check constraint', 'foreign key', 'not-null constraint']
            )
        )
    where
        (o.phase = 'build' or o.kind in ('foreign key', 'policy', 'trigger', 'rule'))
        and o.definition is distinct from n.definition
        and not exists (select from pairs as p where p.kind = o.kind and p.old_name = o.name)
        and rpc_migrations.alteration_of(source, target) is null
        and rpc_migrations.definition_on(target, o.kind, o.name, o.statement) is distinct from n.definition;
$function$;


-- Raises RM001 where the new table has something else under a name of the old one's.
create or replace function rpc_migrations.check_conflicts(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    reasons text;
begin
    select string_agg(c, '; ') into reasons from rpc_migrations.conflicts(copy.old_table, copy.new_table) as c;
    if reasons is not null then
        raise exception '% cannot be rebuilt as the step file says: %', copy.old_table::regclass, reasons
        using errcode = 'RM001', hint = 'No table in use was changed. Roll the migration back (which only removes the copy) and give '
            'these other names in the step file. The old ones are then carried over; drop them after the swap if you do not want them.';
    end if;
end;
$function$;
