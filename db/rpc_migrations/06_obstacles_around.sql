-- Obstacles that stand around the table: views, policies, functions and keys that depend on it and that we cannot make again, each
-- with the statements that remove it and put it back.

-- Whether something is a view or a policy, which get their text again (or a materialized view, which is an obstacle of its own).
create or replace function rpc_migrations.is_made_by_its_text(catalog oid, object oid) returns boolean
language sql stable
set search_path = ''
as $function$
    select
        catalog = 'pg_catalog.pg_rewrite'::regclass and exists (
            select from pg_catalog.pg_rewrite as r
            inner join pg_catalog.pg_class as v on v.oid = r.ev_class
            where r.oid = is_made_by_its_text.object and r.rulename = '_RETURN' and v.relkind in ('v', 'm'))
        or catalog = 'pg_catalog.pg_class'::regclass and exists (
            select from pg_catalog.pg_class as c where c.oid = is_made_by_its_text.object and c.relkind = 'm')
        or catalog = 'pg_catalog.pg_policy'::regclass;
$function$;


-- Those that we may not make again, since they belong to another role or to an extension.
create or replace function rpc_migrations.obstacles_of_other_owners(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            case o.relpersistence when 't' then 'a temporary view of a session that is open' else 'a table or view of another role that depends on it' end,
            format('%s (of %s)', o.oid::regclass, o.relowner::regrole), null, null
        from rpc_migrations.dependents(relation) as d
        inner join pg_catalog.pg_class as o on o.oid = d.dependent
        where o.relpersistence = 't' or not pg_has_role(o.relowner, 'usage') and (
            o.relkind = 'v'
            or exists (select from pg_catalog.pg_constraint as c where c.conrelid = o.oid and c.confrelid = relation and c.contype = 'f'))
        union all
        select 'a policy on a table of another role (in the SQL Editor, remove it before and put it back afterwards)',
            format('%I on %s (of %s)', p.polname, p.polrelid::regclass, o.relowner::regrole),
            w.take_away, w.put_back
        from rpc_migrations.depending('pg_catalog.pg_policy', relation) as d
        inner join pg_catalog.pg_policy as p on p.oid = d.object and p.polrelid <> relation
        inner join pg_catalog.pg_class as o on o.oid = p.polrelid
        cross join lateral rpc_migrations.way_round('pg_catalog.pg_policy'::regclass, p.oid) as w
        where not rpc_migrations.may_alter_policies(o.oid)
        union all
        select 'a function of another role that mentions it', format('%s (of %s)', p.oid::regprocedure, p.proowner::regrole), null, null
        from rpc_migrations.depending('pg_catalog.pg_proc', relation) as f
        inner join pg_catalog.pg_proc as p on p.oid = f.object
        where not pg_has_role(p.proowner, 'usage')
        union all
        select 'a function of an extension that mentions it', f.object::regprocedure::text, null, null
        from rpc_migrations.depending('pg_catalog.pg_proc', relation) as f
        inner join pg_catalog.pg_depend as d on d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = f.object and d.deptype = 'e';
end;
$function$;


-- The foreign keys of partitioned tables that point at a table, the last one first.
create or replace function rpc_migrations.partitioned_keys_to(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select 'a foreign key of a partitioned table that points at it', format('%I on %s', c.conname, c.conrelid::regclass), w.take_away,
            concat(E'-- From here on it acts after the foreign keys of others that point at ' || o.name || E'.\n', w.put_back)
        from pg_catalog.pg_constraint as c
        inner join pg_catalog.pg_class as r on r.oid = c.conrelid
        cross join lateral rpc_migrations.way_round('pg_catalog.pg_constraint'::regclass, c.oid) as w
        left join lateral (
            select relation::regclass::text as name
            from pg_catalog.pg_constraint as k
            inner join pg_catalog.pg_class as t on t.oid = k.conrelid and t.relkind <> 'p'
            where k.confrelid = relation and k.contype = 'f' and k.conparentid = 0
                and rpc_migrations.acts_by(k.oid) > rpc_migrations.acts_by(c.oid)
            limit 1
        ) as o on true
        where c.confrelid = relation and c.contype = 'f' and r.relkind = 'p' and c.conparentid = 0
        order by rpc_migrations.acts_by(c.oid) desc;
end;
$function$;


-- Those that the swap cannot carry over: they are to be removed before, and put back afterwards.
create or replace function rpc_migrations.obstacles_to_be_put_back(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        (
            select
                case when m.is_on_it then 'a materialized view on it' else 'something that depends on such a view' end,
                case when m.is_on_it then m.object::regclass::text else coalesce(
                    (select 'view ' || r.ev_class::regclass from pg_catalog.pg_rewrite as r
                    where m.catalog = 'pg_catalog.pg_rewrite'::regclass and r.oid = m.object and r.rulename = '_RETURN'),
                    pg_describe_object(m.catalog, m.object, 0)) end,
                w.take_away, w.put_back
            from rpc_migrations.materialized_on(relation) as m
            left join lateral rpc_migrations.way_round(m.catalog, m.object) as w on true
            order by m.level desc
        )
        union all
        select k.* from rpc_migrations.partitioned_keys_to(relation) as k
        union all
        select 'something that depends on a function which takes or returns its rows',
            format('%s, on %s', pg_describe_object(d.classid, d.objid, d.objsubid), f.object::regprocedure), w.take_away, w.put_back
        from rpc_migrations.depending('pg_catalog.pg_proc', relation) as f
        inner join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid = f.object
        left join lateral rpc_migrations.way_round(d.classid, d.objid) as w on true
        where f.on_rows and not rpc_migrations.is_made_by_its_text(d.classid, d.objid)
        union all
        select distinct 'something that uses the type of its rows', pg_describe_object(d.classid, d.objid, d.objsubid), w.take_away, w.put_back
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_type as t on t.oid = c.reltype
        inner join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_type'::regclass and d.refobjid in (t.oid, t.typarray)
        left join lateral rpc_migrations.way_round(d.classid, d.objid) as w on true
        where c.oid = relation and d.objid <> t.typarray
            and not exists (select from pg_catalog.pg_proc as p where p.oid = d.objid and d.classid = 'pg_catalog.pg_proc'::regclass and p.prokind <> 'a')
            and not rpc_migrations.is_made_by_its_text(d.classid, d.objid)
        union all
        select 'the default of another column that draws from its identity sequence', pg_describe_object(d.classid, d.objid, d.objsubid),
            w.take_away, w.put_back
        from rpc_migrations.identity_sequences(relation) as i
        inner join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = i.sequence
        inner join pg_catalog.pg_attrdef as e on d.classid = 'pg_catalog.pg_attrdef'::regclass and e.oid = d.objid
        inner join pg_catalog.pg_class as o on o.oid = e.adrelid and o.relnamespace not in (select rpc_migrations.schemas_of_new_tables())
        left join lateral rpc_migrations.way_round(d.classid, d.objid) as w on true
        union all
        select 'a constraint trigger of another table that refers to it', format('%I on %s', g.tgname, g.tgrelid::regclass),
            w.take_away, w.put_back
        from pg_catalog.pg_trigger as g
        cross join lateral rpc_migrations.way_round('pg_catalog.pg_trigger'::regclass, g.oid) as w
        where g.tgconstrrelid = relation and not g.tgisinternal and g.tgrelid <> relation
        union all
        (
            select 'something that depends on it', pg_describe_object(u.classid, u.objid, u.objsubid), w.take_away, w.put_back
            from rpc_migrations.unknown_dependents(relation) as u
            left join lateral rpc_migrations.way_round(u.classid, u.objid) as w on true
            order by u.classid, u.objid
        );
end;
$function$;
