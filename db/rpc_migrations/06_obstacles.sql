-- Obstacles: everything that a table may have and that cannot be carried over to its new version. It is refused by name before
-- anything changes, rather than lost, and looked for again under the lock of the swap.

-- One obstacle: its kind, in words that can stand before several names; its name (null: the kind says all); and the statements
-- that remove it and put it back, if there are any. They are put back in the opposite order.
drop type if exists rpc_migrations.obstacle;
create type rpc_migrations.obstacle as (kind text, name text, take_away text, put_back text);


-- The statements for what is set on the triggers of a partition that come from its parent.
create or replace function rpc_migrations.triggers_of_a_partition(relation oid) returns text
language sql stable
set search_path = ''
as $function$
    select string_agg(s.statement, '; ' order by g.tgname)
    from pg_catalog.pg_trigger as g
    cross join lateral rpc_migrations.besides('pg_catalog.pg_trigger'::regclass, g.oid) as s (statement)
    where g.tgrelid = relation and g.tgparentid <> 0 and s.statement <> '';
$function$;


-- Obstacles in what the table itself is.
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
            select
                'it is not an ordinary table, but ' || case c.relkind
                    when 'p' then 'a partitioned one; without the line `-- rebuild:`, ALTER TABLE alters it, and its partitions'
                    when 'v' then 'a view'
                    when 'm' then 'a materialized view'
                    when 'f' then 'a foreign one'
                    else 'one of a type'
                end as kind, null as name, null as other, null as take_away, null as put_back
            where c.relkind <> 'r' or c.reloftype <> 0
            union all
            select 'it is a table of this project''s own, which runs migrations by it', null, null, null, null
            where c.relnamespace in (select rpc_migrations.schemas_of_new_tables())
            union all
            select 'it is temporary', null, null, null, null
            where c.relpersistence = 't'
            union all
            select 'it has a tablespace or an access method of its own', null, null, null, null
            where c.reltablespace <> 0 or m.amname <> 'heap'
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
            select 'it is a partition of', p.parent::text, p.parent::text, 'alter table %2$s detach partition %1$s', concat_ws('; ',
                'alter table %2$s attach partition %1$s ' || replace(pg_get_expr(c.relpartbound, c.oid), '%', '%%'),
                replace(rpc_migrations.triggers_of_a_partition(c.oid), '%', '%%'))
            from (select i.inhparent::regclass as parent from pg_catalog.pg_inherits as i where i.inhrelid = c.oid and c.relispartition) as p
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


-- What "no inherit" and then "inherit" do not restore, as SQL comments; "" if they restore everything.
create or replace function rpc_migrations.loss_of_inheritance(child oid, parent oid, other_parents_stay boolean) returns text
language sql stable
set search_path = ''
as $function$
    select concat(
        case when exists (select from pg_catalog.pg_attribute as a where a.attrelid = child and a.attinhcount > 0 and not a.attislocal)
            or exists (select from pg_catalog.pg_constraint as c where c.conrelid = child and c.coninhcount > 0 and not c.conislocal)
            then format(E'-- From here on the columns and constraints of %s are its own as well:\n-- what %s drops later, it keeps.\n', child::regclass, parent::regclass)
        end,
        case when other_parents_stay and exists (
            select from pg_catalog.pg_inherits as i
            inner join pg_catalog.pg_inherits as o on o.inhrelid = i.inhrelid and o.inhseqno > i.inhseqno
            where i.inhrelid = child and i.inhparent = parent
        ) then format(E'-- %s comes after the other parents of %s then.\n', parent::regclass, child::regclass) end);
$function$;


-- The table's parents and children as obstacles, to be put back in their order.
create or replace function rpc_migrations.inheritance_in_the_way(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            case when i.inhrelid = relation then 'it inherits from' else 'a table that inherits from it' end,
            case when i.inhrelid = relation then i.inhparent else i.inhrelid end::regclass::text,
            rpc_migrations.loss_of_inheritance(i.inhrelid, i.inhparent, i.inhparent = relation)
            || format('alter table %s no inherit %s', i.inhrelid::regclass, i.inhparent::regclass),
            format('alter table %s inherit %s', i.inhrelid::regclass, i.inhparent::regclass)
        from pg_catalog.pg_inherits as i
        inner join pg_catalog.pg_class as p on p.oid = i.inhparent and p.relkind <> 'p'  -- that it is partitioned, or a partition, is told elsewhere
        where relation in (i.inhrelid, i.inhparent)
        order by i.inhseqno desc;
end;
$function$;


-- Rights that cannot be granted again as they are: those granted by another role than the owner, and those taken from the owner, who
-- needs them to copy rows; and an owner who is not us. The latest grants come first, because a right can only be revoked from
-- somebody who has not granted it further.
create or replace function rpc_migrations.rights_in_the_way(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        with things as (
            select 'pg_catalog.pg_class'::regclass as catalog, relation as object
            union all
            select 'pg_catalog.pg_class', s.sequence from rpc_migrations.identity_sequences(relation) as s
            union all
            select 'pg_catalog.pg_proc', f.object from rpc_migrations.depending('pg_catalog.pg_proc', relation) as f where f.on_rows
        )
        (
            select
                case when r.is_taken then 'a right that was taken from its owner' else 'a right that another role than the owner has granted' end,
                concat(r.privilege, ' on ', r.name, case when not r.is_taken then ' by ' || rpc_migrations.role_name(r.grantor) end),
                case when r.is_taken then format('grant %s on %s to %s', r.privilege, r.name, r.owner::regrole)
                    else format('set role %s; revoke %s on %s from %s; reset role', r.grantor::regrole, r.privilege, r.name, rpc_migrations.role_name(r.grantee)) end,
                case when r.is_taken then format('revoke %s on %s from %s', r.privilege, r.name, r.owner::regrole)
                    else rpc_migrations.grant_statement(r.privilege, r.name, r.owner, r.grantor, r.grantee, r.is_grantable) end
            from things as t
            cross join lateral rpc_migrations.rights_on(t.catalog, t.object) as r
            where r.is_taken or r.grantor <> r.owner
            order by r.is_taken, r.place desc
        )
        union all
        -- What its checks, defaults and index expressions call is up to its owner, and would run as us. While the table is ours, rights
        -- granted to us are merged with the owner's: they are granted again when it goes back.
        select
            format('it belongs to %s, not to %s', c.relowner::regrole, current_user::regrole), null,
            format('alter table %s owner to %s', c.oid::regclass, current_user::regrole),
            concat_ws('; ', format('alter table %s owner to %s', c.oid::regclass, c.relowner::regrole), (
                select nullif(concat_ws('; ',
                    string_agg(format('revoke %s on %s from %s', r.privilege, r.name, r.owner::regrole), '; ') filter (where r.is_of_column and r.grantee <> r.owner),
                    string_agg(rpc_migrations.grant_statement(r.privilege, r.name, r.owner, r.grantor, r.grantee, r.is_grantable), '; ' order by r.place)), '')
                from (
                    select c.oid as object
                    union all
                    select d.objid from pg_catalog.pg_depend as d
                    where d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = c.oid and d.classid = d.refclassid and d.deptype in ('a', 'i')
                ) as o
                cross join lateral rpc_migrations.rights_on('pg_catalog.pg_class'::regclass, o.object) as r
                where r.grantor = r.owner and not r.is_taken and (r.grantee = current_user::regrole or r.grantee = r.owner and r.is_of_column)
            ))
        from pg_catalog.pg_class as c
        where c.oid = relation and c.relowner <> current_user::regrole;
end;
$function$;


-- Whether an expression has a table in it as a value ('public.things'::regclass): in the new table it would mean the old one.
create or replace function rpc_migrations.has_as_value(expression text, relation oid) returns boolean
language sql stable
set search_path = ''
as $function$
    select
        strpos(expression, format('''%s''::regclass', replace(relation::regclass::text, '''', ''''''))) > 0
        or expression ~ '}''::regclass\[\]'
            and expression ~ format('[{,"]%s[,}"]', rpc_migrations.as_pattern(relation::regclass::text));
$function$;


-- Obstacles: parts of a table that have the table itself as a value, and are made before the new one has its name.
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


-- Obstacles: parts of a table whose kind is a letter that is unknown here, a later PostgreSQL's.
create or replace function rpc_migrations.parts_of_unknown_kinds(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select 'of an unknown kind', format('%s (%s)', letter.what, letter.value), null, null
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


-- Obstacles in what belongs to the table.
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
        select 'a column of its key has a name that this project needs itself', a.attname::text,
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
        where l.objoid = relation and l.classoid = 'pg_catalog.pg_class'::regclass
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
        select v.kind, v.name, v.take_away, v.put_back from rpc_migrations.values_of_itself(relation) as v
        union all
        select u.* from rpc_migrations.parts_of_unknown_kinds(relation) as u
        union all
        select r.kind, r.name, r.take_away, r.put_back from rpc_migrations.rights_in_the_way(relation) as r;
end;
$function$;


-- What depends on a table and is neither known to be carried over nor named above: anything that a catalog may have and we do not know.
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


-- All obstacles to rebuilding a table. No row: it can be rebuilt.
create or replace function rpc_migrations.obstacles(relation oid) returns setof rpc_migrations.obstacle
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select o.* from rpc_migrations.obstacles_of_the_table(relation) as o;
    if (select c.relkind from pg_catalog.pg_class as c where c.oid = relation) <> 'r' then
        return;  -- what is in it, and around it, would only hide that
    end if;
    return query
        select o.* from rpc_migrations.inheritance_in_the_way(relation) as o
        union all
        select o.* from rpc_migrations.obstacles_in_the_table(relation) as o
        union all
        select o.* from rpc_migrations.obstacles_of_other_owners(relation) as o
        union all
        select o.* from rpc_migrations.obstacles_to_be_put_back(relation) as o;
end;
$function$;


-- The obstacles to rebuilding a table, one line for each kind, with the number if there are several, and the first names. Null: none.
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


-- The statements that remove the obstacles, and those that put them back after the migration. Null: there are none.
create or replace function rpc_migrations.ways_out(relation oid) returns text
language sql stable
set search_path = ''
as $function$
    select
        E'To remove before:\n' || string_agg(o.take_away || ';', E'\n' order by o.place)
        || E'\nTo put back afterwards:\n' || string_agg(o.put_back || ';', E'\n' order by o.place desc)
    from rpc_migrations.obstacles(relation) with ordinality as o (kind, name, take_away, put_back, place);
$function$;
