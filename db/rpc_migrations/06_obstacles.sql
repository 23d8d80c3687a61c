-- What is in the way: all that a table may have and that cannot be carried over to its new version. It is refused by name
-- before anything changes, rather than lost, and looked for again under the lock of the swap.

-- One thing in the way: which kind of thing it is, in words that can stand before several names; its name (null: the kind says
-- all); and where there are such, the statements that take it away and put it back.
drop type if exists rpc_migrations.obstacle;
create type rpc_migrations.obstacle as (kind text, name text, take_away text, put_back text);


-- What the table itself is.
create or replace function rpc_migrations.obstacles_of_the_table(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            o.kind, o.name, format(o.take_away, c.oid::regclass, o.other, current_user::regrole),
            format(o.put_back, c.oid::regclass, o.other, current_user::regrole)
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_roles as r on r.rolname = current_user
        left join pg_catalog.pg_am as m on m.oid = c.relam
        cross join lateral (
            select 'it is not an ordinary table' as kind, null as name, null as other, null as take_away, null as put_back
            where c.relkind <> 'r' or c.reloftype <> 0
            union all
            select 'it is unlogged or temporary', null, null, 'alter table %1$s set logged', 'alter table %1$s set unlogged'
            where c.relpersistence <> 'p'
            union all
            select 'it has a tablespace or an access method of its own', null, null, null, null
            where c.reltablespace <> 0 or m.amname <> 'heap'
            union all
            -- What its checks, defaults and index expressions call would run as us, while its owner decides what that is.
            select format('it belongs to %s, not to %s', c.relowner::regrole, current_user::regrole), null, c.relowner::regrole::text,
                'alter table %1$s owner to %3$s', 'alter table %1$s owner to %2$s'
            where c.relowner <> r.oid
            union all
            select 'row level security is forced on its owner, who may not bypass it', null, null,
                'alter table %1$s no force row level security', 'alter table %1$s force row level security'
            where c.relforcerowsecurity and not (r.rolbypassrls or r.rolsuper)
            union all
            select 'it has no primary key; add one (alter table ... add primary key ...)', null, null, null, null
            where not exists (select from pg_catalog.pg_index as i where i.indrelid = c.oid and i.indisprimary and i.indisvalid)
            union all
            select 'it inherits from, or is a partition of', i.inhparent::regclass::text, i.inhparent::regclass::text,
                case when c.relispartition then 'alter table %2$s detach partition %1$s' else 'alter table %1$s no inherit %2$s' end,
                case when c.relispartition then 'alter table %2$s attach partition %1$s ' || replace(pg_get_expr(c.relpartbound, c.oid), '%', '%%')
                    else 'alter table %1$s inherit %2$s' end
            from pg_catalog.pg_inherits as i where i.inhrelid = c.oid
            union all
            select 'a subscription feeds it', null, null, null, null
            where exists (select from pg_catalog.pg_subscription_rel as s where s.srrelid = c.oid)
            union all
            select 'it is part of', pg_describe_object(d.refclassid, d.refobjid, 0), null, null, null
            from pg_catalog.pg_depend as d
            where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
        ) as o
        where c.oid = relation;
end;
$function$;


-- Rights that cannot be given again as they are: those that another role than the owner has granted, and those that were taken
-- from the owner, who needs them to bring rows over.
create or replace function rpc_migrations.rights_in_the_way(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        with things as (
            select 'table' as kind, c.oid::regclass::text as name, '' as columns, c.relowner as owner, c.relacl as acl, 'r'::"char" as letter
            from pg_catalog.pg_class as c where c.oid = relation
            union all
            select 'table', c.oid::regclass::text, format(' (%I)', a.attname), c.relowner, a.attacl, 'c'
            from pg_catalog.pg_class as c
            inner join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attacl is not null and not a.attisdropped
            where c.oid = relation
            union all
            select 'sequence', s.oid::regclass::text, '', s.relowner, s.relacl, 's'
            from rpc_migrations.identity_sequences(relation) as i inner join pg_catalog.pg_class as s on s.oid = i.sequence
            union all
            select 'routine', p.oid::regprocedure::text, '', p.proowner, p.proacl, 'f'
            from rpc_migrations.depending('pg_catalog.pg_proc', relation) as f inner join pg_catalog.pg_proc as p on p.oid = f.object
            where f.on_rows
        )
        select
            'a right that another role than the owner has granted', format('%s by %s', g.what, rpc_migrations.role_name(g.grantor)),
            format('set role %s; revoke %s from %s; reset role', g.grantor::regrole, g.what, rpc_migrations.role_name(g.grantee)),
            format('set role %s; grant %s to %s%s; reset role', g.grantor::regrole, g.what, rpc_migrations.role_name(g.grantee),
                case when g.is_grantable then ' with grant option' end)
        from (
            select given.*, format('%s%s on %s %s', given.privilege_type, t.columns, t.kind, t.name) as what
            from things as t
            cross join lateral aclexplode(t.acl) as given
            where given.grantor <> t.owner
        ) as g
        union all
        select
            'a right that was taken from its owner', format('%s on %s %s', d.privilege_type, t.kind, t.name),
            format('grant %s on %s %s to %s', d.privilege_type, t.kind, t.name, t.owner::regrole),
            format('revoke %s on %s %s from %s', d.privilege_type, t.kind, t.name, t.owner::regrole)
        from things as t
        cross join lateral aclexplode(acldefault(t.letter, t.owner)) as d
        where
            t.acl is not null and t.columns = '' and d.grantee = t.owner
            and not exists (
                select from aclexplode(t.acl) as given where given.grantee = t.owner and given.privilege_type = d.privilege_type
            );
end;
$function$;


-- What belongs to the table. Letters that stand for a kind of thing and that are not known here are a later PostgreSQL's.
create or replace function rpc_migrations.obstacles_in_the_table(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select 'a primary key with a period', c.conname::text, null, null
        from pg_catalog.pg_constraint as c
        where c.conrelid = relation and c.contype = 'p' and pg_get_constraintdef(c.oid) ~ ' WITHOUT OVERLAPS'
        union all
        select 'a column of its primary key is called as one of ours', a.attname::text,
            format('alter table %s rename column %I to %I', relation::regclass, a.attname, 'my_' || a.attname),
            format('alter table %s rename column %I to %I', relation::regclass, 'my_' || a.attname, a.attname)
        from pg_catalog.pg_index as i
        inner join pg_catalog.pg_attribute as a on a.attrelid = relation and a.attnum = any (i.indkey::int2[])
        where i.indrelid = relation and i.indisprimary and a.attname in ('rpc_migrations_id', 'rpc_migrations_truncated', 'rpc_migrations_place')
        union all
        select 'an index in a tablespace of its own', x.oid::regclass::text,
            format('alter index %s set tablespace pg_default', x.oid::regclass), format('alter index %s set tablespace %I', x.oid::regclass, t.spcname)
        from pg_catalog.pg_index as i
        inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
        inner join pg_catalog.pg_tablespace as t on t.oid = x.reltablespace
        where i.indrelid = relation
        union all
        select 'a security label of provider', concat_ws(' on ', l.provider, nullif(o.what, format('table %s', relation::regclass))),
            format('security label for %I on %s is null', l.provider, o.what), format('security label for %I on %s is %L', l.provider, o.what, l.label)
        from pg_catalog.pg_seclabel as l
        left join pg_catalog.pg_attribute as a on a.attrelid = l.objoid and a.attnum = l.objsubid and l.objsubid > 0
        cross join lateral (
            select case when l.classoid = 'pg_catalog.pg_proc'::regclass then format('routine %s', l.objoid::regprocedure)
                else coalesce(format('column %s.', relation::regclass) || quote_ident(a.attname), format('table %s', relation::regclass)) end as what
        ) as o
        where
            l.objoid = relation and l.classoid = 'pg_catalog.pg_class'::regclass
            or l.classoid = 'pg_catalog.pg_proc'::regclass
            and l.objoid in (select f.object from rpc_migrations.depending('pg_catalog.pg_proc', relation) as f where f.on_rows)
        union all
        select 'an identity sequence that is unlogged', s.oid::regclass::text, format('alter sequence %s set logged', s.oid::regclass),
            format('alter sequence %s set unlogged', s.oid::regclass)
        from rpc_migrations.identity_sequences(relation) as i
        inner join pg_catalog.pg_class as s on s.oid = i.sequence and s.relpersistence <> 'p'
        where (select c.relpersistence from pg_catalog.pg_class as c where c.oid = relation) = 'p'
        union all
        select r.kind, r.name, r.take_away, r.put_back from rpc_migrations.rights_in_the_way(relation) as r
        union all
        select 'a name that something has in the schema rpc_migrations, where the copy lies', x.oid::regclass::text,
            format('alter %s %s rename to %I', k.kind, x.oid::regclass, left(x.relname, 60) || '_1'),
            format('alter %s %I.%I rename to %I', k.kind, x.relnamespace::regnamespace, left(x.relname, 60) || '_1', x.relname)
        from pg_catalog.pg_class as t
        inner join pg_catalog.pg_class as x
            on x.oid in (select i.indexrelid from pg_catalog.pg_index as i where i.indrelid = t.oid)
            or x.oid = t.oid and t.relnamespace not in ('rpc_migrations'::regnamespace, coalesce(to_regnamespace('rpc_migrations_twin'), 0))
            or x.oid in (select s.sequence from rpc_migrations.identity_sequences(t.oid) as s)
        inner join pg_catalog.pg_class as o on o.relnamespace = 'rpc_migrations'::regnamespace and o.relname = x.relname
        cross join lateral (select case x.relkind when 'S' then 'sequence' when 'i' then 'index' else 'table' end as kind) as k
        where
            t.oid = relation
            and not (t.relname = any (rpc_migrations.new_tables()) and (
                x.oid = t.oid
                or exists (
                    select from pg_catalog.pg_depend as d
                    left join pg_catalog.pg_constraint as c on d.refclassid = 'pg_catalog.pg_constraint'::regclass and c.oid = d.refobjid
                    where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = o.oid
                        and to_regclass(format('rpc_migrations.%I', t.relname))
                        in (c.conrelid, case when d.refclassid = 'pg_catalog.pg_class'::regclass then d.refobjid end)
                )
            ))
        union all
        select 'of a kind that is not known here', format('%s (%s)', letter.what, letter.value), null, null
        from (
            select format('constraint %I', c.conname), c.contype::text, 'pufcnxt' from pg_catalog.pg_constraint as c where c.conrelid = relation
            union all
            select format('policy %I', p.polname), p.polcmd::text, 'rawd*' from pg_catalog.pg_policy as p where p.polrelid = relation
            union all
            select format('trigger %I', t.tgname), t.tgenabled::text, 'ODRA' from pg_catalog.pg_trigger as t where t.tgrelid = relation
            union all
            select format('rule %I', r.rulename), r.ev_enabled::text, 'ODRA' from pg_catalog.pg_rewrite as r where r.ev_class = relation
            union all
            select format('column %I', a.attname), k.value, k.known
            from pg_catalog.pg_attribute as a
            cross join lateral (
                values (a.attgenerated::text, 'sv'), (a.attidentity::text, 'ad'), (a.attstorage::text, 'pemx'), (a.attcompression::text, 'lp')
            ) as k (value, known)
            where a.attrelid = relation
            union all
            select 'its replica identity', c.relreplident::text, 'dnfi' from pg_catalog.pg_class as c where c.oid = relation
        ) as letter (what, value, known)
        where strpos(letter.known, letter.value) = 0;
end;
$function$;


-- What depends on a table and is neither known to be carried over nor told above: whatever a catalog may hold that we do not know.
create or replace function rpc_migrations.unknown_dependents(relation oid) returns table (classid oid, objid oid, objsubid integer)
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select distinct d.classid, d.objid, d.objsubid
        from pg_catalog.pg_depend as d
        left join pg_catalog.pg_class as c on d.classid = 'pg_catalog.pg_class'::regclass and c.oid = d.objid
        left join pg_catalog.pg_type as t on d.classid = 'pg_catalog.pg_type'::regclass and t.oid = d.objid
        left join pg_catalog.pg_constraint as k on d.classid = 'pg_catalog.pg_constraint'::regclass and k.oid = d.objid
        left join pg_catalog.pg_attrdef as a on d.classid = 'pg_catalog.pg_attrdef'::regclass and a.oid = d.objid
        left join pg_catalog.pg_trigger as g on d.classid = 'pg_catalog.pg_trigger'::regclass and g.oid = d.objid
        left join pg_catalog.pg_rewrite as r on d.classid = 'pg_catalog.pg_rewrite'::regclass and r.oid = d.objid
        left join pg_catalog.pg_class as v on v.oid = r.ev_class
        left join pg_catalog.pg_proc as p on d.classid = 'pg_catalog.pg_proc'::regclass and p.oid = d.objid
        where
            d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = relation and d.deptype <> 'e'
            and not coalesce(
                c.relkind in ('i', 'S', 't') or t.typrelid = relation or relation in (k.conrelid, k.confrelid) or a.adrelid = relation
                or relation in (g.tgrelid, g.tgconstrrelid) or g.tgisinternal or v.relkind in ('v', 'r', 'm') or p.prokind <> 'a'
                or c.oid in (select i.inhrelid from pg_catalog.pg_inherits as i where i.inhparent = relation),
                false)
            and d.classid not in (
                'pg_catalog.pg_policy'::regclass, 'pg_catalog.pg_publication_rel'::regclass, 'pg_catalog.pg_statistic_ext'::regclass);
end;
$function$;


-- Whether something is a view, or a policy of another table than this, which get their text again (or a materialized view, which is
-- told by itself).
create or replace function rpc_migrations.is_made_by_its_text(catalog oid, object oid, relation oid) returns boolean
language sql stable
set search_path = ''
as $function$
    select
        catalog = 'pg_catalog.pg_rewrite'::regclass and exists (
            select from pg_catalog.pg_rewrite as r
            inner join pg_catalog.pg_class as v on v.oid = r.ev_class
            where r.oid = is_made_by_its_text.object and r.rulename = '_RETURN' and v.relkind in ('v', 'm'))
        or catalog = 'pg_catalog.pg_policy'::regclass and exists (
            select from pg_catalog.pg_policy as p where p.oid = is_made_by_its_text.object and p.polrelid <> is_made_by_its_text.relation);
$function$;


-- What of others depends on the table.
create or replace function rpc_migrations.obstacles_around_the_table(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select 'a table or view of another role that depends on it', format('%s (of %s)', o.oid::regclass, o.relowner::regrole), null, null
        from rpc_migrations.dependents(relation) as d
        inner join pg_catalog.pg_class as o on o.oid = d.dependent
        where not pg_has_role(o.relowner, 'usage') and (
            o.relkind = 'v'
            or exists (select from pg_catalog.pg_constraint as c where c.conrelid = o.oid and c.confrelid = relation and c.contype = 'f'))
        union all
        select 'a policy on a table of another role (in the SQL Editor, take it away before and put it back afterwards)',
            format('%I on %s (of %s)', p.polname, p.polrelid::regclass, o.relowner::regrole),
            format('drop policy %I on %s', p.polname, p.polrelid::regclass), s.statement
        from rpc_migrations.depending('pg_catalog.pg_policy', relation) as d
        inner join pg_catalog.pg_policy as p on p.oid = d.object and p.polrelid <> relation
        inner join pg_catalog.pg_class as o on o.oid = p.polrelid
        cross join lateral rpc_migrations.describe_security(o.oid, o.oid::regclass::text) as s
        where s.kind = 'policy' and s.name = p.polname and not rpc_migrations.may_alter_policies(o.oid)
        union all
        select 'a materialized view on it', v.oid::regclass::text, format('drop materialized view %s', v.oid::regclass),
            concat_ws('; ',
                format('create materialized view %s as %s', v.oid::regclass, trim(trailing ';' from pg_get_viewdef(v.oid))),
                (select string_agg(pg_get_indexdef(i.indexrelid), '; ') from pg_catalog.pg_index as i where i.indrelid = v.oid),
                -- Default privileges may have granted more than there was.
                format('revoke all on table %s from public, anon, authenticated, service_role', v.oid::regclass),
                (select string_agg(format('grant %s on table %s to %s', acl.privilege_type, v.oid::regclass, rpc_migrations.role_name(acl.grantee)), '; ')
                    from aclexplode(v.relacl) as acl where acl.grantee <> v.relowner))
        from rpc_migrations.depending('pg_catalog.pg_rewrite', relation) as d
        inner join pg_catalog.pg_rewrite as r on r.oid = d.object
        inner join pg_catalog.pg_class as v on v.oid = r.ev_class and v.relkind = 'm'
        union all
        select 'a table that inherits from it', i.inhrelid::regclass::text,
            format('alter table %s no inherit %s', i.inhrelid::regclass, relation::regclass),
            format('alter table %s inherit %s', i.inhrelid::regclass, relation::regclass)
        from pg_catalog.pg_inherits as i where i.inhparent = relation
        union all
        select 'a foreign key of a partitioned table that points at it', format('%I on %s', c.conname, c.conrelid::regclass),
            format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname),
            format('alter table %s add constraint %I %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))
        from pg_catalog.pg_constraint as c
        inner join pg_catalog.pg_class as r on r.oid = c.conrelid
        where c.confrelid = relation and c.contype = 'f' and r.relkind = 'p' and c.conparentid = 0
        union all
        select 'a function of another role that mentions it', format('%s (of %s)', p.oid::regprocedure, p.proowner::regrole), null, null
        from rpc_migrations.depending('pg_catalog.pg_proc', relation) as f
        inner join pg_catalog.pg_proc as p on p.oid = f.object
        where not pg_has_role(p.proowner, 'usage')
        union all
        select 'a function of an extension that mentions it', f.object::regprocedure::text, null, null
        from rpc_migrations.depending('pg_catalog.pg_proc', relation) as f
        inner join pg_catalog.pg_depend as d on d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = f.object and d.deptype = 'e'
        union all
        select 'something that depends on a function which takes or returns its rows',
            format('%s, on %s', pg_describe_object(d.classid, d.objid, d.objsubid), f.object::regprocedure),
            case when own.oid is not null then format('drop policy %I on %s', own.polname, relation::regclass) end, (
                select s.statement from rpc_migrations.describe_security(relation, relation::regclass::text) as s
                where s.kind = 'policy' and s.name = own.polname)
        from rpc_migrations.depending('pg_catalog.pg_proc', relation) as f
        inner join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid = f.object
        left join pg_catalog.pg_policy as own on d.classid = 'pg_catalog.pg_policy'::regclass and own.oid = d.objid
        where f.on_rows
            and not rpc_migrations.is_made_by_its_text(d.classid, d.objid, relation)
        union all
        select distinct 'something that uses the type of its rows', pg_describe_object(d.classid, d.objid, d.objsubid), null, null
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_type as t on t.oid = c.reltype
        inner join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_type'::regclass and d.refobjid in (t.oid, t.typarray)
        where c.oid = relation and d.objid <> t.typarray
            and not exists (select from pg_catalog.pg_proc as p where p.oid = d.objid and d.classid = 'pg_catalog.pg_proc'::regclass and p.prokind <> 'a')
            and not rpc_migrations.is_made_by_its_text(d.classid, d.objid, relation)
        union all
        select 'the default of another column that draws from its identity sequence', pg_describe_object(d.classid, d.objid, d.objsubid),
            format('alter table %s alter column %I drop default', a.attrelid::regclass, a.attname),
            format('alter table %s alter column %I set default %s', a.attrelid::regclass, a.attname, pg_get_expr(e.adbin, e.adrelid))
        from rpc_migrations.identity_sequences(relation) as i
        inner join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = i.sequence
        inner join pg_catalog.pg_attrdef as e on d.classid = 'pg_catalog.pg_attrdef'::regclass and e.oid = d.objid
        inner join pg_catalog.pg_attribute as a on a.attrelid = e.adrelid and a.attnum = e.adnum
        inner join pg_catalog.pg_class as o on o.oid = e.adrelid and o.relnamespace <> 'rpc_migrations'::regnamespace
        union all
        select 'a constraint trigger of another table that refers to it', format('%I on %s', g.tgname, g.tgrelid::regclass),
            format('drop trigger %I on %s', g.tgname, g.tgrelid::regclass), pg_get_triggerdef(g.oid)
        from pg_catalog.pg_trigger as g
        where g.tgconstrrelid = relation and not g.tgisinternal and g.tgrelid <> relation
        union all
        select 'something that depends on it', pg_describe_object(u.classid, u.objid, u.objsubid), null, null
        from rpc_migrations.unknown_dependents(relation) as u;
end;
$function$;


-- Everything about a table that cannot be carried over. No row: the table can be rebuilt.
create or replace function rpc_migrations.obstacles(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select o.* from rpc_migrations.obstacles_of_the_table(relation) as o
        union all
        select o.* from rpc_migrations.obstacles_in_the_table(relation) as o
        union all
        select o.* from rpc_migrations.obstacles_around_the_table(relation) as o;
end;
$function$;


-- What is in the way of rebuilding a table, one line a kind: with a number where there are several, and the first names. Null: nothing.
create or replace function rpc_migrations.obstacles_in_words(relation oid) returns text
language sql stable
set search_path = ''
as $function$
    select string_agg(concat(k.kind, k.number, k.names, k.others), E'\n' order by k.place)
    from (
        select
            o.kind, min(o.place) as place,
            case when count(*) > 1 then format(' (%s)', count(*)) end as number,
            ': ' || string_agg(o.name, ', ' order by o.rank) filter (where o.rank <= 3) as names,
            case when count(*) > 3 then format(' and %s more', count(*) - 3) end as others
        from (
            select o.*, row_number() over (partition by o.kind order by o.name) as rank
            from rpc_migrations.obstacles(relation) with ordinality as o (kind, name, take_away, put_back, place)
        ) as o
        group by o.kind
    ) as k;
$function$;


-- The statements that take away what is in the way, and those that put it back after the migration. Null: there are none.
create or replace function rpc_migrations.ways_out(relation oid) returns text
language sql stable
set search_path = ''
as $function$
    select
        E'To take away before:\n' || string_agg(o.take_away || ';', E'\n' order by o.place)
        || E'\nTo put back afterwards:\n' || string_agg(o.put_back || ';', E'\n' order by o.place)
    from rpc_migrations.obstacles(relation) with ordinality as o (kind, name, take_away, put_back, place);
$function$;


-- Checks, under a lock, that the source is still what it was when the copy began and that nothing came to depend on it that
-- cannot be carried over. In a rollback the source is the new table, which only steps aside: there it may have changed.
-- Raises RM003 with what has changed.
create or replace function rpc_migrations.check_source(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    changes text;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        -- A snapshot taken before the lock would hide what was written until then.
        raise exception 'the transaction is "%"', current_setting('transaction_isolation')
        using errcode = 'RM005', hint = 'Run this in a transaction that is "read committed".';
    end if;
    changes := rpc_migrations.obstacles_in_words(copy.source);
    if copy.state <> 'rolling back' and rpc_migrations.table_definition(copy.source) <> copy.definition then
        changes := concat_ws('; ', rpc_migrations.definition_changes(copy.definition, rpc_migrations.table_definition(copy.source)), changes);
    end if;
    if copy.state = 'rolling back' and to_regclass(format('rpc_migrations.log_%s', copy.id)) is not null then
        changes := nullif(concat_ws('; ', rpc_migrations.lost_columns(copy), changes), '');
    end if;
    if to_regclass(format('rpc_migrations.log_%s', copy.id)) is not null and (
        select count(*) <> 2
        from pg_catalog.pg_trigger as t
        where t.tgrelid = copy.source and t.tgname ~ '^rpc_migrations_capture' and t.tgenabled = 'A'
    ) then
        changes := concat_ws('; ', 'its triggers were switched off, so that changes may have been missed', changes);
    end if;
    if changes is not null then
        raise exception '% was altered since the copy began%: %', copy.source::regclass, rpc_migrations.restored_in_words(copy), changes
        using errcode = 'RM003',
            hint = 'No table in use was changed by this. Take the alteration back and run the same command again; or '
                || case copy.state when 'rolling back' then 'give the rollback up with --give-up: the migrated table stays.'
                    else 'roll the migration back (which takes away the copy only) and begin anew.' end;
    end if;
end;
$function$;


-- How something of the old table would be described on the new one, whose columns may be of other types: made on an empty
-- table of the same columns, and undone. Null where it cannot be made there.
create or replace function rpc_migrations.definition_on(target oid, kind text, name text, statement text) returns text
language plpgsql
set search_path = ''
as $function$
declare
    definition text;
begin
    create schema rpc_migrations_scratch;  -- of its own: names of indexes are the schema's, and ours has the new table's
    execute format('create table rpc_migrations_scratch.scratch (like %s)', target::regclass);
    execute definition_on.statement;
    select p.definition into definition
    from rpc_migrations.describe_table('rpc_migrations_scratch.scratch'::regclass, 'rpc_migrations_scratch.scratch', '{}') as p
    where p.kind = definition_on.kind and p.name = definition_on.name;
    raise exception using errcode = 'RM007';
exception when sqlstate 'RM007' then
    return definition;
when others then
    return null;  -- it is another one, then, and refused
end;
$function$;


-- What the new table has under the name of something of the old one's, and is another thing: a plain index in place of a unique
-- one, a permissive policy in place of a restrictive one. One sentence each. What ALTER TABLE has made may be another thing.
create or replace function rpc_migrations.conflicts(source oid, target oid) returns setof text
language sql
set search_path = ''
as $function$
    with
    old_parts as (select p.* from rpc_migrations.describe_table(source, 'rpc_migrations_scratch.scratch', '{}') as p),
    new_parts as (select p.* from rpc_migrations.describe_table(target, target::regclass::text, '{}') as p),
    pairs as (select p.* from rpc_migrations.pairs(source, target) as p)
    select format('%s %I is "%s" in the step file and "%s" now', o.kind, o.name, n.definition, o.definition)
    from old_parts as o
    inner join new_parts as n
        on n.name = o.name and (
            n.kind = o.kind
            or o.phase = 'build' and (n.phase = 'build' or n.kind = 'foreign key') and (
                -- Indexes share their names with each other, and a table's constraints with each other.
                array[o.kind, n.kind] <@ array['index', 'primary key', 'unique constraint', 'exclusion constraint']
                or array[o.kind, n.kind] <@ array[
                    'primary key', 'unique constraint', 'exclusion constraint', 'check constraint', 'foreign key', 'not-null constraint']
            )
        )
    where
        (o.phase = 'build' or o.kind in ('foreign key', 'policy', 'trigger', 'rule'))
        and o.definition is distinct from n.definition
        and not exists (select from pairs as p where p.kind = o.kind and p.old_name = o.name)
        and rpc_migrations.alteration_of(source, target) is null
        and rpc_migrations.definition_on(target, o.kind, o.name, o.statement) is distinct from n.definition;
$function$;


-- Raises RM001 where the new table has something else under a name of the old one's.
create or replace function rpc_migrations.check_conflicts(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    reasons text;
begin
    select string_agg(c, '; ') into reasons from rpc_migrations.conflicts(copy.old_table, copy.new_table) as c;
    if reasons is not null then
        raise exception '% cannot be rebuilt as the step file says: %', copy.old_table::regclass, reasons
        using errcode = 'RM001', hint = 'No table in use was changed. Roll the migration back (which takes away the copy only) and give '
            'these other names in the step file. The old ones are then carried over; drop them after the swap if you do not want them.';
    end if;
end;
$function$;
