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
    select format('constraint %I excludes or has a period (%s)', c.conname, pg_get_constraintdef(c.oid))
    from pg_catalog.pg_constraint as c
    where c.conrelid = relation and (c.contype = 'x' or pg_get_constraintdef(c.oid) ~ '(WITHOUT OVERLAPS|PERIOD )')
    union all
    select format('rule %I', r.rulename)
    from pg_catalog.pg_rewrite as r where r.ev_class = relation
    union all
    select format('column %I has a storage, compression or statistics setting of its own', a.attname)
    from pg_catalog.pg_attribute as a
    inner join pg_catalog.pg_type as t on t.oid = a.atttypid
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
        and (a.attstorage <> t.typstorage or a.attcompression <> '' or a.attstattarget >= 0  -- by default -1, since 17 null
            or rpc_migrations.set_options(a.attoptions) is not null)
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
        and not (d.classid = 'pg_catalog.pg_policy'::regclass and exists (
            select from pg_catalog.pg_policy as p where p.oid = d.objid and p.polrelid = relation))
        and not (d.classid = 'pg_catalog.pg_publication_rel'::regclass)
        and not (d.classid = 'pg_catalog.pg_rewrite'::regclass and exists (
            select from pg_catalog.pg_rewrite as w
            inner join pg_catalog.pg_class as v on v.oid = w.ev_class
            where w.oid = d.objid and (w.ev_class = relation or (v.relkind = 'v' and w.rulename = '_RETURN'))))
    union all
    select format('%s uses its row type', pg_describe_object(d.classid, d.objid, d.objsubid))
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_type as t on t.oid = c.reltype
    inner join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_type'::regclass and d.refobjid in (t.oid, t.typarray)
    where c.oid = relation and d.objid <> t.typarray;
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
