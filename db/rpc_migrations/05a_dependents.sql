-- Dependents: what belongs to others, depends on a table, and would mean the wrong one after the swap: foreign keys that point at it;
-- views, functions, policies and rules that mention it. They refer to the table by its OID, so they are made again, with the same
-- text, as soon as the new table has the name.

-- The objects of a catalog that depend on a table, on the sequence of one of its identity columns, or on the type of its rows; and views,
-- rules and policies that depend on a function which takes or returns its rows. "on_rows": by the type of its rows.
create or replace function rpc_migrations.depending(catalog regclass, relation oid) returns table (object oid, on_rows boolean)
language plpgsql stable rows 5
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select o.object, bool_or(o.on_rows)
        from (
            select d.objid as object, r.catalog = 'pg_catalog.pg_type'::regclass as on_rows
            from (
                select v.catalog, v.object
                from pg_catalog.pg_class as c
                inner join pg_catalog.pg_type as t on t.oid = c.reltype
                cross join lateral (
                    values ('pg_catalog.pg_class'::regclass, c.oid), ('pg_catalog.pg_type', t.oid), ('pg_catalog.pg_type', t.typarray)
                ) as v (catalog, object)
                where c.oid = relation
                union all
                select 'pg_catalog.pg_class', s.sequence from rpc_migrations.identity_sequences(relation) as s
            ) as r (catalog, object)
            inner join pg_catalog.pg_depend as d on d.refclassid = r.catalog and d.refobjid = r.object
            where d.classid = depending.catalog
            union all
            select f.object, false
            from rpc_migrations.depending_on_functions_of_rows(depending.catalog, relation) as f
            where depending.catalog in ('pg_catalog.pg_rewrite'::regclass, 'pg_catalog.pg_policy'::regclass)
        ) as o
        group by o.object;
end;
$function$;


-- The functions that take or return rows of a table: their parameters or result have the type of these.
create or replace function rpc_migrations.functions_of_rows(relation oid) returns table (oid oid)
language plpgsql stable rows 1
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select distinct d.objid
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_type as t on t.oid = c.reltype
        inner join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_type'::regclass and d.refobjid in (t.oid, t.typarray)
        where c.oid = relation and d.classid = 'pg_catalog.pg_proc'::regclass;
end;
$function$;


-- The objects of a catalog that depend on one of these functions.
create or replace function rpc_migrations.depending_on_functions_of_rows(catalog regclass, relation oid) returns table (object oid)
language plpgsql stable rows 1
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select distinct d.objid
        from rpc_migrations.functions_of_rows(relation) as f
        inner join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid = f.oid
        where d.classid = catalog;
end;
$function$;


-- The other tables and views that the swap alters: those whose foreign keys point at a table or whose policies or rules mention
-- it, and the plain views on it.
create or replace function rpc_migrations.dependents(relation oid) returns table (dependent regclass, is_view boolean)
language sql stable
set search_path = ''
as $function$
    select c.oid::regclass, c.relkind = 'v'
    from (
        select k.conrelid as oid
        from pg_catalog.pg_constraint as k
        where k.confrelid = relation and k.contype = 'f'
        union
        select r.ev_class
        from rpc_migrations.depending('pg_catalog.pg_rewrite', relation) as d inner join pg_catalog.pg_rewrite as r on r.oid = d.object
        union
        select p.polrelid
        from rpc_migrations.depending('pg_catalog.pg_policy', relation) as d inner join pg_catalog.pg_policy as p on p.oid = d.object
    ) as d
    inner join pg_catalog.pg_class as c on c.oid = d.oid
    where c.oid <> relation and c.relkind in ('r', 'p', 'v');
$function$;


-- Whether we may alter the policies of a table: as its owner, or on hosted projects, where the extension supautils lets postgres
-- do so on storage.objects and other tables of Supabase's ({"role": ["schema.table", ...]}).
create or replace function rpc_migrations.may_alter_policies(relation oid) returns boolean
language sql stable
set search_path = ''
as $function$
    select
        pg_has_role(c.relowner, 'usage')
        or coalesce(nullif(current_setting('supautils.policy_grants', true), '')::jsonb -> current_user::text ? c.oid::regclass::text, false)
    from pg_catalog.pg_class as c
    where c.oid = relation;
$function$;


-- Foreign keys that point at the table: made anew as not valid, which takes no time, and validated after the swap if they were.
-- One of the table itself goes along: left behind, its "on delete cascade" would disturb a rollback. They come in the order in which they
-- act, so that all that point at the table keep it.
create or replace function rpc_migrations.describe_keys_to(relation oid, as_name text) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            'swap', 'foreign key to the table', format('%s %I', f.table_name, f.conname), pg_get_constraintdef(f.oid),
            format('alter table %s add constraint %I %s%s', f.table_name, f.conname, pg_get_constraintdef(f.oid),
                case when f.convalidated then ' not valid' end)
            || coalesce(format('; comment on constraint %I on %s is %L', f.conname, f.table_name, f.comment), ''),
            format('alter table %s drop constraint %I', f.conrelid::regclass, f.conname)
        from (
            select
                c.*, case when c.conrelid = relation then as_name else c.conrelid::regclass::text end as table_name,
                obj_description(c.oid, 'pg_constraint') as comment
            from pg_catalog.pg_constraint as c
            where c.confrelid = relation and c.contype = 'f' and c.conparentid = 0
        ) as f
        order by rpc_migrations.acts_by(f.oid), f.oid;
end;
$function$;


-- The statement that makes a view or a policy let go of what it mentions, until it gets its own text again: meanwhile reading the view
-- fails, and the policy allows nothing. Everything else about them stays. Null for anything else.
create or replace function rpc_migrations.let_go(catalog oid, object oid) returns text
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        select format('create or replace view %s as select %s where (''%s lacks what it reads, during a migration'' || '''')::boolean', v.oid::regclass, (
            select string_agg(format('null::%s%s as %I', format_type(a.atttypid, a.atttypmod),
                case when a.attcollation <> t.typcollation then ' collate ' || a.attcollation::regcollation end, a.attname), ', ' order by a.attnum)
            from pg_catalog.pg_attribute as a
            inner join pg_catalog.pg_type as t on t.oid = a.atttypid
            where a.attrelid = v.oid and a.attnum > 0
        ), replace(v.oid::regclass::text, '''', ''''''))
        from pg_catalog.pg_rewrite as r
        inner join pg_catalog.pg_class as v on v.oid = r.ev_class and v.relkind = 'v'
        where let_go.catalog = 'pg_catalog.pg_rewrite'::regclass and r.oid = let_go.object and r.rulename = '_RETURN'
        union all
        select format('alter policy %I on %s%s%s', p.polname, p.polrelid::regclass,
            case when p.polqual is not null then ' using (false)' end, case when p.polwithcheck is not null then ' with check (false)' end)
        from pg_catalog.pg_policy as p
        where let_go.catalog = 'pg_catalog.pg_policy'::regclass and p.oid = let_go.object
    );
end;
$function$;


-- The statement that gives a view, a rule or a policy its own text again.
create or replace function rpc_migrations.own_text(catalog oid, object oid) returns text
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        select case
            when r.rulename = '_RETURN' then format('create or replace view %s%s as %s', v.oid::regclass, ' with (' || array_to_string(v.reloptions, ', ') || ')',
                rpc_migrations.parsed_alike(pg_get_viewdef(v.oid), r.ev_action::text))
            else regexp_replace(
                rpc_migrations.parsed_alike(pg_get_ruledef(r.oid), concat(r.ev_qual::text, r.ev_action::text)), '^CREATE RULE', 'CREATE OR REPLACE RULE')
            end
        from pg_catalog.pg_rewrite as r
        inner join pg_catalog.pg_class as v on v.oid = r.ev_class
        where own_text.catalog = 'pg_catalog.pg_rewrite'::regclass and r.oid = own_text.object
        union all
        select format('alter policy %I on %s', p.polname, p.polrelid::regclass)
            || coalesce(' using (' || rpc_migrations.parsed_alike(pg_get_expr(p.polqual, p.polrelid), p.polqual::text) || ')', '')
            || coalesce(' with check (' || rpc_migrations.parsed_alike(pg_get_expr(p.polwithcheck, p.polrelid), p.polwithcheck::text) || ')', '')
        from pg_catalog.pg_policy as p
        where own_text.catalog = 'pg_catalog.pg_policy'::regclass and p.oid = own_text.object
    );
end;
$function$;


-- Views and policies of other tables that depend on a function of the table's rows let go of it before it is dropped, until they get
-- their own text again within the same transaction. A policy of the table itself is dropped: it is made again on the table that has
-- the name then, and in a rollback on the original one (see exchange_back).
create or replace function rpc_migrations.describe_holds(relation oid) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            'swap', 'view', v.oid::regclass::text, null, null, rpc_migrations.let_go('pg_catalog.pg_rewrite'::regclass, r.oid)
        from rpc_migrations.depending_on_functions_of_rows('pg_catalog.pg_rewrite', relation) as d
        inner join pg_catalog.pg_rewrite as r on r.oid = d.object and r.rulename = '_RETURN'
        inner join pg_catalog.pg_class as v on v.oid = r.ev_class and v.relkind = 'v'
        union all
        select
            'swap', 'policy of another table', format('%I on %s', p.polname, p.polrelid::regclass), null, null,
            rpc_migrations.let_go('pg_catalog.pg_policy'::regclass, p.oid)
        from rpc_migrations.depending_on_functions_of_rows('pg_catalog.pg_policy', relation) as d
        inner join pg_catalog.pg_policy as p on p.oid = d.object and p.polrelid <> relation
        union all
        select 'swap', 'policy on a function of its rows', p.polname::text, null, null, format('drop policy %I on %s', p.polname, relation::regclass)
        from rpc_migrations.depending_on_functions_of_rows('pg_catalog.pg_policy', relation) as d
        inner join pg_catalog.pg_policy as p on p.oid = d.object and p.polrelid = relation;
end;
$function$;


-- Views, functions and rules that mention the table are replaced by their own text. A function whose parameters or result have
-- the type of its rows cannot be: it is dropped before and made again after, with its owner, rights and comment, and before the
-- views, which may call it.
create or replace function rpc_migrations.describe_texts(relation oid) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            'swap', 'function', p.oid::regprocedure::text, null,
            case when p.prosqlbody is null then pg_get_functiondef(p.oid) else rpc_migrations.parsed_alike(pg_get_functiondef(p.oid), p.prosqlbody::text) end
            || case when d.on_rows then format(
                '; select rpc_migrations.set_function_rights(%1$L, %3$L); alter routine %1$s owner to %2$s; comment on routine %1$s is %4$L',
                p.oid::regprocedure, p.proowner::regrole, p.proacl, obj_description(p.oid, 'pg_proc')) else '' end
            || rpc_migrations.extension_marks('pg_catalog.pg_proc', p.oid, format('routine %s', p.oid::regprocedure)),
            case when d.on_rows then format('drop routine %s', p.oid::regprocedure) end
        from rpc_migrations.depending('pg_catalog.pg_proc', relation) as d
        inner join pg_catalog.pg_proc as p on p.oid = d.object and p.prokind <> 'a'
        union all
        select
            'swap', 'view', v.oid::regclass::text, null, rpc_migrations.own_text('pg_catalog.pg_rewrite'::regclass, r.oid), null
        from rpc_migrations.depending('pg_catalog.pg_rewrite', relation) as d
        inner join pg_catalog.pg_rewrite as r on r.oid = d.object and r.rulename = '_RETURN'
        inner join pg_catalog.pg_class as v on v.oid = r.ev_class and v.relkind = 'v'
        union all
        select
            'swap', 'rule of another table', format('%I on %s', r.rulename, r.ev_class::regclass), null,
            rpc_migrations.own_text('pg_catalog.pg_rewrite'::regclass, r.oid), null
        from rpc_migrations.depending('pg_catalog.pg_rewrite', relation) as d
        inner join pg_catalog.pg_rewrite as r on r.oid = d.object and r.rulename <> '_RETURN' and r.ev_class <> relation;
end;
$function$;


-- Policies of other tables that mention the table. They come last: until the end of the transaction the statement locks more
-- than its own table (see describe_security).
create or replace function rpc_migrations.describe_policies_about(relation oid) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            'swap', 'policy of another table', format('%I on %s', p.polname, p.polrelid::regclass), null,
            rpc_migrations.own_text('pg_catalog.pg_policy'::regclass, p.oid),
            null
        from rpc_migrations.depending('pg_catalog.pg_policy', relation) as d
        inner join pg_catalog.pg_policy as p on p.oid = d.object and p.polrelid <> relation;
end;
$function$;


-- Gives a function that was made anew the rights that it had, whatever default privileges have granted on it since.
create or replace function rpc_migrations.set_function_rights(routine text, acl aclitem[]) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.execute_each(array(
        select distinct format('revoke all on routine %s from %s', routine, rpc_migrations.role_name(given.grantee))
        from pg_catalog.pg_proc as p
        cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as given
        where p.oid = routine::regprocedure and given.grantee <> p.proowner
    ));
    perform rpc_migrations.execute_each(array(
        select format('grant execute on routine %s to %s%s', routine, rpc_migrations.role_name(given.grantee),
            case when given.is_grantable then ' with grant option' end)
        from pg_catalog.pg_proc as p
        cross join lateral aclexplode(coalesce(set_function_rights.acl, acldefault('f', p.proowner))) as given
        where p.oid = routine::regprocedure and given.grantee <> p.proowner
    ));
end;
$function$;
