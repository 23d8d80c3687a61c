-- What is in the way: all that a table may have and that cannot be carried over to its new version. It is refused by name
-- before anything changes, rather than lost, and looked for again under the lock of the swap.

-- Everything about a table that cannot be carried over, in words. No row: the table can be rebuilt.
create or replace function rpc_migrations.obstacles(relation oid) returns setof text
language sql stable
set search_path = ''
as $function$
    select 'it is not an ordinary table'
    from pg_catalog.pg_class as c where c.oid = relation and (c.relkind <> 'r' or c.reloftype <> 0)
    union all
    select 'it is unlogged or temporary'
    from pg_catalog.pg_class as c where c.oid = relation and c.relpersistence <> 'p'
    union all
    select 'it has a tablespace or an access method of its own'
    from pg_catalog.pg_class as c inner join pg_catalog.pg_am as m on m.oid = c.relam
    where c.oid = relation and (c.reltablespace <> 0 or m.amname <> 'heap')
    union all
    -- What its checks, defaults and index expressions call would run as us, while its owner decides what that is.
    select format('it belongs to %1$s, not to %2$s; run: alter table %3$s owner to %2$s; and afterwards: alter table %3$s owner to %1$s',
        c.relowner::regrole, current_user::regrole, c.oid::regclass)
    from pg_catalog.pg_class as c where c.oid = relation and c.relowner <> current_user::regrole
    union all
    select format('%s, which depends on it, belongs to %s, whose rights %s does not have', o.oid::regclass, o.relowner::regrole, current_user)
    from pg_catalog.pg_class as o
    where not pg_has_role(o.relowner, 'usage') and o.oid in (select d.dependent from rpc_migrations.dependents(relation) as d)
    union all
    select 'row level security is forced on its owner, who may not bypass it'
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_roles as r on r.rolname = current_user
    where c.oid = relation and c.relforcerowsecurity and not (r.rolbypassrls or r.rolsuper)
    union all
    select 'it has no primary key; add one (alter table ... add primary key ...)'
    where not exists (select from pg_catalog.pg_index as i where i.indrelid = relation and i.indisprimary and i.indisvalid)
    union all
    select format('it inherits from %s or is a partition of it', i.inhparent::regclass)
    from pg_catalog.pg_inherits as i where i.inhrelid = relation
    union all
    select format('rule %I', r.rulename)
    from pg_catalog.pg_rewrite as r where r.ev_class = relation
    union all
    select format('its primary key %I has a period', c.conname)
    from pg_catalog.pg_constraint as c
    where c.conrelid = relation and c.contype = 'p' and pg_get_constraintdef(c.oid) ~ ' WITHOUT OVERLAPS'
    union all
    select format('%s is of a kind that is not known here (%s)', letter.what, letter.value)
    from (
        select format('constraint %I', c.conname), c.contype::text, 'pufcnxt' from pg_catalog.pg_constraint as c where c.conrelid = relation
        union all
        select format('policy %I', p.polname), p.polcmd::text, 'rawd*' from pg_catalog.pg_policy as p where p.polrelid = relation
        union all
        select format('trigger %I', t.tgname), t.tgenabled::text, 'ODRA' from pg_catalog.pg_trigger as t where t.tgrelid = relation
        union all
        select format('column %I', a.attname), a.attgenerated::text, 'sv' from pg_catalog.pg_attribute as a where a.attrelid = relation
        union all
        select format('column %I', a.attname), a.attidentity::text, 'ad' from pg_catalog.pg_attribute as a where a.attrelid = relation
        union all
        select format('column %I', a.attname), a.attstorage::text, 'pemx' from pg_catalog.pg_attribute as a where a.attrelid = relation
        union all
        select format('column %I', a.attname), a.attcompression::text, 'lp' from pg_catalog.pg_attribute as a where a.attrelid = relation
        union all
        select format('rule %I', r.rulename), r.ev_enabled::text, 'ODRA' from pg_catalog.pg_rewrite as r where r.ev_class = relation
        union all
        select 'its replica identity', c.relreplident::text, 'dnfi' from pg_catalog.pg_class as c where c.oid = relation
    ) as letter (what, value, known)
    where strpos(letter.known, letter.value) = 0
    union all
    select format('index %s is in a tablespace of its own', x.oid::regclass)
    from pg_catalog.pg_index as i
    inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
    where i.indrelid = relation and x.reltablespace <> 0
    union all
    select 'a subscription feeds it'
    from pg_catalog.pg_subscription_rel as s where s.srrelid = relation
    union all
    select format('security label of provider %s', l.provider)
    from pg_catalog.pg_seclabel as l where l.objoid = relation and l.classoid = 'pg_catalog.pg_class'::regclass
    union all
    select format('it is part of extension %s', pg_describe_object(d.refclassid, d.refobjid, 0))
    from pg_catalog.pg_depend as d
    where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = relation and d.deptype = 'e'
    union all
    select format('foreign key %I of the partitioned table %s points at it', c.conname, c.conrelid::regclass)
    from pg_catalog.pg_constraint as c
    inner join pg_catalog.pg_class as r on r.oid = c.conrelid
    where c.confrelid = relation and c.contype = 'f' and (r.relkind <> 'r' or c.conparentid <> 0)
    union all
    select format('%s depends on it', pg_describe_object(d.classid, d.objid, d.objsubid))
    from pg_catalog.pg_depend as d
    where d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = relation and d.deptype <> 'e'
        and not (d.classid = 'pg_catalog.pg_class'::regclass and exists (
            select from pg_catalog.pg_class as c where c.oid = d.objid and c.relkind in ('i', 'S', 't')))
        and not (d.classid = 'pg_catalog.pg_type'::regclass and d.objsubid = 0 and exists (
            select from pg_catalog.pg_type as t where t.oid = d.objid and t.typrelid = relation))
        and not (d.classid = 'pg_catalog.pg_constraint'::regclass and exists (
            select from pg_catalog.pg_constraint as c where c.oid = d.objid and relation in (c.conrelid, c.confrelid)))
        and not (d.classid = 'pg_catalog.pg_attrdef'::regclass and exists (
            select from pg_catalog.pg_attrdef as a where a.oid = d.objid and a.adrelid = relation))
        and not (d.classid = 'pg_catalog.pg_trigger'::regclass and exists (
            select from pg_catalog.pg_trigger as t where t.oid = d.objid and (t.tgrelid = relation or t.tgisinternal)))
        and not (d.classid = 'pg_catalog.pg_rewrite'::regclass and exists (
            select from pg_catalog.pg_rewrite as w
            inner join pg_catalog.pg_class as v on v.oid = w.ev_class
            where w.oid = d.objid and (v.relkind in ('v', 'r') )))
        and not (d.classid = 'pg_catalog.pg_proc'::regclass and exists (
            select from pg_catalog.pg_proc as p where p.oid = d.objid and p.prokind <> 'a'))
        and d.classid not in (
            'pg_catalog.pg_policy'::regclass, 'pg_catalog.pg_publication_rel'::regclass, 'pg_catalog.pg_statistic_ext'::regclass)
    union all
    select format('%s uses its row type', pg_describe_object(d.classid, d.objid, d.objsubid))
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_type as t on t.oid = c.reltype
    inner join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_type'::regclass and d.refobjid in (t.oid, t.typarray)
    where c.oid = relation and d.objid <> t.typarray
        and not (d.classid = 'pg_catalog.pg_proc'::regclass and exists (
            select from pg_catalog.pg_proc as p where p.oid = d.objid and p.prokind <> 'a'))
    union all
    select format('%s takes or returns its rows, and %s depends on that function', f.object::regprocedure,
        pg_describe_object(d.classid, d.objid, d.objsubid))
    from rpc_migrations.depending('pg_catalog.pg_proc', relation) as f
    inner join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid = f.object
    where f.on_rows
    union all
    select format('%s, which mentions it, belongs to %s, whose rights %s does not have', p.oid::regprocedure, p.proowner::regrole, current_user)
    from rpc_migrations.depending('pg_catalog.pg_proc', relation) as f
    inner join pg_catalog.pg_proc as p on p.oid = f.object
    where not pg_has_role(p.proowner, 'usage')
    union all
    select format('%s, which mentions it, is part of an extension', f.object::regprocedure)
    from rpc_migrations.depending('pg_catalog.pg_proc', relation) as f
    inner join pg_catalog.pg_depend as d on d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = f.object and d.deptype = 'e';
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
    select string_agg(o, '; ') into changes from rpc_migrations.obstacles(copy.source) as o;
    if copy.state <> 'rolling back' and rpc_migrations.table_definition(copy.source) <> copy.definition then
        changes := concat_ws('; ', rpc_migrations.definition_changes(copy.definition, rpc_migrations.table_definition(copy.source)), changes);
    end if;
    if to_regclass(format('rpc_migrations.log_%s', copy.id)) is not null and (
        select count(*) <> 2
        from pg_catalog.pg_trigger as t
        where t.tgrelid = copy.source and t.tgname ~ '^rpc_migrations_capture' and t.tgenabled = 'A'
    ) then
        changes := concat_ws('; ', 'its triggers were switched off, so that changes may have been missed', changes);
    end if;
    if changes is not null then
        raise exception '% was altered since the copy began: %', copy.source::regclass, changes
        using errcode = 'RM003',
            hint = 'No table in use was changed by this. Take the alteration back and run the same command again; or, before '
                'the swap, roll the migration back (which takes away the copy only) and begin anew.';
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
-- one, a permissive policy in place of a restrictive one. One sentence each.
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
        on n.name = o.name and (n.kind = o.kind or (o.phase = 'build' and n.phase = 'build' and 'policy' not in (o.kind, n.kind)))
    where
        (o.phase = 'build' or o.kind in ('policy', 'trigger', 'rule'))
        and o.definition is distinct from n.definition
        and not exists (select from pairs as p where p.kind = o.kind and p.old_name = o.name)
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
