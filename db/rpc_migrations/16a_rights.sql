-- Who has which right on what is ours, and on the tables of a rebuild that are not in use. Nothing relies on default privileges, in either
-- direction: what we make is taken from everybody who was granted it, and then granted by name.

-- Revokes every right on a table from everybody but its owner.
create or replace function rpc_migrations.revoke_all(relation oid) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.execute_each(array(
        select distinct format('revoke all on table %s from %s cascade', relation::regclass, rpc_migrations.role_name(acl.grantee))
        from (
            select c.relacl as acl, c.relowner from pg_catalog.pg_class as c where c.oid = relation
            union all
            select a.attacl, c.relowner
            from pg_catalog.pg_attribute as a inner join pg_catalog.pg_class as c on c.oid = a.attrelid
            where a.attrelid = relation
        ) as source
        cross join lateral aclexplode(source.acl) as acl
        where acl.grantee <> source.relowner
    ));
end;
$function$;


-- Closes a table to the API: no rights for anyone but the owner, and row level security. Its policies stay as they were, so that they would
-- let rows through if somebody granted rights again.
create or replace function rpc_migrations.close_table(relation oid) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.revoke_all(relation);
    execute format('alter table %s enable row level security', relation::regclass);
end;
$function$;


-- Every right that somebody other than the owner has on something of ours, and the statement that revokes it: on the private
-- schema, on what is in it, and on execute_sql, except service_role's to execute that. Default privileges may have granted
-- one to any role when we made the thing, silently.
create or replace function rpc_migrations.rights_of_others() returns table (object text, grantee text, statement text)
language sql stable
set search_path = ''
as $function$
    with ours (object, acl, owner) as (
        select format('schema %I', n.nspname), coalesce(n.nspacl, acldefault('n', n.nspowner)), n.nspowner
        from pg_catalog.pg_namespace as n
        where n.oid in (select rpc_migrations.schemas_of_new_tables())
        union all
        select format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass), c.relacl, c.relowner
        from pg_catalog.pg_class as c
        where c.relnamespace in (select rpc_migrations.schemas_of_new_tables()) and c.relkind not in ('i', 'I', 't', 'c')
        union all
        select format('table %s', c.oid::regclass), a.attacl, c.relowner
        from pg_catalog.pg_class as c inner join pg_catalog.pg_attribute as a on a.attrelid = c.oid
        where c.relnamespace in (select rpc_migrations.schemas_of_new_tables()) and a.attacl is not null
        union all
        select format('routine %s', p.oid::regprocedure), coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
        from pg_catalog.pg_proc as p
        where
            p.pronamespace = 'rpc_migrations'::regnamespace
            or p.pronamespace = 'public'::regnamespace and p.proname = 'execute_sql'
            and p.proowner = (select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'rpc_migrations')
    )
    select distinct
        o.object, rpc_migrations.role_name(acl.grantee),
        format('revoke all on %s from %s cascade', o.object, rpc_migrations.role_name(acl.grantee))
    from ours as o
    cross join lateral aclexplode(o.acl) as acl
    where
        acl.grantee <> o.owner
        and not (
            o.object like 'routine public.execute_sql(%' and acl.grantee = 'service_role'::regrole
            and acl.privilege_type = 'EXECUTE' and not acl.is_grantable
        );
$function$;


-- The same for tables that were moved aside: backups, and those that rollbacks keep. One that was renamed since is somebody's own. (Where
-- the journal was dropped nothing is known of them, and execute_sql still has to work, to make it again.)
create or replace function rpc_migrations.rights_on_tables_aside() returns table (object text, grantee text, statement text)
language plpgsql stable
set search_path = ''
as $function$
begin
    if to_regclass('rpc_migrations.copies') is null then
        return;
    end if;
    return query
        select distinct
            format('table %s', t.oid::regclass), rpc_migrations.role_name(acl.grantee),
            format('revoke all on table %s from %s cascade', t.oid::regclass, rpc_migrations.role_name(acl.grantee))
        from rpc_migrations.copies as c
        cross join lateral rpc_migrations.places(c) as p
        inner join pg_catalog.pg_class as t
            on t.oid = case c.state when 'rolled back' then to_regclass(p.new_place) else to_regclass(p.old_place) end
        cross join lateral (
            select t.relacl as acl
            union all
            select a.attacl from pg_catalog.pg_attribute as a where a.attrelid = t.oid and a.attacl is not null
        ) as source
        cross join lateral aclexplode(source.acl) as acl
        where
            c.home = rpc_migrations.home() and t.oid = case c.state when 'rolled back' then c.new_table else c.old_table end
            and c.state in ('swapped', 'rolling back', 'rolled back')
            and acl.grantee <> t.relowner and pg_has_role(t.relowner, 'usage');
end;
$function$;


-- Roles that may execute execute_sql, other than its owner and service_role: granted it, or by being a member of one that was.
-- Whoever could act as the owner anyway (a superuser) is not listed.
create or replace function rpc_migrations.other_callers() returns table (role text, by_membership boolean)
language sql stable
set search_path = ''
as $function$
    select r.oid::regrole::text, pg_has_role(r.oid, 'service_role', 'usage')
    from pg_catalog.pg_proc as p
    cross join pg_catalog.pg_roles as r
    where
        p.pronamespace = 'public'::regnamespace and p.proname = 'execute_sql'
        and p.proowner = (select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'rpc_migrations')
        and r.rolname <> 'service_role' and not pg_has_role(r.oid, p.proowner, 'usage')
        and has_function_privilege(r.oid, p.oid, 'execute');
$function$;


-- Functions in public that run the SQL they are given, to judge by their names, and that users of the API may execute. Not ours.
create or replace function rpc_migrations.open_functions() returns table (signature text, caller text)
language sql stable
set search_path = ''
as $function$
    select format('public.%I(%s)', p.proname, oidvectortypes(p.proargtypes)), u.rolname::text
    from pg_catalog.pg_proc as p
    inner join pg_catalog.pg_roles as u on u.rolname in ('anon', 'authenticated') and has_function_privilege(u.oid, p.oid, 'execute')
    where
        p.pronamespace = 'public'::regnamespace and p.prokind = 'f'  -- the API calls no procedures
        and p.proname ~* '^_?(exec|execute|run|raw|eval)_?([a-z]*_?(sql|query|statement|ddl|command)|exec$)|^_?(sql|query|exec|execute|ddl)$'
        and array['text', 'varchar', 'json', 'jsonb']::regtype[]::oid[] && p.proargtypes::oid[]
        and p.oid is distinct from rpc_migrations.api_function()  -- whoever may make one may give it our comment
    order by 1, 2;
$function$;


-- Revokes all that rights_of_others finds.
create or replace function rpc_migrations.close_to_others() returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.execute_each(array(select r.statement from rpc_migrations.rights_of_others() as r));
end;
$function$;


-- Who may execute execute_sql, and with whose rights and search_path it runs, to be compared.
create or replace function rpc_migrations.rights_on_execute_sql() returns text
language sql volatile
set search_path = ''
as $function$
    select concat_ws(' ', p.proacl, p.prosecdef, p.proconfig)
    from pg_catalog.pg_proc as p
    where p.oid = rpc_migrations.api_function();
$function$;


-- Puts the rights on execute_sql back if a text has changed them: `grant execute on all functions in schema public to anon` is
-- meant for the application's own, and after `revoke ... from service_role` a run could do nothing more. A text that names
-- execute_sql may revoke service_role's right, but never grant it to others. In the same way a loop over all functions of
-- public, which makes them `security invoker` or gives them a search_path, is not meant for this one.
create or replace function rpc_migrations.keep_rights(texts text) returns void
language plpgsql
set search_path = ''
as $function$
declare
    signature regprocedure := rpc_migrations.api_function();
begin
    if signature is null then
        return;
    end if;
    perform rpc_migrations.execute_each(array(
        select r.statement from rpc_migrations.rights_of_others() as r where r.object = format('routine %s', signature)
    ));
    if not has_function_privilege('service_role', signature, 'execute') and strpos(texts, 'execute_sql') = 0 then
        execute format('grant execute on function %s to service_role', signature);
    end if;
    execute format('alter function %s security definer set search_path = pg_catalog, pg_temp', signature);
end;
$function$;


-- Closes tables that were moved aside, where a text has opened them ("closing_before": what would have closed them before it): `grant all on
-- all tables in schema public to anon` is meant for the application's own. A GRANT that names such a table is meant; a comment, or a longer
-- name, is none. (The steps sent along come as JSON, with \n for a line break.)
create or replace function rpc_migrations.keep_closed(texts text, closing_before text[]) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.execute_each(array(
        select r.statement from rpc_migrations.rights_on_tables_aside() as r
        where
            r.statement <> all (closing_before)
            and replace(lower(texts), '\n', ' ') !~ format(
                '\mgrant\M[^;]*[^\w$]%s(?![\w$])', regexp_replace(lower((parse_ident(substr(r.object, 7)))[2]), '(\W)', '\\\1', 'g'))
    ));
end;
$function$;
