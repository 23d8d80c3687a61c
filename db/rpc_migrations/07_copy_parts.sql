-- Rebuilding a table while it is in use: capture changes in a log, copy, replay, compare, swap. It works like pg_repack, but in
-- short calls: no lock is held from one transaction to the next. This file has what all the following ones use: the copy that
-- is under way, and its names and lists as SQL text.
--
-- A step file calls, in this order: begin_copy or begin_rebuild, copy_batch, [builds indexes and so on], carry_over,
-- gather_statistics, replay, compare, swap, validate_foreign_keys. rollback.sql calls begin_rollback, find_changes, replay, compare, swap_back and
-- validate_foreign_keys. Every one of them works on the one table that the current migration rebuilds.
--
-- Why no write is lost: a trigger on the source writes the key of every changed row into the log, in the transaction of
-- the change. So whoever sees a changed row also sees its log entry. A copied chunk leaves out every row that has a log
-- entry; the replay makes the target's row equal to the source's current one (or deletes it), in any order, as often as
-- it likes; and nothing leaves the log before the copy is complete. The swap replays what is left under a lock that keeps
-- all writers out.


-- The copy of the migration whose step this is; null if it is not rebuilding a table.
create or replace function rpc_migrations.current_copy() returns rpc_migrations.copies
language sql
set search_path = ''
as $function$
    select rpc_migrations.find_restored_tables();
    select rpc_migrations.work_on(c)
    from rpc_migrations.copies as c
    where c.migration = current_setting('rpc_migrations.migration', true) and c.ended_at is null;
    select c.*
    from rpc_migrations.copies as c
    where c.migration = current_setting('rpc_migrations.migration', true) and c.ended_at is null
    for update;
$function$;


-- Raises RM005 if there is no copy, for steps that need one.
create or replace function rpc_migrations.refuse_no_copy(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if copy.id is null then
        raise exception 'no table is being rebuilt by this migration'
        using errcode = 'RM005', hint = 'Call rpc_migrations.begin_copy in an earlier step of the same step file. Where it was called, '
            'its row of rpc_migrations.copies was deleted since: roll the migration back, then run it again.';
    end if;
end;
$function$;


-- Whether changes of a copy's source are being captured, or were before somebody dropped the triggers.
create or replace function rpc_migrations.has_log(copy rpc_migrations.copies) returns boolean
language plpgsql stable
set search_path = ''
as $function$
begin
    return to_regclass(format('rpc_migrations.log_%s', copy.id)) is not null;
end;
$function$;


-- The value that an expression of the step file makes of an old row, whose columns it names as ALTER TABLE does.
create or replace function rpc_migrations.converted(copy rpc_migrations.copies, expression text, alias text) returns text
language sql immutable
set search_path = ''
as $function$
    select format(E'(select (%s\n) from (select %s.*) as %I)', expression, alias, copy.table_name);
$function$;


-- Names and lists of a copy as SQL text. In a forward copy the source has the old table's form and the target the new
-- one's; in a rollback it is the other way round. Old rows are always looked at as the migration would make them: a
-- NULL in a column that may not be NULL any more is its default; an added column is what ALTER TABLE fills it with; a column
-- with an expression (type ... using) is what that makes of the old row. The last one has no way back, and a column that the new
-- table lacks is not in it: in a rollback both keep what they had ("kept", with the values of the row "g" that was there; and how to tell that a value was changed since).
create or replace function rpc_migrations.copy_parts(
    copy rpc_migrations.copies,
    out source text, out target text, out log text, out keys text, out columns text, out read text, out source_row text, out target_row text,
    out kept text, out kept_values text, out one_way text, out one_way_before text
)
language sql stable
set search_path = ''
as $function$
    with parts as (
        select
            c.place,
            quote_ident(c.name) as name, quote_ident(coalesce(c.old_name, c.name)) as old_name, c.expression is null as goes_back,
            case
                when c.expression is not null then rpc_migrations.converted(copy, c.expression, old_alias)
                when c.fallback is null then format('%s.%I', old_alias, coalesce(c.old_name, c.name))
                else format('coalesce(%s.%I, %s)', old_alias, c.name, c.fallback) end as old_value,
            rpc_migrations.converted(copy, c.expression, 'g') as value_before,
            format('%s.%I', new_alias, c.name) as new_value,
            c.type, c.old_type,
            case when c.as_text then '::text collate "C"' else '' end as as_text
        from (values (
            case when copy.source = copy.new_table then 't' else 's' end,
            case when copy.source = copy.new_table then 's' else 't' end
        )) as alias (old_alias, new_alias)
        cross join rows from (jsonb_to_recordset(copy.columns) as (
            name text, old_name text, type text, old_type text, fallback text, expression text, as_text boolean
        )) with ordinality as c (name, old_name, type, old_type, fallback, expression, as_text, place)
    ),
    lists as (
        select
            string_agg(p.name, ', ' order by p.place) as new_columns,
            string_agg(p.old_name, ', ' order by p.place) filter (where p.goes_back) as old_columns,
            string_agg(p.old_value, ', ' order by p.place) as old_values,
            -- Without a cast a value of the same type stays as it is, even one that is longer than its column's type allows: moddatetime's.
            string_agg(case when p.type = p.old_type then p.new_value else format('(%s)::%s', p.new_value, p.old_type) end, ', ' order by p.place)
                filter (where p.goes_back) as new_values,
            string_agg(format('(%s)::%s%s', p.old_value, p.type, p.as_text), ', ' order by p.place) as old_row,
            string_agg(format('%s%s', p.new_value, p.as_text), ', ' order by p.place) as new_row,
            string_agg(format('%s%s', p.new_value, p.as_text), ', ' order by p.place) filter (where not p.goes_back) as one_way,
            string_agg(format('(%s)::%s%s', p.value_before, p.type, p.as_text), ', ' order by p.place) filter (where not p.goes_back) as one_way_before
        from parts as p
    ),
    kept as (
        select string_agg(quote_ident(k.name), ', ') as names, string_agg(format('g.%I', k.name), ', ') as values
        from (
            select p.value ->> 'old_name' as name from jsonb_array_elements(copy.columns) as p where p.value ->> 'expression' is not null
            union all
            select d.name from jsonb_array_elements_text(copy.alteration -> 'dropped') as d (name)
        ) as k
    ),
    filled as (
        select string_agg(quote_ident(f.key), ', ' order by f.key) as names, string_agg(f.value, ', ' order by f.key) as values
        from jsonb_each_text(copy.alteration -> 'filled') as f
    )
    select
        copy.source::regclass::text,
        copy.target::regclass::text,
        format('rpc_migrations.log_%s', copy.id),
        (select string_agg(quote_ident(k.name), ', ') from jsonb_to_recordset(copy.keys) as k (name text)),
        case when copy.source = copy.new_table then l.old_columns else concat_ws(', ', l.new_columns, f.names) end,
        case when copy.source = copy.new_table then l.new_values else concat_ws(', ', l.old_values, f.values) end,
        case when copy.source = copy.new_table then l.new_row else l.old_row end,
        case when copy.source = copy.new_table then l.old_row else l.new_row end,
        k.names, k.values, l.one_way, l.one_way_before
    from lists as l cross join kept as k cross join filled as f;
$function$;
