-- As whom it runs. Self-hosted projects connect postgres-meta and the SQL Editor as a superuser, supabase_admin. What that one makes would
-- belong to it, act with all its rights, and be refused the tables of postgres; so it is postgres that makes it. What such a superuser has
-- made of ours before, postgres is given, with the journal. (In a call of its own execute_sql the role cannot be changed.)
do $block$
declare
    statement text;
begin
    if not exists (select from pg_catalog.pg_roles as r where r.rolname = 'postgres' and not r.rolsuper) then
        return;
    end if;
    if current_setting('is_superuser')::boolean then
        for statement in
            select format('alter %s %s owner to postgres', i.type, i.identity)
            from (
                select 'pg_namespace'::regclass, n.oid, n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'rpc_migrations'
                union all
                select 'pg_class'::regclass, c.oid, c.relowner
                from pg_catalog.pg_class as c
                where c.relnamespace = to_regnamespace('rpc_migrations') and c.relkind = 'r'
                union all
                select 'pg_type'::regclass, t.oid, t.typowner
                from pg_catalog.pg_type as t
                inner join pg_catalog.pg_class as c on c.oid = t.typrelid and c.relkind = 'c'
                where t.typnamespace = to_regnamespace('rpc_migrations')
                union all
                select 'pg_proc'::regclass, p.oid, p.proowner
                from pg_catalog.pg_proc as p
                where
                    p.pronamespace = to_regnamespace('rpc_migrations')
                    or p.pronamespace = to_regnamespace('public') and p.proname = 'execute_sql'
                    and obj_description(p.oid, 'pg_proc') like 'rpc_migrations %'
            ) as o (class, object, owner)
            cross join lateral pg_identify_object(o.class, o.object, 0) as i
            where o.owner = current_user::regrole
        loop
            execute statement;
        end loop;
        set local role postgres;
    end if;
    if exists (select from pg_catalog.pg_roles as r where r.rolname = current_user and r.rolsuper) then
        raise exception 'it belongs to %, a superuser', current_user using errcode = 'RM008';
    end if;
end;
$block$;
