-- How to remove what a rebuild cannot carry over, and to put it back such that nothing of it is lost: for each object the statements that
-- make it, and those for everything else about it. They are printed for a person to run, so they call nothing of ours; and they are
-- only computed if something is in the way.

-- Who has which right on a relation (and its columns), a sequence or a routine, in the order in which they were granted; and the rights
-- that were taken from the owner ("is_taken").
create or replace function rpc_migrations.rights_on(catalog oid, object oid)
returns table (
    name text, privilege text, is_of_column boolean, owner oid, grantor oid, grantee oid, is_grantable boolean, is_taken boolean, place bigint
)
language plpgsql stable rows 10
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        with things as (
            select
                format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass) as name, '' as columns,
                c.relowner as owner, c.relacl as acl, case c.relkind when 'S' then 's'::"char" else 'r' end as letter, 0 as number
            from pg_catalog.pg_class as c
            where rights_on.catalog = 'pg_catalog.pg_class'::regclass and c.oid = rights_on.object
            union all
            select format('table %s', c.oid::regclass), format(' (%I)', a.attname), c.relowner, a.attacl, 'c', a.attnum
            from pg_catalog.pg_class as c
            inner join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attacl is not null and not a.attisdropped
            where rights_on.catalog = 'pg_catalog.pg_class'::regclass and c.oid = rights_on.object
            union all
            select format('routine %s', p.oid::regprocedure), '', p.proowner, p.proacl, 'f', 0
            from pg_catalog.pg_proc as p
            where rights_on.catalog = 'pg_catalog.pg_proc'::regclass and p.oid = rights_on.object
        )
        select
            t.name, given.privilege_type || t.columns, t.columns <> '', t.owner,
            given.grantor, given.grantee, given.is_grantable, false, t.number * 10000 + given.place
        from things as t
        cross join lateral aclexplode(coalesce(t.acl, acldefault(t.letter, t.owner))) with ordinality
            as given (grantor, grantee, privilege_type, is_grantable, place)
        union all
        select t.name, d.privilege_type, false, t.owner, t.owner, t.owner, false, true, 0
        from things as t
        cross join lateral aclexplode(acldefault(t.letter, t.owner)) as d
        where
            t.acl is not null and t.columns = '' and d.grantee = t.owner
            and not exists (
                select from aclexplode(t.acl) as given where given.grantee = t.owner and given.privilege_type = d.privilege_type
            );
end;
$function$;


-- The statement that gives rights as they were given: by the owner, or by another role.
create or replace function rpc_migrations.grant_statement(privileges text, name text, owner oid, grantor oid, grantee oid, is_grantable boolean)
returns text
language sql stable
set search_path = ''
as $function$
    select concat(
        case when grantor <> owner then format('set role %s; ', grantor::regrole) end,
        format('grant %s on %s to %s%s', privileges, name, rpc_migrations.role_name(grantee), case when is_grantable then ' with grant option' end),
        case when grantor <> owner then '; reset role' end);
$function$;


-- The statements that give something made anew the rights that it had: default privileges may have granted more.
create or replace function rpc_migrations.rights_again(catalog oid, object oid) returns text
language sql stable
set search_path = ''
as $function$
    with rights as (select r.* from rpc_migrations.rights_on(rights_again.catalog, rights_again.object) as r)
    select nullif(concat_ws('; ',
        (
            select format('revoke all on %s from %s', o.name, string_agg(distinct rpc_migrations.role_name(d.grantee), ', '))
            from (select r.name, r.owner from rights as r limit 1) as o
            cross join lateral (
                select a.grantee
                from pg_catalog.pg_default_acl as l
                cross join lateral aclexplode(l.defaclacl) as a
                where l.defaclobjtype = case when rights_again.catalog = 'pg_catalog.pg_proc'::regclass then 'f' else 'r' end
                union all
                select 0 where rights_again.catalog = 'pg_catalog.pg_proc'::regclass
            ) as d
            where d.grantee <> o.owner
            group by o.name
        ),
        (
            select string_agg(rpc_migrations.grant_statement(g.privileges, g.name, g.owner, g.grantor, g.grantee, g.is_grantable), '; ' order by g.place)
            from (
                select
                    r.name, r.owner, r.grantor, r.grantee, r.is_grantable,
                    string_agg(r.privilege, ', ' order by r.place) as privileges, min(r.place) as place
                from rights as r
                where not r.is_taken and (r.grantee <> r.owner or r.is_of_column)
                group by r.name, r.owner, r.grantor, r.grantee, r.is_grantable
            ) as g
        ),
        (
            select string_agg(format('revoke %s on %s from %s', r.privilege, r.name, r.owner::regrole), '; ') from rights as r where r.is_taken
        )), '');
$function$;


-- A constraint, trigger or index, and its copies on partitions and child tables, which come and go with it.
create or replace function rpc_migrations.with_copies(catalog oid, object oid) returns table (object oid, parent oid, level integer)
language sql stable rows 1
set search_path = ''
as $function$
    with recursive tree (object, parent, level) as (
        select with_copies.object, null::oid, 0
        union all
        select c.oid, t.object, t.level + 1
        from tree as t
        cross join lateral (
            select k.oid
            from pg_catalog.pg_constraint as k
            where with_copies.catalog = 'pg_catalog.pg_constraint'::regclass and k.conparentid = t.object
            union all
            select k.oid
            from pg_catalog.pg_constraint as p
            inner join pg_catalog.pg_inherits as i on i.inhparent = p.conrelid
            inner join pg_catalog.pg_constraint as k on k.conrelid = i.inhrelid and k.conname = p.conname and k.contype = 'c'
            where with_copies.catalog = 'pg_catalog.pg_constraint'::regclass and p.oid = t.object and p.contype = 'c'
            union all
            select g.oid
            from pg_catalog.pg_trigger as g
            where with_copies.catalog = 'pg_catalog.pg_trigger'::regclass and g.tgparentid = t.object
            union all
            select i.inhrelid
            from pg_catalog.pg_inherits as i
            where with_copies.catalog = 'pg_catalog.pg_class'::regclass and i.inhparent = t.object
        ) as c
    )
    select t.object, t.parent, t.level from tree as t;
$function$;


-- The statements for everything about an object, and its copies on partitions, that its definition does not say: the states of triggers
-- and rules, settings of indexes and statistics, comments, marks of extensions.
create or replace function rpc_migrations.besides(catalog oid, object oid) returns text
language sql stable
set search_path = ''
as $function$
    with tree as (select t.* from rpc_migrations.with_copies(besides.catalog, besides.object) as t)
    select concat_ws('; ', (
        select string_agg(s.statement, '; ' order by t.level, s.place)
        from tree as t
        cross join lateral (
            select
                1 as place,
                format('alter table %s %s trigger %I', g.tgrelid::regclass, coalesce(rpc_migrations.firing(g.tgenabled), 'enable'), g.tgname) as statement
            from pg_catalog.pg_trigger as g
            left join pg_catalog.pg_trigger as p on p.oid = g.tgparentid
            where besides.catalog = 'pg_catalog.pg_trigger'::regclass and g.oid = t.object and g.tgenabled <> coalesce(p.tgenabled, 'O')
            union all
            select 1, format('alter table %s %s rule %I', r.ev_class::regclass, rpc_migrations.firing(r.ev_enabled), r.rulename)
            from pg_catalog.pg_rewrite as r
            where besides.catalog = 'pg_catalog.pg_rewrite'::regclass and r.oid = t.object and r.ev_enabled <> 'O'
            union all
            select 1, format('alter index %s set tablespace %I', i.oid::regclass, s.spcname)
            from pg_catalog.pg_class as i
            inner join pg_catalog.pg_tablespace as s on s.oid = i.reltablespace
            where besides.catalog = 'pg_catalog.pg_class'::regclass and i.oid = t.object and i.relkind in ('i', 'I')
            union all
            select 1, format('alter index %s alter column %s set statistics %s', i.oid::regclass, a.attnum, a.attstattarget)
            from pg_catalog.pg_class as i
            inner join pg_catalog.pg_attribute as a on a.attrelid = i.oid and a.attstattarget >= 0
            where besides.catalog = 'pg_catalog.pg_class'::regclass and i.oid = t.object and i.relkind in ('i', 'I')
            union all
            select 1, format('alter table %s cluster on %I', i.indrelid::regclass, x.relname)
            from pg_catalog.pg_index as i
            inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
            where besides.catalog = 'pg_catalog.pg_class'::regclass and i.indexrelid = t.object and i.indisclustered
            union all
            select 1, concat_ws('; ', format('alter statistics %s owner to %s', n.name, s.stxowner::regrole),
                case when s.stxstattarget >= 0 then format('alter statistics %s set statistics %s', n.name, s.stxstattarget) end)
            from pg_catalog.pg_statistic_ext as s
            cross join lateral (select format('%s.%I', s.stxnamespace::regnamespace, s.stxname) as name) as n
            where besides.catalog = 'pg_catalog.pg_statistic_ext'::regclass and s.oid = t.object
            union all
            select 2, format('comment on %s %s is %L',
                regexp_replace(i.type, '^(?:.* (column)|table (constraint)|(statistics) object)$', '\1\2\3'), i.identity, d.description)
            from pg_catalog.pg_description as d
            cross join lateral pg_identify_object(d.classoid, d.objoid, d.objsubid) as i
            where d.classoid = besides.catalog and d.objoid = t.object
        ) as s
    ), (
        select nullif(substr(rpc_migrations.extension_marks(besides.catalog, besides.object, i.type || ' ' || i.identity), 3), '')
        from pg_identify_object(besides.catalog, besides.object, 0) as i
    ));
$function$;


-- The statements that make a constraint again, with its copies on partitions and child tables. (A copy with a name of its own is made
-- before the one above it, and so keeps that name.)
create or replace function rpc_migrations.constraint_again(con oid) returns text
language sql stable
set search_path = ''
as $function$
    select string_agg(
        format('alter table %s add constraint %I %s', k.conrelid::regclass, k.conname, rpc_migrations.constraint_definition(k)),
        '; ' order by t.level desc)
    from rpc_migrations.with_copies('pg_catalog.pg_constraint'::regclass, con) as t
    inner join pg_catalog.pg_constraint as k on k.oid = t.object
    left join pg_catalog.pg_constraint as p on p.oid = t.parent
    where k.conname is distinct from p.conname;
$function$;


-- The statements that make an index again, with its copies on partitions.
create or replace function rpc_migrations.index_again(index oid) returns text
language sql stable
set search_path = ''
as $function$
    select concat_ws('; ',
        string_agg(rpc_migrations.parsed_alike(pg_get_indexdef(x.indexrelid), concat(x.indexprs::text, x.indpred::text)), '; ' order by t.level desc),
        string_agg(format('alter index %s attach partition %s', t.parent::regclass, x.indexrelid::regclass), '; ' order by t.level desc)
            filter (where t.level > 0))
    from rpc_migrations.with_copies('pg_catalog.pg_class'::regclass, index) as t
    inner join pg_catalog.pg_index as x on x.indexrelid = t.object;
$function$;


-- The statements that make a materialized view again, with its indexes and statistics.
create or replace function rpc_migrations.materialized_view_again(view oid) returns text
language plpgsql stable
set search_path = ''
as $function$
begin
    return (
        select concat_ws('; ',
            format('create materialized view %s%s%s as %s%s', n.name, ' using ' || quote_ident(nullif(m.amname, 'heap')), ' tablespace ' || quote_ident(t.spcname),
                rtrim(rpc_migrations.parsed_alike(pg_get_viewdef(v.oid), r.ev_action::text), ';'), case when not v.relispopulated then ' with no data' end),
            format('alter materialized view %s owner to %s', n.name, v.relowner::regrole),
            rpc_migrations.rights_again('pg_catalog.pg_class'::regclass, v.oid),
            (
                select string_agg(w.put_back, '; ' order by o.catalog, o.object)
                from (
                    select 'pg_catalog.pg_class'::regclass as catalog, i.indexrelid as object from pg_catalog.pg_index as i where i.indrelid = v.oid
                    union all
                    select 'pg_catalog.pg_statistic_ext', s.oid from pg_catalog.pg_statistic_ext as s where s.stxrelid = v.oid
                ) as o
                cross join lateral rpc_migrations.way_round(o.catalog, o.object) as w
            ),
            (
                select string_agg(s.statement, '; ')
                from (
                    select p.kind, p.statement from rpc_migrations.describe_column_settings(v.oid, n.name) as p
                    union all
                    select p.kind, p.statement from rpc_migrations.describe_options(v.oid, n.name) as p
                    union all
                    select p.kind, p.statement from rpc_migrations.describe_index_settings(v.oid, n.name, '{}') as p
                ) as s
                where s.kind in ('column setting', 'storage option', 'replica identity')
            ))
        from pg_catalog.pg_class as v
        inner join pg_catalog.pg_rewrite as r on r.ev_class = v.oid
        left join pg_catalog.pg_am as m on m.oid = v.relam
        left join pg_catalog.pg_tablespace as t on t.oid = v.reltablespace
        cross join lateral (select v.oid::regclass::text as name) as n
        where v.oid = materialized_view_again.view
    );
end;
$function$;


-- The statements that remove an object, and those that put it back as it was; no row for kinds that are not known here. A view or a policy
-- stays, and lets go of what it mentions. Copies on a partition or a child table come and go with the object above.
create or replace function rpc_migrations.way_round(catalog oid, object oid) returns table (take_away text, put_back text)
language sql stable rows 1
set search_path = ''
as $function$
    select w.take_away, concat_ws('; ', w.put_back, nullif(rpc_migrations.besides(way_round.catalog, way_round.object), ''), (
        select nullif(rpc_migrations.besides('pg_catalog.pg_class'::regclass, c.conindid), '')
        from pg_catalog.pg_constraint as c
        where way_round.catalog = 'pg_catalog.pg_constraint'::regclass and c.oid = way_round.object and c.contype = 'x'
    ))
    from (
        select
            format('alter table only %s alter column %I drop default', d.adrelid::regclass, a.attname) as take_away,
            format('alter table only %s alter column %I set default %s', d.adrelid::regclass, a.attname,
                rpc_migrations.parsed_alike(pg_get_expr(d.adbin, d.adrelid), d.adbin::text)) as put_back
        from pg_catalog.pg_attrdef as d
        inner join pg_catalog.pg_attribute as a on a.attrelid = d.adrelid and a.attnum = d.adnum
        where way_round.catalog = 'pg_catalog.pg_attrdef'::regclass and d.oid = way_round.object and a.attgenerated = ''
        union all
        select
            format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname),
            rpc_migrations.constraint_again(c.oid)
        from pg_catalog.pg_constraint as c
        where way_round.catalog = 'pg_catalog.pg_constraint'::regclass and c.oid = way_round.object
            and c.contype in ('c', 'x', 'f') and c.conrelid <> 0 and c.conparentid = 0 and (c.conislocal or c.coninhcount = 0)
        union all
        select format('drop index %s', i.indexrelid::regclass), rpc_migrations.index_again(i.indexrelid)
        from pg_catalog.pg_index as i
        inner join pg_catalog.pg_class as c on c.oid = i.indexrelid and not c.relispartition
        where way_round.catalog = 'pg_catalog.pg_class'::regclass and i.indexrelid = way_round.object
        union all
        select format('drop statistics %s.%I', s.stxnamespace::regnamespace, s.stxname), (
            select format('create statistics %s.%I', s.stxnamespace::regnamespace, s.stxname)
                || substr(p.statement, 1 + length(format('create statistics rpc_migrations.%I', p.name)))
            from rpc_migrations.describe_indexes(s.stxrelid, s.stxrelid::regclass::text) as p
            inner join rpc_migrations.statistics_names(s.stxrelid, '{}') as n on n.oid = s.oid and n.default_name = p.name
            where p.kind = 'statistics'
        )
        from pg_catalog.pg_statistic_ext as s
        where way_round.catalog = 'pg_catalog.pg_statistic_ext'::regclass and s.oid = way_round.object
        union all
        select
            format('drop trigger %I on %s', g.tgname, g.tgrelid::regclass), rpc_migrations.parsed_alike(pg_get_triggerdef(g.oid), g.tgqual::text)
        from pg_catalog.pg_trigger as g
        where way_round.catalog = 'pg_catalog.pg_trigger'::regclass and g.oid = way_round.object and g.tgparentid = 0 and not g.tgisinternal
        union all
        select format('drop materialized view %s', v.oid::regclass), rpc_migrations.materialized_view_again(v.oid)
        from pg_catalog.pg_class as v
        where way_round.catalog = 'pg_catalog.pg_class'::regclass and v.oid = way_round.object and v.relkind = 'm'
        union all
        select
            format('drop routine %s', p.oid::regprocedure),
            concat_ws('; ',
                case when p.prosqlbody is null then pg_get_functiondef(p.oid) else rpc_migrations.parsed_alike(pg_get_functiondef(p.oid), p.prosqlbody::text) end,
                format('alter routine %s owner to %s', p.oid::regprocedure, p.proowner::regrole),
                rpc_migrations.rights_again('pg_catalog.pg_proc'::regclass, p.oid))
        from pg_catalog.pg_proc as p
        where way_round.catalog = 'pg_catalog.pg_proc'::regclass and p.oid = way_round.object and p.prokind <> 'a'
        union all
        select format('drop rule %I on %s', r.rulename, r.ev_class::regclass), rtrim(rpc_migrations.own_text(way_round.catalog, r.oid), ';')
        from pg_catalog.pg_rewrite as r
        where way_round.catalog = 'pg_catalog.pg_rewrite'::regclass and r.oid = way_round.object and r.rulename <> '_RETURN'
        union all
        select l, rtrim(rpc_migrations.own_text(way_round.catalog, way_round.object), ';')
        from rpc_migrations.let_go(way_round.catalog, way_round.object) as l
        where l is not null
    ) as w;
$function$;


-- The materialized views on a table, what depends on them and has to go or let go of them as well, and so on. "level": the order in which
-- they can be put back, or backwards be removed. What depends on something that only lets go stays, but counts for the levels.
create or replace function rpc_migrations.materialized_on(relation oid) returns table (catalog oid, object oid, is_on_it boolean, level integer)
language plpgsql stable rows 1
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
begin
    return query
        with recursive standing (catalog, object, is_on_it, goes, level) as (
            select 'pg_catalog.pg_class'::regclass::oid, v.oid, true, true, 0
            from rpc_migrations.depending('pg_catalog.pg_rewrite', relation) as d
            inner join pg_catalog.pg_rewrite as r on r.oid = d.object
            inner join pg_catalog.pg_class as v on v.oid = r.ev_class and v.relkind = 'm'
            union
            select n.catalog, n.object, false, s.goes and (s.catalog = 'pg_catalog.pg_proc'::regclass or c.relkind = 'm'), s.level + 1
            from standing as s
            left join pg_catalog.pg_rewrite as w on s.catalog = 'pg_catalog.pg_rewrite'::regclass and w.oid = s.object and w.rulename = '_RETURN'
            left join pg_catalog.pg_class as c on c.oid = coalesce(w.ev_class, case when s.catalog = 'pg_catalog.pg_class'::regclass then s.object end)
            left join pg_catalog.pg_type as t on t.oid = c.reltype
            cross join lateral (
                values (s.catalog, s.object), ('pg_catalog.pg_class'::regclass, c.oid), ('pg_catalog.pg_type'::regclass, t.oid),
                    ('pg_catalog.pg_type'::regclass, t.typarray)
            ) as v (catalog, object)
            inner join pg_catalog.pg_depend as d on d.deptype = 'n' and d.refclassid = v.catalog and d.refobjid = v.object
            left join pg_catalog.pg_rewrite as r on d.classid = 'pg_catalog.pg_rewrite'::regclass and r.oid = d.objid
            left join pg_catalog.pg_class as m on m.oid = r.ev_class and m.relkind = 'm'
            cross join lateral (
                select case when m.oid is null then d.classid else 'pg_catalog.pg_class'::regclass end as catalog, coalesce(m.oid, d.objid) as object
            ) as n
            where s.level < 30 and (n.catalog, n.object) <> (s.catalog, s.object)
        )
        select s.catalog, s.object, bool_or(s.is_on_it), max(s.level)
        from standing as s
        group by s.catalog, s.object
        having bool_or(s.goes);
end;
$function$;
