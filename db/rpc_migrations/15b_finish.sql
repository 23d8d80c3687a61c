-- Finishing a migration closes the way back. The original table, which is the backup, and the migrated ones that rollbacks have kept
-- are dropped, and the copy is ended: nothing of it is in the way of the next rebuild of the table.

-- The last copy of a migration, whatever became of it.
create or replace function rpc_migrations.last_copy(migration text) returns rpc_migrations.copies
language sql
set search_path = ''
as $function$
    select rpc_migrations.find_restored_tables();
    select c.* from rpc_migrations.copies as c where c.migration = last_copy.migration order by c.id desc limit 1;
$function$;


-- Raises RM001 if the way back was closed: nothing is left to go back to.
create or replace function rpc_migrations.refuse_finished(migration text) returns void
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.last_copy(migration);
begin
    if copy.state = 'finished' then
        raise exception 'the way back of % was closed on %', migration, rpc_migrations.moment(copy.ended_at)
        using errcode = 'RM001', hint = 'Nothing was changed. The original table was dropped then. To undo the migration, write another one.';
    end if;
end;
$function$;


-- The tables that exist only for the way back: the original one, and those that rollbacks of the migration have kept, if they still have
-- the names that they were given. One that somebody has renamed belongs to them.
create or replace function rpc_migrations.spare_tables(copy rpc_migrations.copies) returns table (relation regclass, is_original boolean)
language sql stable
set search_path = ''
as $function$
    select c.oid::regclass, s.is_original
    from (
        select copy.old_table as oid, true as is_original
        union all
        select k.new_table, false
        from rpc_migrations.copies as k
        where k.migration = copy.migration and k.state = 'rolled back' and k.new_table = to_regclass(k.kept_as)::oid
    ) as s
    inner join pg_catalog.pg_class as c on c.oid = s.oid
    order by not s.is_original, c.relname;
$function$;


-- Raises RM001 unless the way back of a migration may be closed; RM000 if it is closed already.
create or replace function rpc_migrations.check_finish(migration text, copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    name_in_use text;
    backup text;
    original regclass := (select c.oid from pg_catalog.pg_class as c where c.oid = copy.old_table);
    keys text;
begin
    if copy.id is null then
        perform rpc_migrations.refuse_lost_copy(migration, 'Nothing was changed. To finish by hand, drop the original table.');
    end if;
    if copy.state = 'finished' then
        raise exception '% was finished on %', migration, rpc_migrations.moment(copy.ended_at)
        using errcode = 'RM000', hint = 'Its way back is closed.';
    elsif copy.state = 'rolling back' then
        raise exception 'a rollback of % is under way', migration
        using errcode = 'RM001', hint = 'Nothing was changed. Finish the rollback, or give it up with --give-up.';
    elsif copy.state in ('copying', 'copied') then
        raise exception '% has not put the new table in place yet', migration
        using errcode = 'RM001', hint = 'Nothing was changed. Run the migration to its end first.';
    elsif copy.state is distinct from 'swapped' then
        raise exception '% is not applied: there is no way back to close', migration
        using errcode = 'RM001', hint = case
            when copy.state = 'rolled back' and copy.new_table = to_regclass(copy.kept_as)::oid then format(
                'Nothing was changed. The rollback has kept the migrated table. If nobody needs it any more: drop table %s;', copy.kept_as)
            else 'Nothing was changed. Run the migration first.'
        end;
    end if;
    name_in_use := rpc_migrations.name_in_use(copy);
    backup := rpc_migrations.name_of_backup(copy);
    -- Those of the original table, left by a rollback that was given up, go with it.
    select string_agg(format('%I of %s', k.name, k.relation), ', ') into keys
    from jsonb_to_recordset(copy.unvalidated) as k (relation text, name text)
    where k.relation <> backup;
    if keys is not null then
        raise exception 'foreign keys are not validated yet: %', keys
        using errcode = 'RM001', hint = 'Nothing was changed. Run the migration again, which validates them; then finish it.';
    end if;
    -- The data is in the new table, or in what a later migration has made of that.
    if not exists (
        select from rpc_migrations.copies as c
        where
            c.new_table = to_regclass(name_in_use)::oid and c.id >= copy.id and c.state in ('swapped', 'rolling back', 'finished')
            and (c.schema_name, c.table_name) = (copy.schema_name, copy.table_name)
    ) then
        raise exception '% is not the table that this migration made%', name_in_use, rpc_migrations.restored_in_words(copy)
        using errcode = 'RM001', hint = 'Nothing was changed. It was replaced, renamed or dropped since, and the original table may have the only copy of '
            'its rows. Put the name back, then run the same command again.';
    end if;
    if copy.old_table is not null and to_regclass(backup) is distinct from original then
        raise exception '% is not the table that the swap moved aside%', backup,
            coalesce(', which is called ' || original::text || ' now', '') || rpc_migrations.restored_in_words(copy)
        using errcode = 'RM001', hint = 'Nothing was changed. It was renamed or replaced since. Give the original table this name again, or drop it by hand '
            'and rename the other one; then run the same command again.';
    end if;
end;
$function$;


-- The statements that drop the spare tables of a copy, in order, each with the table whose lock it needs. First the spare tables, which
-- are not in use; then what their foreign keys point at, tables of others (auth.users) last, so that these are locked for moments only.
create or replace function rpc_migrations.dropping(copy rpc_migrations.copies) returns table (place bigint, relation regclass, statement text)
language sql stable
set search_path = ''
as $function$
    select row_number() over (order by s.step, s.is_others, s.relation::text), s.relation, s.statement
    from (
        select 1 as step, false as is_others, t.relation, format('lock table only %s in access exclusive mode', t.relation) as statement
        from rpc_migrations.spare_tables(copy) as t
        union all
        select 2, not pg_has_role(p.relowner, 'usage'), p.oid::regclass, format('alter table %s drop constraint %I', t.relation, c.conname)
        from rpc_migrations.spare_tables(copy) as t
        inner join pg_catalog.pg_constraint as c on c.conrelid = t.relation and c.contype = 'f' and c.conparentid = 0
        inner join pg_catalog.pg_class as p on p.oid = c.confrelid
        where p.oid not in (select o.relation from rpc_migrations.spare_tables(copy) as o)
        union all
        select 3, false, max(t.relation::oid)::regclass, 'drop table ' || string_agg(t.relation::text, ', ')
        from rpc_migrations.spare_tables(copy) as t
        having count(*) > 0
    ) as s;
$function$;


-- Drops the spare tables of a copy, within the budget of an attempt to swap. Returns which. Raises RM001 if something of others depends
-- on one of them, and lock_not_available.
create or replace function rpc_migrations.drop_spare_tables(copy rpc_migrations.copies) returns text
language plpgsql
set search_path = ''
as $function$
declare
    dropped text := (
        select string_agg(format('%s (%s)', t.relation, pg_size_pretty(pg_total_relation_size(t.relation))), ', ')
        from rpc_migrations.spare_tables(copy) as t
    );
    statements text[] := array(select d.statement from rpc_migrations.dropping(copy) as d order by d.place);
    statement text;
    dependents text;
    began timestamptz := clock_timestamp();  -- nothing is locked yet
begin
    foreach statement in array statements loop
        perform rpc_migrations.limit_wait(copy, began);
        execute statement;
    end loop;
    return dropped;
exception when dependent_objects_still_exist then
    get stacked diagnostics dependents = pg_exception_detail;
    raise exception 'what was kept for the way back cannot be dropped: %', replace(dependents, e'\n', '; ')
    using errcode = 'RM001', hint = 'Nothing was changed. Drop or change what depends on it, then run the same command again.';
end;
$function$;


-- What finishing a migration drops, to be shown before anybody is asked. Rows of small tables are counted. It is tried and undone, locks
-- included, so that whatever is in the way is found here. Raises RM001.
create or replace function rpc_migrations.what_finishing_drops(migration text)
returns table (relation text, is_original boolean, rows bigint, is_counted boolean, size text)
language plpgsql
set search_path = ''
set row_security = off
set lock_timeout = '20ms'
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.last_copy(migration);
    spare record;
begin
    perform rpc_migrations.check_finish(migration, copy);
    begin
        perform rpc_migrations.drop_spare_tables(copy);
        raise exception 'only rehearsed' using errcode = 'RM099';
    exception when sqlstate 'RM099' or lock_not_available then
        null;
    end;
    for spare in
        select t.relation as oid, t.is_original, nullif(c.reltuples, -1) as estimate
        from rpc_migrations.spare_tables(copy) as t
        inner join pg_catalog.pg_class as c on c.oid = t.relation
    loop
        begin
            execute format('lock table only %s in access share mode', spare.oid);
        exception when undefined_table or syntax_error then  -- its name is a number by then
            raise exception 'another session is dropping what was kept' using errcode = 'lock_not_available';
        end;
        relation := spare.oid::text;
        is_original := spare.is_original;
        rows := spare.estimate;
        is_counted := pg_relation_size(spare.oid) < 200000000;
        if is_counted then
            select a.rows into rows from rpc_migrations.ask(format('select count(*) from only %s', spare.oid)) as a (rows bigint);
        end if;
        size := pg_size_pretty(pg_total_relation_size(spare.oid));
        return next;
    end loop;
end;
$function$;


-- Raises RM001 if one of the checks that a query returns has failed. They are rows (check, passed, detail), as of db/verify_*.sql.
create or replace function rpc_migrations.refuse_failed_checks(checks text, out rows bigint, out message text)
language plpgsql
set search_path = public, extensions
as $function$
declare
    found_check record;
    failed text[] := '{}';
begin
    rows := 0;
    for found_check in execute checks loop
        rows := rows + 1;
        if not coalesce(found_check.passed, false) then
            failed := failed || pg_catalog.concat_ws(': ', found_check."check", found_check.detail);
        end if;
    end loop;
    if failed <> '{}' then
        raise exception 'the migration is not as it should be: %', pg_catalog.array_to_string(failed, '; ')
        using errcode = 'RM001', hint = 'Nothing was changed. Fix what is named, or roll the migration back.';
    end if;
    message := pg_catalog.format('%s checks passed', rows);
end;
$function$;


-- Closes the way back of the migration whose step this is, in one short transaction with the discipline of the swap: if a lock cannot be
-- had, or the budget is used up, the attempt is undone; it returns who is in the way ("holders"), and is to be called again.
create or replace function rpc_migrations.finish(
    out done boolean, out rows bigint, out holders jsonb, out ends_request boolean, out message text
)
language plpgsql
set search_path = ''
set lock_timeout = '20ms'
as $function$
declare
    this_migration text := current_setting('rpc_migrations.migration', true);
    copy rpc_migrations.copies := rpc_migrations.last_copy(this_migration);
    dropped text;
begin
    rows := 0;
    done := true;
    ends_request := true;
    perform rpc_migrations.check_finish(this_migration, copy);
    copy.attempts := coalesce((  -- so many calls of this step were in vain
        select j.calls from rpc_migrations.journal as j
        where j.migration = this_migration and rpc_migrations.is_of_finishing(j.step) and j.finished_at is null and j.undone_at is null
    ), 0);
    begin
        dropped := rpc_migrations.drop_spare_tables(copy);
    exception when lock_not_available then
        done := false;
        message := rpc_migrations.what_was_waited_for(sqlerrm);
        holders := (
            select coalesce(jsonb_agg(distinct h), '[]')
            from rpc_migrations.dropping(copy) as d cross join lateral jsonb_array_elements(rpc_migrations.lock_holders(d.relation)) as h
        );
        return;
    end;
    delete from rpc_migrations.foreign_keys as k where not exists (select from pg_catalog.pg_class as c where c.oid = k.relation);
    update rpc_migrations.copies as c
    set kept_as = null
    where c.migration = this_migration and c.state = 'rolled back' and to_regclass(c.kept_as) is null;
    update rpc_migrations.copies as c
    set state = 'finished', ended_at = clock_timestamp(), unvalidated = '[]', quieted = '{}', quieted_rules = '{}'
    where c.id = copy.id;
    notify pgrst, 'reload schema';
    message := coalesce('dropped ' || dropped, 'there was nothing to drop');
end;
$function$;
