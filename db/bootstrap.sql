-- Makes public.execute_sql, which runs SQL for the service key alone.
-- deploy_sql_function.py sends the rest.
do $block$
declare
    note text;
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog,pg_temp', true);
    set local role postgres;
    for note in select obj_description(p.oid, 'pg_proc') from pg_proc as p
        where p.pronamespace = 'public'::regnamespace and p.proname = 'execute_sql'
    loop
        if note like 'rpc_migrations %' then return; end if;
        raise 'another execute_sql is there. If nobody uses it, drop it';
    end loop;
    create function public.execute_sql(query text) returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set statement_timeout = '50s'
    set standard_conforming_strings = on
    as $function$
    begin
        execute execute_sql.query;
        return '[{"version": "rpc_migrations 0 bootstrap"}]';
    end;
    $function$;
    comment on function public.execute_sql(text) is 'rpc_migrations 0 bootstrap';
    revoke all on function public.execute_sql(text) from public, anon, authenticated;
    grant execute on function public.execute_sql(text) to service_role;
end;
$block$;
notify pgrst, 'reload schema';
