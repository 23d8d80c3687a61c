-- The end of the deployment: how functions are run, by whom, and a fingerprint of all that is there now.

-- What is copied, compared and described does not depend on whose session it is: how times, intervals, bytes and numbers are written
-- decides what a value becomes in another type, and whether a table looks altered. (Rows have the copy's own: see take_settings.)
do $block$
declare
    pinned regprocedure;
begin
    for pinned in
        select p.oid
        from pg_catalog.pg_proc as p
        where
            p.pronamespace = 'rpc_migrations'::regnamespace
            and p.proname in (
                'execute_statement', 'ask', 'copy_batch', 'carry_over', 'replay', 'replay_entries', 'compare', 'differences', 'swap',
                'begin_rollback', 'find_changes', 'swap_back', 'describe_table', 'table_definition', 'missing_in_target',
                'plan_columns')
    loop
        execute format(
            'alter function %1$s set timezone = ''UTC''; alter function %1$s set datestyle = ''ISO, MDY''; '
            'alter function %1$s set intervalstyle = ''postgres''; alter function %1$s set bytea_output = ''hex''; '
            'alter function %1$s set extra_float_digits = 1', pinned);
    end loop;
end;
$block$;


-- What is there, to be compared with what was deployed: somebody may have dropped or altered a function, or dropped a table, a column or
-- an index of the journal.
create or replace function rpc_migrations.fingerprint() returns text
language sql stable
set search_path = ''
as $function$
    select md5(string_agg(t.text, e'\n' order by t.text collate "C"))
    from (
        select concat_ws(' ', p.proname, oidvectortypes(p.proargtypes), p.prosecdef, p.proisstrict, (
            select string_agg(lower(c.setting), ' ' order by lower(c.setting) collate "C") from unnest(p.proconfig) as c (setting)
        ), p.prosrc)
        from pg_catalog.pg_proc as p
        where
            p.pronamespace = 'rpc_migrations'::regnamespace and p.proname !~ '^capture_[0-9]+$'
            or p.oid = rpc_migrations.api_function()
        union all
        select concat_ws(' ', 'index', i.indexrelid::regclass, i.indisunique)
        from pg_catalog.pg_index as i
        inner join pg_catalog.pg_class as c on c.oid = i.indrelid
        where c.relnamespace = 'rpc_migrations'::regnamespace and c.relname = any (rpc_migrations.journal_tables())
        union all
        select concat_ws(' ', c.relname, a.attname)
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where
            c.relnamespace = 'rpc_migrations'::regnamespace
            and c.relname = any (rpc_migrations.journal_tables())
    ) as t (text);
$function$;


-- Whether all of it is there as it was deployed.
create or replace function rpc_migrations.is_as_deployed() returns boolean
language sql stable
set search_path = ''
as $function$
    select obj_description('rpc_migrations.fingerprint()'::regprocedure, 'pg_proc') = rpc_migrations.fingerprint();
$function$;

do $block$
begin
    execute format('comment on function rpc_migrations.fingerprint() is %L', rpc_migrations.fingerprint());
end;
$block$;


-- An event trigger may give what is new to another role: execute_sql would act as that one.
do $block$
declare
    owners text;
begin
    select string_agg(distinct p.proowner::regrole::text, ', ') into owners
    from pg_catalog.pg_proc as p
    where
        p.proowner <> current_user::regrole
        and (p.oid = rpc_migrations.api_function() or p.pronamespace = 'rpc_migrations'::regnamespace and p.proname !~ '^capture_[0-9]+$');
    if owners is not null then
        raise exception 'execute_sql, or what it needs, belongs to % as soon as it is made, because an event trigger gives it to that role', owners
        using errcode = 'RM001', hint = 'Nothing was changed. Disable it (alter event trigger ... disable), deploy, and enable it again.';
    end if;
end;
$block$;

do $block$  -- an older execute_sql takes a select for a query
begin
    perform rpc_migrations.close_to_others();
    perform rpc_migrations.keep_closed('', '{}');  -- as doctor.py says of a backup that somebody has opened
end;
$block$;
grant execute on function public.execute_sql(text, text, text, text, boolean, uuid, integer, jsonb, text, jsonb) to service_role;

notify pgrst, 'reload schema';
