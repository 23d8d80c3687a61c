-- The comparison before the swap: source and target must be the same, row by row, in all columns that both have. A difference stops
-- the migration with nothing changed.

-- A fingerprint of a table that shows whether its rows may have been changed other than by captured writes: the table's file, the places
-- of its columns, and our triggers as they were last altered. ALTER TABLE may have rewritten the rows (type ... using) or made a column
-- anew, and may have been taken back since; and nobody has captured what was written while the triggers were off.
create or replace function rpc_migrations.form_of_rows(relation oid) returns jsonb
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return jsonb_build_object(
        'file', pg_relation_filenode(relation),
        'columns', (
            select jsonb_object_agg(a.attname, a.attnum)
            from pg_catalog.pg_attribute as a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
        ),
        'triggers', (
            select jsonb_object_agg(t.tgname, t.xmin::text)
            from pg_catalog.pg_trigger as t where t.tgrelid = relation and t.tgname ~ '^rpc_migrations_capture'
        )
    );
end;
$function$;


-- Whether the source is still what was compared, but for what is in the log.
create or replace function rpc_migrations.is_as_compared(copy rpc_migrations.copies) returns boolean
language plpgsql stable
set search_path = ''
as $function$
begin
    return (
        select c.compared_form is not distinct from rpc_migrations.form_of_rows(copy.source)
        from rpc_migrations.copies as c where c.id = copy.id
    );
end;
$function$;


-- Compares source and target in one snapshot, by the number of rows and a hash of all columns that both have, in which
-- the order of the rows plays no part. Rows with an entry in the log are left out: the replay will see to them.
-- Raises RM004 if they differ, with the number of differing rows and up to five of their keys.
create or replace function rpc_migrations.compare(out rows bigint, out message text)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    parts record;
    form jsonb;
    result record;
    differing bigint;
    examples text;
begin
    rows := 0;
    if copy.source is null or copy.state = 'copying' then
        return;
    end if;
    perform rpc_migrations.hold_source(copy);
    perform rpc_migrations.replay_truncation(copy);
    parts := rpc_migrations.copy_parts(copy);
    form := rpc_migrations.form_of_rows(copy.source);  -- before the rows are read: triggers may be altered meanwhile
    select a.* into result
    from rpc_migrations.ask(format(
        $sql$
        select s.rows as source_rows, s.hash as source_hash, t.rows as target_rows, t.hash as target_hash
        from (
            select count(*) as rows, %7$s(hash_record_extended(row(%1$s), 0))::numeric as hash
            from only %2$s as s where %5$s
        ) as s
        cross join (
            select count(*) as rows, %7$s(hash_record_extended(row(%3$s), 0))::numeric as hash
            from only %4$s as t where %6$s
        ) as t
        $sql$,
        parts.source_row, parts.source, parts.target_row, parts.target,
        rpc_migrations.not_logged(copy, 's'), rpc_migrations.not_logged(copy, 't'),
        -- Without a key a row may be there twice, which XOR does not see.
        case when rpc_migrations.has_no_key(copy) then 'sum' else 'bit_xor' end))
        as a (source_rows bigint, source_hash numeric, target_rows bigint, target_hash numeric);
    if result.source_rows <> result.target_rows or result.source_hash is distinct from result.target_hash then
        select d.differing, d.examples into differing, examples from rpc_migrations.differences(copy) as d;
        raise exception '% and its new version differ in %', parts.source, rpc_migrations.rows_in_words(differing)
        using errcode = 'RM004', detail = format('For example those with the primary keys: %s', examples),
            hint = case copy.state
                when 'rolling back' then 'No table in use was changed. Give the rollback up with --give-up, and roll back again.'
                else 'Nothing was changed. Roll the migration back and run it again; if it happens again, do not use it for this table.' end;
    end if;
    update rpc_migrations.copies as c set compared_at = clock_timestamp(), compared_form = form where c.id = copy.id;
    rows := result.source_rows;
    message := 'source and target are the same';
end;
$function$;


-- How many rows differ between source and target, and the primary keys of up to five of them. Rows with an entry in the
-- log, where there is one, are left out. Values that are equal count as such (1.0 and 1.00), as they do for the hash.
create or replace function rpc_migrations.differences(copy rpc_migrations.copies, out differing bigint, out examples text)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    differing_keys text := case when rpc_migrations.has_no_key(copy) then rpc_migrations.rows_without_equal(copy) else format(
        $sql$
        select %1$s from only %2$s as s
        where not exists (select from only %3$s as t where %4$s and row(%5$s)::record operator(pg_catalog.=) row(%6$s)::record)
        union
        select %1$s from only %3$s as t
        where not exists (select from only %2$s as s where %4$s)
        $sql$,
        parts.keys, parts.source, parts.target, rpc_migrations.key_match(copy, 's', 't'), parts.source_row, parts.target_row) end;
    not_logged text := '';
begin
    if rpc_migrations.has_log(copy) then
        not_logged := 'where ' || rpc_migrations.not_logged(copy, 'd');
    end if;
    select a.differing, a.examples into differing, examples
    from rpc_migrations.ask(format(
        $sql$
        with
        differing as (%1$s),
        counted as (select d.*, row_number() over () as rpc_migrations_place from differing as d %2$s)
        select count(*), string_agg(row(%3$s)::text, ' ') filter (where c.rpc_migrations_place <= 5) from counted as c
        $sql$,
        differing_keys, not_logged, parts.keys)) as a (differing bigint, examples text);
end;
$function$;
