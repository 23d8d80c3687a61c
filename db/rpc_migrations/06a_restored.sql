-- In a database that was restored from a dump tables have other OIDs, while the journal's rows still have the old ones. So each copy
-- notes where its OIDs are from; elsewhere its tables are found by their names, which follow from its state.

-- The OIDs of this database and of the table of copies, both of which are others after a restore.
create or replace function rpc_migrations.home() returns text
language sql stable
set search_path = ''
as $function$
    select format('%s/%s', d.oid, 'rpc_migrations.copies'::regclass::oid)
    from pg_catalog.pg_database as d
    where d.datname = current_database();
$function$;


-- The names under which the tables of a copy should be.
create or replace function rpc_migrations.places(copy rpc_migrations.copies, out old_place text, out new_place text)
language sql immutable
set search_path = ''
as $function$
    select
        case
            when copy.state in ('swapped', 'rolling back') then rpc_migrations.name_of_backup(copy)
            when copy.state not in ('abandoned', 'finished') then rpc_migrations.name_in_use(copy)
        end,
        case
            when copy.state in ('copying', 'copied') then rpc_migrations.new_name(copy)
            when copy.state in ('swapped', 'rolling back', 'finished') then rpc_migrations.name_in_use(copy)
            else copy.kept_as
        end;
$function$;


-- Finds the tables of copies that are from elsewhere, by their names. One that is missing gets the OID 0, so that no other table is
-- taken for it. Copies of an older version have not noted where they are from: they keep the OIDs of tables that are not found.
create or replace function rpc_migrations.find_restored_tables() returns void
language plpgsql
set search_path = ''
as $function$
declare
    here text := rpc_migrations.home();
begin
    update rpc_migrations.copies as c
    set
        home = here, old_table = f.old_table, new_table = f.new_table,
        source = case c.source when c.old_table then f.old_table when c.new_table then f.new_table end,
        target = case c.target when c.old_table then f.old_table when c.new_table then f.new_table end,
        restored_at = case when f.has_moved then clock_timestamp() else c.restored_at end,
        filenode = case when not f.has_moved then c.filenode end,  -- rows stand in other places
        snapshots = case when not f.has_moved then c.snapshots end,
        caught_up = c.caught_up and not f.has_moved,
        swap_mark = case when not f.has_moved and c.home is null then c.swap_mark end  -- transactions have other numbers
    from (
        select
            o.id, n.old_table, n.new_table,
            (n.old_table, n.new_table) is distinct from (o.old_table, o.new_table) and o.state not in ('rolled back', 'abandoned', 'finished') as has_moved
        from rpc_migrations.copies as o
        cross join lateral rpc_migrations.places(o) as p
        cross join lateral (
            select
                case when o.old_table is not null then coalesce(to_regclass(p.old_place), case when o.home is null then o.old_table else 0 end) end,
                coalesce(to_regclass(p.new_place), case when o.home is null then o.new_table else 0 end)
        ) as n (old_table, new_table)
        where o.home is distinct from here
    ) as f
    where c.id = f.id;
    -- The checks that stand in for foreign keys have other OIDs, too.
    update rpc_migrations.foreign_keys as k
    set stand_in = s.oid
    from pg_catalog.pg_constraint as s
    where
        k.stand_in is not null and s.conrelid = k.relation and s.contype = 'c' and s.conname = k.name
        and pg_get_constraintdef(s.oid) = 'CHECK (true)'
        and not exists (select from pg_catalog.pg_constraint as o where o.oid = k.stand_in and o.conrelid = k.relation);
end;
$function$;


-- A remark for messages about a copy that was restored; empty for others.
create or replace function rpc_migrations.restored_in_words(copy rpc_migrations.copies) returns text
language sql immutable
set search_path = ''
as $function$
    select case when copy.restored_at is null then '' else ' (this database was restored from a dump)' end;
$function$;
