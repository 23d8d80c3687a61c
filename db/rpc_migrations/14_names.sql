-- Names and sequences in the swap: the original table, and everything named after it, steps aside for the new one, whose sequences
-- continue where the old ones stand.

-- A name of at most 63 bytes in which the table's old name is replaced by its new one, and that is free: nothing has it, and nothing is
-- about to get it ("taken").
create or replace function rpc_migrations.derived_name(
    schema_name text, name text, old_prefix text, new_prefix text, taken text[] default '{}'
) returns text
language plpgsql
set search_path = ''
as $function$
declare
    derived text := case
        when starts_with(name, old_prefix) then new_prefix || substr(name, length(old_prefix) + 1)
        else new_prefix || '_' || name
    end;
    shortened text := derived;
begin
    if octet_length(derived) <= 63 and derived <> all (taken) and to_regclass(format('%I.%I', schema_name, derived)) is null and not exists (
        select from pg_catalog.pg_statistic_ext as s
        where s.stxnamespace = to_regnamespace(quote_ident(schema_name)) and s.stxname = derived
    ) then
        return derived;
    end if;
    while octet_length(shortened) > 54 loop
        shortened := left(shortened, -1);
    end loop;
    return shortened || '_' || left(md5(derived || clock_timestamp()), 8);
end;
$function$;


-- What moves aside with a table: its indexes, statistics and the sequences that belong to its columns.
create or replace function rpc_migrations.named_with(relation oid) returns table (kind text, schema name, name name)
language plpgsql stable rows 5
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select case c.relkind when 'S' then 'sequence' else 'index' end, n.nspname, c.relname
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        where
            c.oid in (select i.indexrelid from pg_catalog.pg_index as i where i.indrelid = relation)
            or c.relkind = 'S' and c.oid in (
                select d.objid from pg_catalog.pg_depend as d
                where d.refobjid = relation and d.classid = 'pg_catalog.pg_class'::regclass and d.deptype in ('a', 'i'))
        union all
        select 'statistics', n.nspname, s.stxname
        from pg_catalog.pg_statistic_ext as s
        inner join pg_catalog.pg_namespace as n on n.oid = s.stxnamespace
        where s.stxrelid = relation;
end;
$function$;


-- Renames a table with its indexes, statistics and the sequences that belong to its columns, so that their names are free for
-- the table that takes its place. Returns what was renamed, the table first: [{kind, schema, old_name, new_name}].
create or replace function rpc_migrations.move_aside(relation oid, new_name text, successor oid) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    schema_name text;
    table_name text;
    item record;
    item_name text;
    -- No name that is made free here, which the successor is to have, nor one that it has besides; a constraint's name has to be
    -- one of its kind on the table itself, whatever it is of.
    taken text[] := array(
        select w.name from rpc_migrations.named_with(relation) as w
        union all
        select w.name from rpc_migrations.named_with(successor) as w
        union all
        select c.conname from pg_catalog.pg_constraint as c where c.conrelid = relation
    );
    renamed jsonb;
begin
    select n.nspname, c.relname into schema_name, table_name
    from pg_catalog.pg_class as c inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.oid = relation;
    execute format('alter table %s rename to %I', relation::regclass, new_name);
    renamed := jsonb_build_array(jsonb_build_object('kind', 'table', 'schema', schema_name, 'old_name', table_name, 'new_name', new_name));
    for item in select w.* from rpc_migrations.named_with(relation) as w order by w.name loop
        -- One after the other, so that two of them do not get the same name.
        item_name := rpc_migrations.derived_name(item.schema, item.name, table_name, new_name, taken);
        execute format('alter %s %I.%I rename to %I', item.kind, item.schema, item.name, item_name);
        renamed := renamed || jsonb_build_object('kind', item.kind, 'schema', item.schema, 'old_name', item.name, 'new_name', item_name);
    end loop;
    return renamed;
end;
$function$;


-- Moves a table into another schema, under a name that is free there. With it PostgreSQL moves the array type of its rows (_orders), and
-- fails if something there has that name; when a table is renamed, it picks a free one. So the table moves under a name that nobody has,
-- and gets its own there.
create or replace function rpc_migrations.move_into(relation oid, schema_name text, new_name text) returns void
language plpgsql
set search_path = ''
as $function$
begin
    execute format('alter table %s rename to %I', relation::regclass, 'rpc_migrations_' || md5(random()::text || clock_timestamp()));
    execute format('alter table %s set schema %I', relation::regclass, schema_name);
    execute format('alter table %s rename to %I', relation::regclass, new_name);
end;
$function$;


-- The target's columns whose names differ from the source's, because ALTER TABLE has renamed them: [{number, own, lent}], where "lent" is the
-- source's name for it. A column that has such a name itself, and is another one, gets out of the way.
create or replace function rpc_migrations.names_to_lend(copy rpc_migrations.copies) returns jsonb
language sql stable
set search_path = ''
as $function$
    with renamed as (
        select
            case when copy.target = copy.new_table then c.new else c.old end as own,
            case when copy.target = copy.new_table then c.old else c.new end as lent
        from jsonb_to_recordset(copy.alteration -> 'columns') as c (old text, new text)
        where c.new <> c.old
    )
    select coalesce(jsonb_agg(jsonb_build_object(
        'number', a.attnum, 'own', a.attname, 'lent', coalesce(r.lent, 'rpc_migrations_' || a.attnum))), '[]')
    from pg_catalog.pg_attribute as a
    left join renamed as r on r.own = a.attname
    where a.attrelid = copy.target and a.attnum > 0 and not a.attisdropped and (r.own is not null or a.attname in (select o.lent from renamed as o));
$function$;


-- Gives these columns the names under one key of names_to_lend. They may exchange names, so all of them give up theirs first.
create or replace function rpc_migrations.name_columns(relation oid, names jsonb, key text) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.execute_each(array(
        select format('alter table %s rename column %I to %I', relation::regclass, a.attname, 'rpc_migrations_renamed_' || a.attnum)
        from jsonb_to_recordset(names) as n (number smallint)
        inner join pg_catalog.pg_attribute as a on a.attrelid = relation and a.attnum = n.number
    ));
    perform rpc_migrations.execute_each(array(
        select format('alter table %s rename column %I to %I', relation::regclass, 'rpc_migrations_renamed_' || (n.value ->> 'number'), n.value ->> key)
        from jsonb_array_elements(names) as n
    ));
end;
$function$;


-- The sequences of the columns that two tables have in common.
create or replace function rpc_migrations.sequence_pairs(from_table oid, to_table oid)
returns table (place smallint, from_sequence regclass, to_sequence regclass)
language sql stable
set search_path = ''
as $function$
    select p.*
    from (
        select
            o.attnum as place,
            pg_get_serial_sequence(from_table::regclass::text, o.attname)::regclass as from_sequence,
            -- not o.attname, which to_table may lack: it is asked for before the join
            case when n.attnum > 0 and not n.attisdropped then
                pg_get_serial_sequence(to_table::regclass::text, n.attname)::regclass end as to_sequence
        from pg_catalog.pg_attribute as o
        inner join pg_catalog.pg_attribute as n on n.attrelid = to_table and n.attname = o.attname
        where o.attrelid = from_table and o.attnum > 0 and not o.attisdropped and not n.attisdropped
    ) as p
    where p.from_sequence is not null and p.to_sequence is not null;
$function$;


-- Gives the sequences of one table's columns the positions that those of the same columns of another have reached.
create or replace function rpc_migrations.carry_positions(from_table oid, to_table oid) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.execute_each(array(
        select format('select pg_catalog.setval(%L, s.last_value, s.is_called) from %s as s', p.to_sequence, p.from_sequence)
        from rpc_migrations.sequence_pairs(from_table, to_table) as p
    ));
end;
$function$;


-- Gives the sequence of a serial column that goes from one table to another the column's new type, if it had the old one; but not if it
-- has already given out a number beyond that.
create or replace function rpc_migrations.fit_sequences(from_table oid, to_table oid) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.execute_each(array(
        select format('alter sequence %s as %s', q.seqrelid::regclass, format_type(n.atttypid, null))
        from pg_catalog.pg_attribute as o
        inner join pg_catalog.pg_attribute as n on n.attrelid = to_table and n.attname = o.attname and n.atttypid <> o.atttypid
        inner join pg_catalog.pg_depend as d
            on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = to_table and d.refobjsubid = n.attnum
            and d.classid = 'pg_catalog.pg_class'::regclass and d.deptype = 'a'
        inner join pg_catalog.pg_sequence as q on q.seqrelid = d.objid and q.seqtypid = o.atttypid
        where
            o.attrelid = from_table and n.atttypid in ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype)
            and coalesce(pg_sequence_last_value(q.seqrelid), 0) <= case n.atttypid
                when 'smallint'::regtype then 32767 when 'integer'::regtype then 2147483647 else 9223372036854775807 end
    ));
end;
$function$;


-- Grants on the sequences of one table's columns what is granted on those of the same columns of another.
create or replace function rpc_migrations.carry_sequence_rights(from_table oid, to_table oid) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.execute_each(array(
        select format('grant %s on sequence %s to %s%s', acl.privilege_type, p.to_sequence, rpc_migrations.role_name(acl.grantee),
            case when acl.is_grantable then ' with grant option' end)
        from rpc_migrations.sequence_pairs(from_table, to_table) as p
        inner join pg_catalog.pg_class as s on s.oid = p.from_sequence
        cross join lateral aclexplode(s.relacl) with ordinality as acl (grantor, grantee, privilege_type, is_grantable, place)
        where acl.grantee <> s.relowner
        order by p.place, acl.place
    ));
end;
$function$;


-- Gives the target's triggers and rules back the state that they had before they were quieted. In a rollback some may be gone, together
-- with their function (see changed_aside).
create or replace function rpc_migrations.wake_triggers(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.execute_each(array(
        select format(
            'alter table %s %s %s %I', copy.target::regclass, coalesce(rpc_migrations.firing(q.state::"char"), 'enable'), q.kind, q.name)
        from (
            select 'trigger' as kind, q.key as name, q.value as state
            from rpc_migrations.copies as c cross join lateral jsonb_each_text(c.quieted) as q
            where c.id = copy.id and (copy.state <> 'rolling back' or exists (
                select from pg_catalog.pg_trigger as t where t.tgrelid = copy.target and t.tgname = q.key))
            union all
            select 'rule', q.key, q.value
            from rpc_migrations.copies as c cross join lateral jsonb_each_text(c.quieted_rules) as q
            where c.id = copy.id and (copy.state <> 'rolling back' or exists (
                select from pg_catalog.pg_rewrite as r where r.ev_class = copy.target and r.rulename = q.key))
        ) as q
    ));
    update rpc_migrations.copies as c set quieted = '{}', quieted_rules = '{}' where c.id = copy.id;
end;
$function$;
