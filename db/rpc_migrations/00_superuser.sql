-- As whom it runs. Self-hosted projects connect postgres-meta and the SQL Editor as a superuser, supabase_admin. What that one makes would
-- belong to it, act with all its rights, and be refused the tables of postgres; so it is postgres that makes it.
do $block$
begin
    if not exists (select from pg_catalog.pg_roles as r where r.rolname = 'postgres' and not r.rolsuper) then
        return;
    end if;
    if current_setting('is_superuser')::boolean then
        set local role postgres;
    end if;
    if exists (select from pg_catalog.pg_roles as r where r.rolname = current_user and r.rolsuper) then
        raise exception 'execute_sql belongs to %, a superuser', current_user
        using errcode = 'RM001', hint = 'Nothing was changed. Run remove_sql_function.py; where it writes a file, run that in the SQL Editor. '
            'Then deploy again, which makes it as postgres.';
    end if;
end;
$block$;
