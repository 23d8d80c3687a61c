-- What a table looks like: all that belongs to it or depends on it, each as the statement that makes it again. The same list
-- serves three ends: to make on the new table what the step file did not, to see whether somebody altered the old table
-- in the meantime, and to make again in the swap what mentions the table by name.
--
-- What if a later PostgreSQL keeps something in its catalogs that is unknown here? (The releases of November 2026 began to keep
-- an option of their own with every column.) Options: names that begin with pg_ are PostgreSQL's own and not ours to carry
-- (its documentation of pg_attribute says so), see set_options. Privileges: aclexplode names them as GRANT takes them.
-- Objects: whatever depends on the table and is not known to be carried over is an obstacle (unknown_dependents). Letters that
-- stand for a kind of constraint, policy, trigger or column: unknown ones are obstacles, too. Statements come from PostgreSQL's
-- own pg_get_...def wherever there is one.
--
-- Functions that are called many times in a run, some of them under the locks of the swap, are PL/pgSQL, whose plans a session
-- keeps: up to PostgreSQL 17 an SQL function is planned at each call, and these queries take longer to plan than to run.

-- Those of the options in reloptions or attoptions that somebody has set; null if there are none.
create or replace function rpc_migrations.set_options(options text[]) returns text[]
language plpgsql immutable
set search_path = ''
as $function$
begin
    if options is null then  -- most have none
        return null;
    end if;
    return (
        select array_agg(o.setting order by o.place)
        from unnest(options) with ordinality as o (setting, place)
        where not starts_with(o.setting, 'pg_')
    );
end;
$function$;


-- A role as GRANT and CREATE POLICY take it: quoted, and 0 is everybody.
create or replace function rpc_migrations.role_name(role oid) returns text
language plpgsql stable
set search_path = ''
as $function$
begin
    return case role when 0 then 'public' else role::regrole::text end;
end;
$function$;


-- One thing that belongs to a table or depends on it: its kind; its name; its definition without the name and the table (null if
-- the name says all); the statement that makes it on the table "as_name"; the statement that must come first to detach it from
-- the table that it is on (null: none); and when it is carried over ("phase"): before the copy (columns), after it (build),
-- in the swap (swap), or along with something else, of which it is a part (along).
drop type if exists rpc_migrations.part;
create type rpc_migrations.part as (phase text, kind text, name text, definition text, statement text, detach text);


-- Whether a column that is "not null" may hold a NULL all the same: PostgreSQL 18 has such constraints that are not valid.
create or replace function rpc_migrations.may_hold_null(relation oid, attnum smallint) returns boolean
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        select exists (
            select from pg_catalog.pg_constraint as c
            where c.conrelid = relation and c.contype = 'n' and c.conkey = array[may_hold_null.attnum] and not c.convalidated
        )
    );
end;
$function$;


-- The columns as statements: each with its place; with the last place that it is generated from, else its own ("needs"); and with its
-- default apart, because the statement that adds a column would evaluate it, and what it calls would find nothing by the empty
-- search_path here.
create or replace function rpc_migrations.columns_of(relation oid, as_name text)
returns table (name text, place smallint, needs integer, is_generated boolean, declaration text, default_statement text)
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            a.attname::text, a.attnum,
            greatest(a.attnum, (
                select max(p.refobjsubid)
                from pg_catalog.pg_depend as p
                where p.refclassid = 'pg_catalog.pg_class'::regclass and p.refobjid = a.attrelid and a.attgenerated <> ''
                    and (p.classid, p.objid, p.objsubid) in (
                        ('pg_catalog.pg_class'::regclass, a.attrelid, a.attnum), ('pg_catalog.pg_attrdef'::regclass, d.oid, 0))
            )),
            a.attgenerated <> '',
            format('%I %s%s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                case when a.attcollation <> t.typcollation then ' collate ' || a.attcollation::regcollation end,
                case
                    when a.attgenerated = 's' then format(' generated always as (%s) stored', e.text)
                    when a.attgenerated = 'v' then format(' generated always as (%s) virtual', e.text)
                    when a.attidentity <> '' then format(
                        ' generated %s as identity (sequence name %I.%I increment by %s minvalue %s maxvalue %s start with %s cache %s %s)',
                        case a.attidentity when 'a' then 'always' else 'by default' end, (parse_ident(as_name))[1], s.relname,
                        q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache,
                        case when q.seqcycle then 'cycle' else 'no cycle' end)
                end,
                case when a.attnotnull and not a.attnum = any (n.not_valid) then
                    case when a.attnum = any (n.not_inherited) then ' not null no inherit' else ' not null' end
                end),
            case when d.adbin is not null and a.attgenerated = '' then format('; alter table %s alter column %I set default %s', as_name, a.attname, e.text) end
        from (
            -- What only PostgreSQL 18 and later knows, asked once for all columns, of which there may be hundreds.
            select
                coalesce(array_agg(c.conkey[1]) filter (where not c.convalidated), '{}') as not_valid,
                coalesce(array_agg(c.conkey[1]) filter (where c.connoinherit), '{}') as not_inherited
            from pg_catalog.pg_constraint as c
            where c.conrelid = relation and c.contype = 'n'
        ) as n
        cross join pg_catalog.pg_attribute as a
        inner join pg_catalog.pg_type as t on t.oid = a.atttypid
        left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        cross join lateral (select rpc_migrations.parsed_alike(pg_get_expr(d.adbin, d.adrelid), d.adbin::text) as text) as e
        left join pg_catalog.pg_depend as o
            on o.refclassid = 'pg_catalog.pg_class'::regclass and o.refobjid = a.attrelid and o.refobjsubid = a.attnum
            and o.classid = 'pg_catalog.pg_class'::regclass and o.deptype = 'i' and a.attidentity <> ''
        left join pg_catalog.pg_sequence as q on q.seqrelid = o.objid
        left join pg_catalog.pg_class as s on s.oid = o.objid
        where a.attrelid = relation and a.attnum > 0 and not a.attisdropped;
end;
$function$;


-- The columns, to be added one by one in their order; one that is generated from a later one comes after that.
create or replace function rpc_migrations.describe_columns(relation oid, as_name text) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select 'columns', 'column', c.name, null, concat(format('alter table %s add column ', as_name), c.declaration, c.default_statement), null
        from rpc_migrations.columns_of(relation, as_name) as c
        order by c.needs, c.is_generated, c.place;
end;
$function$;


-- The statement that makes a table with the columns that cannot be added one by one in their order: all up to the last one that an
-- earlier one is generated from. As a rule there are none, and this is null.
create or replace function rpc_migrations.create_statement(relation oid, as_name text) returns text
language sql stable
set search_path = ''
as $function$
    with
    columns as (select c.* from rpc_migrations.columns_of(relation, as_name) as c),
    first as (
        select c.*
        from columns as c
        where c.place <= (select max(l.needs) from columns as l where l.needs > l.place)
    )
    select concat(
        format('create table %s (%s)', as_name, string_agg(f.declaration, ', ' order by f.place)),
        string_agg(f.default_statement, '' order by f.place))
    from first as f;
$function$;


-- What is set for single columns: storage and compression (which a column of another type may not take), the size of its
-- statistics, and options.
create or replace function rpc_migrations.describe_column_settings(relation oid, as_name text) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            'columns', 'column setting', format('%s of %I', s.what, a.attname), s.value,
            format('alter table %s alter column %I set %s', as_name, a.attname, s.clause), null
        from pg_catalog.pg_attribute as a
        inner join pg_catalog.pg_type as t on t.oid = a.atttypid
        cross join lateral (
            select 'storage' as what, a.attstorage::text as value, 'storage ' || case a.attstorage
                when 'p' then 'plain' when 'e' then 'external' when 'm' then 'main' else 'extended' end as clause
            where a.attstorage <> t.typstorage
            union all
            select 'compression', a.attcompression::text, 'compression ' || case a.attcompression when 'l' then 'lz4' else 'pglz' end
            where a.attcompression <> ''
            union all
            -- by default -1, since 17 null
            select 'statistics', a.attstattarget::text, 'statistics ' || a.attstattarget where a.attstattarget >= 0
            union all
            select split_part(o.setting, '=', 1), o.setting, format('(%s)', o.setting)
            from unnest(rpc_migrations.set_options(a.attoptions)) as o (setting)
        ) as s
        where a.attrelid = relation and a.attnum > 0 and not a.attisdropped;
end;
$function$;


-- The foreign keys that were removed from a table, under the names that they will have (see 13_foreign_keys.sql), without those whose
-- other table was dropped since: they would be gone, too. (Another table may have its name by now. If none has, somebody has renamed or moved
-- it, and they follow it, unless a migration has moved it aside.) A new table has a stand-in for each, a check that is always true: a step can
-- validate, rename, describe and drop it as it could the key itself, and its OID keeps the key's place among the others.
create or replace function rpc_migrations.taken_off_keys(relation oid)
returns table (name name, refers_to oid, definition text, is_valid boolean, comment text, stand_in name, place oid)
language plpgsql stable rows 2
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            coalesce(s.conname, k.name), k.refers_to::oid,
            case when to_regclass(n.parent) is null and c.oid is not null and not exists (
                    select
                    from rpc_migrations.copies as o
                    where o.state in ('swapped', 'rolling back', 'rolled back')
                        and c.oid = case o.state when 'rolled back' then o.new_table else o.old_table end)
                then replace(k.definition, format(' REFERENCES %s(', n.parent), format(' REFERENCES %s(', k.refers_to))
                else k.definition end,
            k.is_valid, coalesce(obj_description(s.oid, 'pg_constraint'), k.comment), s.conname, s.oid
        from rpc_migrations.foreign_keys as k
        cross join lateral (select substring(k.definition from ' REFERENCES ((?:"[^"]*"|[^"(])+)\(')) as n (parent)
        left join pg_catalog.pg_class as c on c.oid = k.refers_to
        left join pg_catalog.pg_constraint as s on s.oid = k.stand_in
        where k.relation = taken_off_keys.relation and (
            s.oid is not null or k.stand_in is null and (c.oid is not null or to_regclass(n.parent) is not null)
        );
end;
$function$;


-- What decides the order in which foreign keys act when a row that they point at is deleted: the name of the key's trigger, which ends
-- in a number that grows from key to key. (As names, "100000" comes before "20000".) So the order in which keys are made decides whether
-- a key that cascades deletes a row before another key restricts that, or sets a NOT NULL column to null.
create or replace function rpc_migrations.acts_by(key oid) returns name
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        select t.tgname
        from pg_catalog.pg_trigger as t
        where t.tgconstraint = key
        order by t.tgtype::integer & 8 = 0, t.tgname  -- 8: fires on DELETE; none where the key is not enforced
        limit 1
    );
end;
$function$;


-- The names of a table's foreign keys that point at others, in the order in which they act.
create or replace function rpc_migrations.keys_in_order(relation oid) returns name[]
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return array(
        select c.conname
        from pg_catalog.pg_constraint as c
        where c.conrelid = relation and c.contype = 'f' and c.confrelid <> relation and c.conparentid = 0
        order by rpc_migrations.acts_by(c.oid), c.oid
    );
end;
$function$;


-- A constraint as ALTER TABLE takes it: with the options of its index, which pg_get_constraintdef leaves out for keys.
create or replace function rpc_migrations.constraint_definition(con pg_catalog.pg_constraint) returns text
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        select left(d.definition, length(d.definition) - length(d.timing)) || o.options || d.timing
        from (
            select
                rpc_migrations.parsed_alike(pg_get_constraintdef(con.oid), concat(con.conbin::text, (
                    select concat(i.indexprs::text, i.indpred::text)
                    from pg_catalog.pg_index as i where i.indexrelid = con.conindid and con.contype = 'x'
                ))) as definition,
                case when con.contype in ('p', 'u') and con.condeferrable then ' DEFERRABLE' || case when con.condeferred then ' INITIALLY DEFERRED' else '' end
                    else '' end as timing
        ) as d
        cross join lateral (
            select coalesce((
                select ' WITH (' || string_agg(format('%I = %L', split_part(s.setting, '=', 1), substr(s.setting, strpos(s.setting, '=') + 1)), ', ') || ')'
                from pg_catalog.pg_class as x
                cross join lateral unnest(rpc_migrations.set_options(x.reloptions)) as s (setting)
                where x.oid = con.conindid and con.contype in ('p', 'u')
            ), '') as options
        ) as o
    );
end;
$function$;


-- The table's own constraints, foreign keys that were removed from it among them. (A foreign key that points at the table itself is one
-- of those that point at it, see describe_keys_to.) A table has at most one primary key, so its definition need not say more. Not-null
-- constraints, which have names of their own since 18, come with their column, unless they are not valid. Foreign keys come in the
-- order in which they act, to be made in that order.
create or replace function rpc_migrations.describe_constraints(relation oid, as_name text) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        (select
            case when c.contype = 'n' and c.convalidated then 'along' when c.contype = 'f' then 'swap' else 'build' end,
            case c.contype
                when 'p' then 'primary key' when 'u' then 'unique constraint' when 'c' then 'check constraint' when 'f' then 'foreign key'
                when 'x' then 'exclusion constraint' else 'not-null constraint' end,
            c.conname::text,
            case when c.contype = 'p' then 'the primary key' else regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', '') end,
            format('alter table %s add constraint %I %s%s', as_name, c.conname,
                case when c.contype = 'n' then pg_get_constraintdef(c.oid) else rpc_migrations.constraint_definition(c) end,
                case when c.contype = 'f' and c.convalidated then ' not valid' end),
            null
        from pg_catalog.pg_constraint as c
        where
            c.conrelid = describe_constraints.relation and c.contype in ('p', 'u', 'c', 'f', 'x', 'n')
            and c.confrelid <> describe_constraints.relation
            -- One that points at a partitioned table has others of its own, which point at the partitions.
            and (c.contype <> 'f' or c.conparentid = 0)
            and not exists (select from rpc_migrations.foreign_keys as k where k.stand_in = c.oid)
        order by case when c.contype = 'f' then rpc_migrations.acts_by(c.oid) end nulls first, c.oid)
        union all
        select 'swap', 'foreign key', k.name::text, k.definition, format('alter table %s add constraint %I %s', as_name, k.name, k.definition), null
        from rpc_migrations.taken_off_keys(describe_constraints.relation) as k;
end;
$function$;


-- The condition that the row "alias" lacks the parent that a foreign key wants, by the key's own operators, which decide what is equal; or,
-- with MATCH FULL, is NULL in some of the key's columns only.
create or replace function rpc_migrations.orphan_condition(key oid, alias text) returns text
language sql stable
set search_path = ''
as $function$
    select format(
        case when k.confmatchtype = 'f' then '(%1$s and not exists (select from %2$s as p where %3$s) or (%4$s) and not (%1$s))'
            else '%1$s and not exists (select from %2$s as p where %3$s)' end,
        string_agg(format('%s.%I is not null', alias, c.attname), ' and ' order by u.place),
        concat(case when r.relkind <> 'p' then 'only ' end, k.confrelid::regclass),
        string_agg(format('p.%I %s %s.%I', p.attname, case when o.oprnamespace = 'pg_catalog'::regnamespace then o.oprname::text
            else format('operator(%s.%s)', o.oprnamespace::regnamespace, o.oprname) end, alias, c.attname), ' and ' order by u.place),
        string_agg(format('%s.%I is not null', alias, c.attname), ' or ' order by u.place))
    from pg_catalog.pg_constraint as k
    cross join lateral unnest(k.conkey, k.confkey, k.conpfeqop) with ordinality as u (child, parent, operator, place)
    inner join pg_catalog.pg_operator as o on o.oid = u.operator
    inner join pg_catalog.pg_attribute as c on c.attrelid = k.conrelid and c.attnum = u.child
    inner join pg_catalog.pg_attribute as p on p.attrelid = k.confrelid and p.attnum = u.parent
    inner join pg_catalog.pg_class as r on r.oid = k.confrelid
    where k.oid = key
    group by k.confrelid, k.confmatchtype, r.relkind;
$function$;
