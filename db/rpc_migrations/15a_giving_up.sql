-- Giving up a rollback that has begun: the migrated table stays in use, as if nobody had tried. The original one, which is the
-- backup again, may already have changes in it that were made since the swap: so it is no longer "the data as it was at the
-- swap" that a later rollback with --discard-changes would promise ("has_changes"). One that keeps the changes finds the rest.

-- Drops the capture, and gives the original table back the foreign keys that delete its rows.
create or replace function rpc_migrations.give_up_rollback(out rows bigint, out message text)
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    cascades jsonb := '[]';
begin
    rows := 0;
    if copy.id is not null and copy.state <> 'rolling back' then
        message := 'no rollback is under way any more';  -- of one whose answer was lost, that is the effect
        return;
    end if;
    if copy.id is null then
        message := coalesce(rpc_migrations.drop_lost_captures(), 'nothing is left of it');
    else
        perform rpc_migrations.end_capture(copy.id);
        if exists (select from pg_catalog.pg_class as c where c.oid = copy.old_table) then
            cascades := rpc_migrations.make_taken_off_keys(copy.old_table, copy.new_table, copy.key_order, only_cascades => true);
        end if;
        update rpc_migrations.copies as c
        set
            state = 'swapped', source = c.old_table, target = c.new_table, pass = 1, filenode = null, caught_up = false, snapshots = null,
            unvalidated = c.unvalidated || cascades,
            -- those of the swap: a column that both tables had got since may be gone when the next rollback begins
            columns = coalesce((
                select jsonb_agg(e.value order by e.place)
                from jsonb_array_elements(c.columns) with ordinality as e (value, place)
                where coalesce(c.swap_mark -> 'columns' ? (e.value ->> 'name'), true)
            ), c.columns)
        where c.id = copy.id;
        message := coalesce(c.oid::regclass || ' stays in use', 'the migrated table was dropped meanwhile')
        from (select copy.new_table as oid) as n left join pg_catalog.pg_class as c using (oid);
    end if;
    perform rpc_migrations.mark_undone(current_setting('rpc_migrations.migration', true), of_a_rollback => true);
end;
$function$;


-- Deletes the rows of the original table whose parents were deleted while it lacked the foreign key, as the key would have done.
create or replace function rpc_migrations.delete_orphans(relation regclass, key_name name) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.run(regexp_replace(rpc_migrations.orphans_query(relation, key_name), '^select \* from', 'delete from only'));
end;
$function$;
