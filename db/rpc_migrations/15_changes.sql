-- What changed since the swap, found without a log: rows of the table in use that are newer than the swap, and rows of the original one
-- that no longer have a counterpart. A log would double the cost of every write for as long as the way back is open.

-- What the swap notes, so that a rollback need not look at every row: transactions before "xmin" were over. Whatever changes the
-- table in use after the swap has a later one, also where it began before it; so rows with an earlier xmin (which VACUUM keeps,
-- also where it freezes them) are as the swap left them, in these columns.
-- "acting": see acting_on; as this version of PostgreSQL writes it.
create or replace function rpc_migrations.swap_mark(new_table oid, old_table oid) returns jsonb
language sql volatile
set search_path = ''
as $function$
    select jsonb_build_object(
        'acting', rpc_migrations.acting_on(old_table), 'version', current_setting('server_version_num')::integer / 10000,
        'xmin', pg_snapshot_xmin(pg_current_snapshot())::text,
        'columns', (
            select jsonb_object_agg(a.attname, a.attnum)
            from pg_catalog.pg_attribute as a
            where a.attrelid = new_table and a.attnum > 0 and not a.attisdropped
        )
    );
$function$;


-- The condition that a row may have been changed since the swap. Null if xmin cannot tell: nothing was noted; it is so long ago that
-- transaction ids (32 bits of them in a row) have wrapped around; or a column was dropped and made anew, which changes rows but
-- no xmin.
create or replace function rpc_migrations.changed_since(copy rpc_migrations.copies, alias text) returns text
language sql volatile
set search_path = ''
as $function$
    select format('age(%s.xmin) <= (select age(%L::xid8::xid))', alias, copy.swap_mark ->> 'xmin')
    where
        pg_snapshot_xmax(pg_current_snapshot())::text::numeric - (copy.swap_mark ->> 'xmin')::numeric between 0 and 2000000000
        and not exists (
            select from jsonb_to_recordset(copy.columns) as c (name text)
            left join pg_catalog.pg_attribute as a on a.attrelid = copy.new_table and a.attname = c.name
            where a.attnum::text is distinct from copy.swap_mark -> 'columns' ->> c.name
        );
$function$;


-- Finds the rows that were changed between the swap and the beginning of the rollback, for about a second, and notes their keys
-- in the log, so that the replay brings them into the original table: rows of the table in use that the migration would not have
-- made of the original ones, in a first pass, and original rows that are gone, in a second one.
create or replace function rpc_migrations.find_changes(out done boolean, out rows bigint, out progress double precision)
language plpgsql
set search_path = ''
set row_security = off
set jit = off
set max_parallel_workers_per_gather = 0
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
begin
    rows := 0;
    progress := 1;
    done := copy.source is null or copy.state <> 'rolling back' or copy.pass > 2;
    if done then
        return;
    end if;
    perform rpc_migrations.hold_source(copy);
    if rpc_migrations.has_no_key(copy) then
        rows := rpc_migrations.run(format('insert into rpc_migrations.log_%s (%s) %s', copy.id,
            (select p.keys from rpc_migrations.copy_parts(copy) as p), rpc_migrations.rows_without_equal(copy)));
        update rpc_migrations.copies as c set pass = 3 where c.id = copy.id;
        return;  -- and is asked once more
    end if;
    if copy.pass = 2 and rpc_migrations.changed_since(copy, 's') is not null then
        if rpc_migrations.batch_size(100) = 100 then
            rows := rpc_migrations.find_unpaired(copy);
            update rpc_migrations.copies as c set pass = 3 where c.id = copy.id;
            return;
        end if;
        -- It took too long for one statement: everything is looked at again, in chunks.
        update rpc_migrations.copies as c set pass = 1, swap_mark = c.swap_mark - 'xmin', filenode = null where c.id = copy.id returning c.* into copy;
    end if;
    rows := rpc_migrations.find_changes_in_chunks(copy);
    select c.* into copy from rpc_migrations.copies as c where c.id = copy.id;
    progress := (copy.pass - 1 + copy.next_block / greatest(copy.end_block, 1)::double precision) / 2;
    if copy.next_block >= copy.end_block then
        update rpc_migrations.copies as c set pass = copy.pass + 1, filenode = null where c.id = copy.id;
    end if;
end;
$function$;


-- One pass over a table. Each row is looked up in the other table by its primary key: a plan that reads that whole table for each
-- chunk would take the longer the larger it is.
create or replace function rpc_migrations.find_changes_in_chunks(copy rpc_migrations.copies) returns bigint
language plpgsql
set search_path = ''
set row_security = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    statement text := format(
        case copy.pass
            when 1 then
                'insert into %1$s (%2$s) select %3$s from only %5$s as s left join only %6$s as t on %7$s '
                'where s.ctid >= ($1)[1]::tid and s.ctid < ($1)[2]::tid and %10$s '
                'and (t.ctid is null or row(%8$s)::record operator(pg_catalog.*<>) row(%9$s)::record)'
            else
                'insert into %1$s (%2$s) select %4$s from only %6$s as t '
                'where t.ctid >= ($1)[1]::tid and t.ctid < ($1)[2]::tid and not exists (select from only %5$s as s where %7$s)'
        end,
        parts.log, parts.keys, rpc_migrations.qualified_keys(copy, 's'), rpc_migrations.qualified_keys(copy, 't'),
        parts.source, parts.target, rpc_migrations.key_match(copy, 's', 't'), parts.source_row, parts.target_row,
        coalesce(rpc_migrations.changed_since(copy, 's'), 'true'));
begin
    copy := rpc_migrations.rewind_if_rewritten(copy, case copy.pass when 1 then copy.source else copy.target end);
    return (select coalesce(sum(c.rows), 0) from rpc_migrations.each_chunk(copy, statement) as c);
end;
$function$;


-- Notes the keys that only one of the tables has, except those of new rows, which the first pass has found; and the keys of original
-- rows that somebody has changed by hand. In one statement, which reads little more than the primary keys' indexes.
create or replace function rpc_migrations.find_unpaired(copy rpc_migrations.copies) returns bigint
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
begin
    return rpc_migrations.run(format(
        $sql$
        insert into %1$s (%2$s)
        select %3$s from only %5$s as s where not exists (select from only %6$s as t where %7$s) and not %8$s
        union all
        select %4$s from only %6$s as t where not exists (select from only %5$s as s where %7$s) and not %9$s
        union all
        select %4$s from only %6$s as t where %9$s
        $sql$,
        parts.log, parts.keys, rpc_migrations.qualified_keys(copy, 's'), rpc_migrations.qualified_keys(copy, 't'),
        parts.source, parts.target, rpc_migrations.key_match(copy, 's', 't'),
        rpc_migrations.changed_since(copy, 's'), rpc_migrations.changed_since(copy, 't')));
end;
$function$;


-- Notes what a step after the swap has left of the new table, so that a rollback can tell what somebody has altered since. The step that
-- swaps does not, because the application would wait for it.
create or replace function rpc_migrations.note_as_made(migration text, began timestamptz) returns void
language sql
set search_path = ''
as $function$
    update rpc_migrations.copies as c
    set as_made = jsonb_build_object(
        'version', current_setting('server_version_num')::integer / 10000, 'parts', rpc_migrations.table_definition(c.new_table))
    where
        -- a later step of a file with several rebuilds belongs to one of the others
        (c.migration = note_as_made.migration or starts_with(note_as_made.migration, c.migration || ' (')) and c.state = 'swapped' and c.old_table is not null and c.swapped_at < note_as_made.began
        and exists (select from pg_catalog.pg_class as r where r.oid = c.new_table);
$function$;


-- What somebody has altered about the table in use since its migration, and the original table will not have after a rollback (see
-- reopen_table for what it will). Null: nothing, or it was not noted how the migration left it.
create or replace function rpc_migrations.altered_since(copy rpc_migrations.copies) returns text
language sql stable
set search_path = ''
as $function$
    with
    made as (select d.* from jsonb_to_recordset(copy.as_made -> 'parts') as d (kind text, name text, statement text)),
    now as (
        select d.* from jsonb_to_recordset(rpc_migrations.table_definition(copy.new_table)) as d (kind text, name text, statement text)
    ),
    original as (  -- its triggers are off, and its foreign keys removed
        select d.kind, d.name, regexp_replace(d.statement, '; alter table [^;]* disable (trigger|rule) [^;]*$', '') as statement
        from rpc_migrations.describe_table(copy.old_table, rpc_migrations.name_in_use(copy)) as d
        union all
        select 'foreign key', k.name, format('alter table %s add constraint %I %s%s', rpc_migrations.name_in_use(copy), k.name, k.definition,
            case when k.is_valid then ' not valid' end)
        from rpc_migrations.taken_off_keys(copy.old_table) as k
    ),
    altered as (
        select n.kind, n.name, n.statement, '' as how
        from now as n
        where n.kind <> 'row security'
            and not exists (select from made as m where (m.kind, m.name) = (n.kind, n.name) and m.statement is not distinct from n.statement)
            and not exists (select from original as o where (o.kind, o.name) = (n.kind, n.name) and o.statement is not distinct from n.statement)
        union all
        select m.kind, m.name, m.statement, ' (dropped since)'
        from made as m
        where m.kind <> 'grant'
            and not exists (select from now as n where (n.kind, n.name) = (m.kind, m.name))
            and exists (
                select from jsonb_to_recordset(copy.definition) as d (kind text, name text) where (d.kind, d.name) = (m.kind, m.name))
            and (m.kind not in ('policy', 'trigger', 'rule', 'foreign key')  -- others have other names meanwhile
                or exists (select from original as o where (o.kind, o.name) = (m.kind, m.name)))
    )
    select string_agg(distinct w.words, ', ' order by w.words)
    from altered as a
    cross join lateral (
        select case when a.kind = 'grant' then 'rights of ' || regexp_replace(a.statement, '^.* to (.*?)( with grant option)?$', '\1')
            else concat_ws(' ', a.kind, a.name) || a.how end as words
    ) as w
    where
        a.kind <> all (rpc_migrations.kinds_of_others() || 'not-null constraint'::text)  -- which its column tells
        and copy.as_made -> 'version' = to_jsonb(current_setting('server_version_num')::integer / 10000);
$function$;


-- The columns that both tables have got since the swap, as in "columns" of a copy. None without a key: there changes are looked for in the
-- columns alone that tell the rows apart.
create or replace function rpc_migrations.added_to_both(copy rpc_migrations.copies) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(
        jsonb_build_object(
            'name', n.attname, 'type', format_type(n.atttypid, -1), 'old_type', format_type(n.atttypid, -1), 'fallback', null,
            'as_text', rpc_migrations.compares_as_text(n.atttypid))
        order by n.attnum), '[]')
    from pg_catalog.pg_attribute as n
    inner join pg_catalog.pg_attribute as o using (attname, atttypid, atttypmod, attgenerated)
    where
        not rpc_migrations.has_no_key(copy) and n.attrelid = copy.new_table and o.attrelid = copy.old_table and n.attnum > 0 and o.attnum > 0 and n.attgenerated = ''
        and not n.attisdropped and not o.attisdropped
        and not (copy.swap_mark -> 'columns' ? n.attname::text)
        and not exists (
            select from jsonb_to_recordset(copy.definition) as d (kind text, name text) where (d.kind, d.name) = ('column', n.attname::text)
        )
        and not exists (select from jsonb_to_recordset(copy.columns) as c (name text) where c.name = n.attname);
$function$;
