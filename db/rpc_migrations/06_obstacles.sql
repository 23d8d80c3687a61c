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
            select 'it is temporary', null, null, null, null
            where c.relpersistence = 't'
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
            select 'it has no primary key, nor a unique index of columns that may not be null, and values of a type that cannot be compared; '
                'add one (alter table ... add primary key ...)', a.attname::text, null, null, null
            from pg_catalog.pg_attribute as a
            where rpc_migrations.key_index(c.oid) is null and c.relkind = 'r'
                and a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                and not rpc_migrations.can_be_told_apart(a.atttypid)
            union all
            select 'it has no column by which its rows could be told apart', null, null, null, null
            where c.relkind = 'r' and not exists (select from rpc_migrations.key_columns(c.oid))
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


-- Whether an expression has a table in it as a value ('public.things'::regclass): in the new table's it would be the old one.
create or replace function rpc_migrations.has_as_value(expression text, relation oid) returns boolean
language sql stable
set search_path = ''
as $function$
    select
        strpos(expression, format('''%s''::regclass', replace(relation::regclass::text, '''', ''''''))) > 0
        or expression ~ '}''::regclass\[\]'
            and expression ~ format('[{,"]%s[,}"]', regexp_replace(relation::regclass::text, '([^[:alnum:]_])', '\\\1', 'g'));
$function$;


-- The statements that take away a default, a constraint, an index or statistics, and put it back; no row for anything else.
create or replace function rpc_migrations.way_round(catalog oid, object oid) returns table (take_away text, put_back text)
language sql stable
set search_path = ''
as $function$
    select
        format('alter table %s alter column %I drop default', d.adrelid::regclass, a.attname),
        format('alter table %s alter column %I set default %s', d.adrelid::regclass, a.attname, pg_get_expr(d.adbin, d.adrelid))
    from pg_catalog.pg_attrdef as d
    inner join pg_catalog.pg_attribute as a on a.attrelid = d.adrelid and a.attnum = d.adnum
    where way_round.catalog = 'pg_catalog.pg_attrdef'::regclass and d.oid = way_round.object and a.attgenerated = ''
    union all
    select
        format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname),
        format('alter table %s add constraint %I %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))
    from pg_catalog.pg_constraint as c
    where way_round.catalog = 'pg_catalog.pg_constraint'::regclass and c.oid = way_round.object and c.contype in ('c', 'x') and c.conrelid <> 0
    union all
    select format('drop index %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid)
    from pg_catalog.pg_index as i
    where way_round.catalog = 'pg_catalog.pg_class'::regclass and i.indexrelid = way_round.object
    union all
    select format('drop statistics %s.%I', s.stxnamespace::regnamespace, s.stxname), pg_get_statisticsobjdef(s.oid)
    from pg_catalog.pg_statistic_ext as s
    where way_round.catalog = 'pg_catalog.pg_statistic_ext'::regclass and s.oid = way_round.object;
$function$;


-- What of a table has the table itself as a value, and is made before the new one has its name.
create or replace function rpc_migrations.values_of_itself(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select 'something of its own that has it as a value (regclass)', pg_describe_object(s.catalog, s.object, 0), w.take_away, w.put_back
        from (
            select 'pg_catalog.pg_attrdef'::regclass::oid, d.oid, pg_get_expr(d.adbin, d.adrelid) from pg_catalog.pg_attrdef as d where d.adrelid = relation
            union all
            select 'pg_catalog.pg_constraint'::regclass, c.oid, pg_get_constraintdef(c.oid)
            from pg_catalog.pg_constraint as c where c.conrelid = relation and c.contype in ('c', 'x')
            union all
            select 'pg_catalog.pg_class'::regclass, i.indexrelid, pg_get_indexdef(i.indexrelid)
            from pg_catalog.pg_index as i
            where i.indrelid = relation and not exists (select from pg_catalog.pg_constraint as c where c.conindid = i.indexrelid and c.contype = 'x')
            union all
            select 'pg_catalog.pg_statistic_ext'::regclass, x.oid, pg_get_statisticsobjdef(x.oid)
            from pg_catalog.pg_statistic_ext as x where x.stxrelid = relation
        ) as s (catalog, object, expression)
        left join lateral rpc_migrations.way_round(s.catalog, s.object) as w on true
        where rpc_migrations.has_as_value(s.expression, relation);
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
        select 'a column of its key is called as one of ours', a.attname::text,
            format('alter table %s rename column %I to %I', relation::regclass, a.attname, 'my_' || a.attname),
            format('alter table %s rename column %I to %I', relation::regclass, 'my_' || a.attname, a.attname)
        from rpc_migrations.key_columns(relation) as k
        inner join pg_catalog.pg_attribute as a on a.attrelid = relation and a.attnum = k.number
        where a.attname in ('rpc_migrations_id', 'rpc_migrations_truncated', 'rpc_migrations_place', 'rpc_migrations_text')
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
        select 'its replica identity is an index that is gone; set another one (alter table ... replica identity default)', null, null, null
        from pg_catalog.pg_class as c
        where c.oid = relation and c.relreplident = 'i'
            and not exists (select from pg_catalog.pg_index as i where i.indrelid = relation and i.indisreplident)
        union all
        select 'rights on the type of its rows that are not the usual ones', t.typacl::text, null, null
        from pg_catalog.pg_type as t
        cross join lateral acldefault('T', t.typowner) as usual
        where t.typrelid = relation and not (t.typacl operator(pg_catalog.@>) usual and t.typacl operator(pg_catalog.<@) usual)
        union all
        select r.kind, r.name, r.take_away, r.put_back from rpc_migrations.rights_in_the_way(relation) as r
        union all
        select v.kind, v.name, v.take_away, v.put_back from rpc_migrations.values_of_itself(relation) as v
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
        left join pg_catalog.pg_index as i on i.indexrelid = c.oid
        left join pg_catalog.pg_statistic_ext as s on d.classid = 'pg_catalog.pg_statistic_ext'::regclass and s.oid = d.objid
        left join pg_catalog.pg_publication_rel as l on d.classid = 'pg_catalog.pg_publication_rel'::regclass and l.oid = d.objid
        where
            d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = relation and d.deptype <> 'e'
            and not coalesce(
                c.relkind in ('S', 't') or relation in (i.indrelid, s.stxrelid, l.prrelid) or t.typrelid = relation or relation in (k.conrelid, k.confrelid) or a.adrelid = relation
                or relation in (g.tgrelid, g.tgconstrrelid) or g.tgisinternal or v.relkind in ('v', 'r', 'm') or p.prokind <> 'a'
                or c.oid in (select i.inhrelid from pg_catalog.pg_inherits as i where i.inhparent = relation),
                false)
            and d.classid <> 'pg_catalog.pg_policy'::regclass;
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
