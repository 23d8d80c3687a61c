-- Removes public.execute_sql, the only way in from the API. Refuses while a table is being rebuilt: without the function
-- the migration could neither go on nor be rolled back over HTTPS.
do $block$
declare
    began timestamptz := clock_timestamp();
    under_way text;
    old_function regprocedure;
    journal_table regclass;
begin
    -- A step that is at work may have begun a copy or a rollback, which is seen when it has ended. As in a deployment, the locks are asked
    -- for with a short timeout, because whoever holds one of them may be waiting for the other. Somebody may have dropped one.
    loop
        begin
            perform set_config('lock_timeout', '100ms', true);
            foreach journal_table in array
                array_remove(array[to_regclass('rpc_migrations.journal'), to_regclass('rpc_migrations.copies')], null)
            loop
                execute format('lock table %s in share mode', journal_table);
            end loop;
            exit;
        exception when lock_not_available then
            if clock_timestamp() > began + interval '20 seconds' then
                raise exception 'a migration step is still running'
                using errcode = 'RM001', hint = 'Nothing was removed. Wait until it has ended, then run the same command again.';
            end if;
        end;
        perform pg_sleep(0.1);
    end loop;
    if to_regclass('rpc_migrations.copies') is not null then
        select string_agg(format('%s (%s)', c.migration, c.state), ', ') into under_way
        from rpc_migrations.copies as c
        where c.state in ('copying', 'copied', 'rolling back');
    end if;
    if under_way is not null then
        raise exception 'a migration is under way: %', under_way
        using errcode = 'RM001', hint = 'Nothing was removed. Finish it or roll it back first.';
    end if;
    for old_function in
        select p.oid
        from pg_catalog.pg_proc as p
        where
            p.pronamespace = 'public'::regnamespace and p.proname = 'execute_sql'
            and obj_description(p.oid, 'pg_proc') like 'rpc_migrations %'
    loop
        execute format('drop function %s', old_function);
    end loop;
end;
$block$;

notify pgrst, 'reload schema';
