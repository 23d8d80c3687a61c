-- A new table that was made in the likeness of the old one: what it gets besides columns before the copy begins.

-- Makes an empty new table unlogged if the old one is.
create or replace function rpc_migrations.make_unlogged_as(old_table oid, new_table oid) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if (select c.relpersistence from pg_catalog.pg_class as c where c.oid = old_table) = 'u' then
        perform rpc_migrations.run(format('alter table %s set unlogged', new_table::regclass));
    end if;
end;
$function$;


-- If a column is serial in both tables, the new one is made to draw from the old one's sequence, with its position and rights.
create or replace function rpc_migrations.share_sequences(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.execute_each(array(
        select format('alter table %s alter column %I set default nextval(%L::regclass); drop sequence %s',
            copy.new_table::regclass, o.attname, p.from_sequence, p.to_sequence)
        from rpc_migrations.sequence_pairs(copy.old_table, copy.new_table) as p
        inner join pg_catalog.pg_attribute as o on o.attrelid = copy.old_table and o.attnum = p.place and o.attidentity = ''
        inner join pg_catalog.pg_attribute as n on n.attrelid = copy.new_table and n.attname = o.attname and n.attidentity = ''
    ));
end;
$function$;


-- Corrects what LIKE and PostgreSQL's own choice of names have made different on the new table: constraints that are not valid have
-- become valid, and sequences of identity columns and not-null constraints are named after the table although the old table's have
-- other names. Names that the step file has given are left.
create or replace function rpc_migrations.adapt_new_table(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    new_table text := copy.new_table::regclass;
begin
    perform rpc_migrations.execute_each(array(
        with not_nulls as materialized (
            select c.conrelid as relation, a.attname as column_name, c.conname as name, c.convalidated as is_valid,
                c.conname = rpc_migrations.default_name(copy.table_name, a.attname, 'not_null') as is_default
            from pg_catalog.pg_constraint as c
            inner join pg_catalog.pg_attribute as a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
            where c.conrelid in (copy.old_table, copy.new_table) and c.contype = 'n'
        )
        select format('alter table %s drop constraint %I', new_table, n.conname)
        from pg_catalog.pg_constraint as o
        inner join pg_catalog.pg_constraint as n on n.conrelid = copy.new_table and n.contype = o.contype and n.conname = o.conname
        where
            o.conrelid = copy.old_table and o.contype in ('c', 'n') and not o.convalidated
            and pg_get_constraintdef(o.oid) = pg_get_constraintdef(n.oid) || ' NOT VALID'
        union all
        select format('alter table %s rename constraint %I to %I', new_table, n.name, o.name)
        from not_nulls as o
        inner join not_nulls as n on n.relation = copy.new_table and n.column_name = o.column_name
        where
            o.relation = copy.old_table and o.is_valid and n.is_default and n.name <> o.name
        union all
        select format('alter sequence %s as %s', n.sequence::regclass, format_type(oq.seqtypid, null))
        from rpc_migrations.identity_sequences(copy.old_table) as o
        inner join rpc_migrations.identity_sequences(copy.new_table) as n using (column_name)
        inner join pg_catalog.pg_attribute as a on a.attrelid = copy.new_table and a.attname = o.column_name
        inner join pg_catalog.pg_sequence as oq on oq.seqrelid = o.sequence and oq.seqtypid = a.atttypid
        inner join pg_catalog.pg_sequence as nq on nq.seqrelid = n.sequence and nq.seqtypid <> oq.seqtypid and nq.seqmax = oq.seqmax
        union all
        select format('alter sequence %s rename to %I', n.sequence::regclass, os.relname)
        from rpc_migrations.identity_sequences(copy.old_table) as o
        inner join rpc_migrations.identity_sequences(copy.new_table) as n using (column_name)
        inner join pg_catalog.pg_class as os on os.oid = o.sequence
        inner join pg_catalog.pg_class as ns on ns.oid = n.sequence
        where ns.relname <> os.relname and ns.relname = rpc_migrations.default_name(copy.table_name, o.column_name, 'seq')
    ));
end;
$function$;


-- The name that PostgreSQL gives to what belongs to a column of a table: TABLE_COLUMN_LABEL, the longer of the two cut off at
-- 63 bytes (makeObjectName in its sources). A number that it appends where the name is taken is not looked at.
create or replace function rpc_migrations.default_name(table_name text, column_name text, label text) returns text
language plpgsql immutable
set search_path = ''
as $function$
begin
    while octet_length(table_name) + octet_length(column_name) + octet_length(label) + 2 > 63 loop
        if octet_length(table_name) > octet_length(column_name) then
            table_name := left(table_name, -1);
        else
            column_name := left(column_name, -1);
        end if;
    end loop;
    return format('%s_%s_%s', table_name, column_name, label);
end;
$function$;
