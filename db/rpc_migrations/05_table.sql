-- What a table looks like: all that belongs to it or depends on it, each as the statement that makes it again. The same list
-- serves three ends: to make on the new table what the step file did not, to see whether somebody altered the old table
-- in the meantime, and to make again in the swap what mentions the table by name.
--
-- What if a later PostgreSQL keeps something in its catalogs that we do not know? (The releases of November 2026 began to
-- keep an option of their own with every column.) Options: names that begin with pg_ are PostgreSQL's own and are not
-- ours to carry (its documentation of pg_attribute says so), see set_options. Privileges: aclexplode names them as GRANT takes
-- them. Objects: whatever depends on the table and is not listed in "obstacles" as known is one. Letters that stand for
-- a kind of constraint, policy, trigger or column: those that we do not know are obstacles, too. Statements come from
-- PostgreSQL's own pg_get_...def wherever there is one.

-- The options that somebody has set, of those in reloptions or attoptions; null where there are none.
create or replace function rpc_migrations.set_options(options text[]) returns text[]
language sql immutable
set search_path = ''
as $function$
    select array_agg(o.setting order by o.place)
    from unnest(options) with ordinality as o (setting, place)
    where not starts_with(o.setting, 'pg_');
$function$;


-- A role as GRANT and CREATE POLICY take it: quoted, and 0 is everybody.
create or replace function rpc_migrations.role_name(role oid) returns text
language sql stable
set search_path = ''
as $function$
    select case role when 0 then 'public' else role::regrole::text end;
$function$;


-- The other tables whose foreign keys point at a table, and the plain views on it: all that the swap alters besides.
create or replace function rpc_migrations.dependents(relation oid) returns table (dependent regclass, is_view boolean)
language sql stable
set search_path = ''
as $function$
    select c.conrelid::regclass, false
    from pg_catalog.pg_constraint as c
    where c.confrelid = relation and c.contype = 'f' and c.conrelid <> relation
    union
    select v.oid::regclass, true
    from pg_catalog.pg_depend as d
    inner join pg_catalog.pg_rewrite as w on w.oid = d.objid and d.classid = 'pg_catalog.pg_rewrite'::regclass
    inner join pg_catalog.pg_class as v on v.oid = w.ev_class and v.relkind = 'v'
    where d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = relation and w.rulename = '_RETURN';
$function$;


-- All that belongs to a table or depends on it and that we know how to make again: what kind of thing it is, its name,
-- its definition apart from its name (null where the name says all), the statement that makes it on "as_name", the
-- statement that must come first to take it off the table it is on (null: none), and when it is carried over: before
-- the copy (columns), after it (build), or in the swap, when the new table has the name that the statements mention.
create or replace function rpc_migrations.describe_table(relation oid, as_name text)
returns table (phase text, kind text, name text, definition text, statement text, detach text)
language sql stable
set search_path = ''
as $function$
    -- columns, in their order, but for one that is generated from a later one
    (select
        'columns', 'column', a.attname::text, null,
        format('alter table %s add column %I %s%s%s%s', as_name, a.attname, format_type(a.atttypid, a.atttypmod),
            case when a.attcollation <> t.typcollation then ' collate ' || a.attcollation::regcollation end,
            case
                when a.attgenerated = 's' then format(' generated always as (%s) stored', pg_get_expr(d.adbin, d.adrelid))
                when a.attgenerated = 'v' then format(' generated always as (%s) virtual', pg_get_expr(d.adbin, d.adrelid))
                when a.attidentity <> '' then format(
                    ' generated %s as identity (sequence name %I.%I increment by %s minvalue %s maxvalue %s start with %s cache %s %s)',
                    case a.attidentity when 'a' then 'always' else 'by default' end, (parse_ident(as_name))[1], s.relname,
                    q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache,
                    case when q.seqcycle then 'cycle' else 'no cycle' end)
                when d.adbin is not null then ' default ' || pg_get_expr(d.adbin, d.adrelid)
            end,
            case when a.attnotnull then ' not null' end),
        null
    from pg_catalog.pg_attribute as a
    inner join pg_catalog.pg_type as t on t.oid = a.atttypid
    left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    left join pg_catalog.pg_depend as o
        on o.refclassid = 'pg_catalog.pg_class'::regclass and o.refobjid = a.attrelid and o.refobjsubid = a.attnum
        and o.classid = 'pg_catalog.pg_class'::regclass and o.deptype = 'i' and a.attidentity <> ''
    left join pg_catalog.pg_sequence as q on q.seqrelid = o.objid
    left join pg_catalog.pg_class as s on s.oid = o.objid
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    order by
        greatest(a.attnum, (
            select max(p.refobjsubid)
            from pg_catalog.pg_depend as p
            where p.refclassid = 'pg_catalog.pg_class'::regclass and p.refobjid = a.attrelid and a.attgenerated <> ''
                and (p.classid, p.objid, p.objsubid) in (
                    ('pg_catalog.pg_class'::regclass, a.attrelid, a.attnum), ('pg_catalog.pg_attrdef'::regclass, d.oid, 0))
        )),
        a.attgenerated <> '', a.attnum)
    union all
    -- constraints of its own; a foreign key that points at the table itself is among those that point at it, below
    select
        'build',
        case c.contype when 'p' then 'primary key' when 'u' then 'unique constraint' when 'c' then 'check constraint' else 'foreign key' end,
        case when c.contype = 'p' then '' else c.conname::text end,
        regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', ''),
        format('alter table %s add constraint %I %s%s', as_name, c.conname, pg_get_constraintdef(c.oid),
            case when c.contype = 'f' and c.convalidated then ' not valid' end),
        null
    from pg_catalog.pg_constraint as c
    where c.conrelid = relation and c.contype in ('p', 'u', 'c', 'f') and c.confrelid <> relation
    union all
    -- indexes that belong to no constraint: the text after the name and the table is the definition
    select
        'build', 'index', x.relname::text,
        case when i.indisunique then 'unique ' else '' end || parts.rest,
        format('create %sindex %I on %s using %s', case when i.indisunique then 'unique ' end, x.relname, as_name, parts.rest),
        null
    from pg_catalog.pg_index as i
    inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
    cross join lateral (
        select substr(pg_get_indexdef(x.oid), 1 + length(format(
            'CREATE %sINDEX %I ON %s USING ', case when i.indisunique then 'UNIQUE ' end, x.relname, i.indrelid::regclass
        ))) as rest
    ) as parts
    where i.indrelid = relation and i.indisvalid
        and not exists (select from pg_catalog.pg_constraint as c where c.conindid = x.oid and c.contype in ('p', 'u', 'x'))
    union all
    select
        'swap', 'trigger', t.tgname::text, null,
        pg_get_triggerdef(t.oid) || case t.tgenabled
            when 'O' then ''
            else format('; alter table %s %s trigger %I', as_name,
                case t.tgenabled when 'D' then 'disable' when 'R' then 'enable replica' else 'enable always' end, t.tgname)
        end,
        null
    from pg_catalog.pg_trigger as t
    where t.tgrelid = relation and not t.tgisinternal and t.tgname !~ '^rpc_migrations_'
    union all
    select
        'swap', 'policy', p.polname::text, null,
        format('create policy %I on %s as %s for %s to %s', p.polname, as_name,
            case when p.polpermissive then 'permissive' else 'restrictive' end,
            case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
            (select string_agg(rpc_migrations.role_name(r), ', ') from unnest(p.polroles) as r))
        || coalesce(' using (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
        || coalesce(' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''),
        null
    from pg_catalog.pg_policy as p
    where p.polrelid = relation
    union all
    select
        'swap', 'row security', setting.name, null,
        format('alter table %s %s row level security', as_name, setting.word), null
    from pg_catalog.pg_class as c
    cross join lateral (values ('enabled', 'enable', c.relrowsecurity), ('forced', 'force', c.relforcerowsecurity))
        as setting (name, word, is_on)
    where c.oid = relation and setting.is_on
    union all
    -- rights on the table and on single columns, in the order in which they were given
    select
        'swap', 'grant', concat_ws(' ', g.privilege, g.column_name, g.grantee, g.is_grantable), null,
        format('grant %s %s on table %s to %s', g.privilege, '(' || quote_ident(g.column_name) || ')', as_name, g.grantee)
        || case when g.is_grantable then ' with grant option' else '' end,
        null
    from (
        select
            acl.privilege_type as privilege, source.column_name, acl.is_grantable, source.place, acl.place as entry,
            rpc_migrations.role_name(acl.grantee) as grantee
        from (
            select 0 as place, null::name as column_name, c.relacl as acl, c.relowner from pg_catalog.pg_class as c where c.oid = relation
            union all
            select a.attnum, a.attname, a.attacl, c.relowner
            from pg_catalog.pg_attribute as a inner join pg_catalog.pg_class as c on c.oid = a.attrelid
            where a.attrelid = relation and not a.attisdropped and a.attacl is not null
        ) as source
        cross join lateral aclexplode(source.acl) with ordinality as acl (grantor, grantee, privilege_type, is_grantable, place)
        where acl.grantee <> source.relowner
        order by source.place, acl.place
    ) as g
    union all
    select
        'swap', 'comment', o.what, null, format('comment on %s is %L', o.what, o.comment), null
    from (
        select format('table %s', as_name) as what, obj_description(relation, 'pg_class') as comment
        union all
        select format('column %s.%I', as_name, a.attname), col_description(relation, a.attnum)
        from pg_catalog.pg_attribute as a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
        union all
        select format('constraint %I on %s', c.conname, as_name), obj_description(c.oid, 'pg_constraint')
        from pg_catalog.pg_constraint as c where c.conrelid = relation and c.confrelid <> relation
        union all
        select format('index %I.%I', (parse_ident(as_name))[1], x.relname), obj_description(x.oid, 'pg_class')
        from pg_catalog.pg_index as i inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
        where i.indrelid = relation
        union all
        select format('trigger %I on %s', t.tgname, as_name), obj_description(t.oid, 'pg_trigger')
        from pg_catalog.pg_trigger as t where t.tgrelid = relation and not t.tgisinternal
        union all
        select format('policy %I on %s', p.polname, as_name), obj_description(p.oid, 'pg_policy')
        from pg_catalog.pg_policy as p where p.polrelid = relation
    ) as o
    where o.comment is not null
    union all
    select
        'swap', 'storage option', o.prefix || split_part(o.setting, '=', 1), null,
        format('alter table %s set (%s = %L)', as_name, o.prefix || split_part(o.setting, '=', 1),
            substr(o.setting, strpos(o.setting, '=') + 1)),
        null
    from (
        select '' as prefix, unnest(rpc_migrations.set_options(c.reloptions)) as setting from pg_catalog.pg_class as c where c.oid = relation
        union all
        select 'toast.', unnest(rpc_migrations.set_options(x.reloptions))
        from pg_catalog.pg_class as c inner join pg_catalog.pg_class as x on x.oid = c.reltoastrelid
        where c.oid = relation
    ) as o
    union all
    select
        'swap', 'replica identity', c.relreplident::text, null,
        format('alter table %s replica identity %s', as_name, case c.relreplident
            when 'f' then 'full' when 'n' then 'nothing'
            else (select format('using index %I', x.relname)
                from pg_catalog.pg_index as i inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
                where i.indrelid = c.oid and i.indisreplident)
        end),
        null
    from pg_catalog.pg_class as c
    where c.oid = relation and c.relreplident <> 'd'
    union all
    select 'swap', 'clustering', '', null, format('alter table %s cluster on %I', as_name, x.relname), null
    from pg_catalog.pg_index as i inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
    where i.indrelid = relation and i.indisclustered
    union all
    select
        'swap', 'owner', c.relowner::regrole::text, null, format('alter table %s owner to %s', as_name, c.relowner::regrole), null
    from pg_catalog.pg_class as c
    where c.oid = relation
    union all
    select
        'swap', 'publication', p.pubname::text, null,
        format('alter publication %I add table %s', p.pubname, as_name)
        || coalesce((select ' (' || string_agg(quote_ident(a.attname), ', ') || ')' from pg_catalog.pg_attribute as a
            where a.attrelid = relation and a.attnum = any (r.prattrs)), '')
        || coalesce(' where (' || pg_get_expr(r.prqual, r.prrelid) || ')', ''),
        format('alter publication %I drop table %s', p.pubname, as_name)
    from pg_catalog.pg_publication_rel as r
    inner join pg_catalog.pg_publication as p on p.oid = r.prpubid
    where r.prrelid = relation
    union all
    -- foreign keys that point at the table: made anew as not valid, which takes no time, and validated after the swap if
    -- they were. One of the table itself goes along: left behind, its "on delete cascade" would disturb a rollback.
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
    union all
    -- plain views: replaced by their own text, which then means the table that has the name
    select
        'swap', 'view', v.oid::regclass::text, null,
        format('create or replace view %s%s as %s', v.oid::regclass, ' with (' || array_to_string(rpc_migrations.set_options(v.reloptions), ', ') || ')', pg_get_viewdef(v.oid)),
        null
    from rpc_migrations.dependents(relation) as d
    inner join pg_catalog.pg_class as v on v.oid = d.dependent
    where d.is_view
    union all
    -- sequences of serial columns: both tables draw from the same one, and it goes with the table in use. Those of
    -- identity columns are listed because a column that has one needs no other; they come with their column.
    select
        'swap', 'sequence', a.attname::text, null,
        case when d.deptype = 'a' then format('alter sequence %s owned by %s.%I', s.oid::regclass, as_name, a.attname) end,
        case when d.deptype = 'a' then format('alter sequence %s owned by none', s.oid::regclass) end
    from pg_catalog.pg_depend as d
    inner join pg_catalog.pg_class as s on s.oid = d.objid and s.relkind = 'S'
    inner join pg_catalog.pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    where d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
        and d.refobjid = relation and d.deptype in ('a', 'i');
$function$;


-- The same as one JSON value, to be remembered and compared. Rights stay in the order in which they were given. Clustering
-- is left out: whoever runs CLUSTER in the meantime changes it, and no harm is done.
create or replace function rpc_migrations.table_definition(relation oid) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(
        jsonb_build_object('kind', d.kind, 'name', d.name, 'statement', d.statement)
        order by d.kind, case when d.kind <> 'grant' then d.name end, d.place
    ), '[]')
    from rpc_migrations.describe_table(relation, relation::regclass::text)
        with ordinality as d (phase, kind, name, definition, statement, detach, place)
    where d.kind <> 'clustering';
$function$;


-- What stands in one definition and not, or otherwise, in the other, for a message.
create or replace function rpc_migrations.definition_changes(old_definition jsonb, new_definition jsonb) returns text
language sql immutable
set search_path = ''
as $function$
    select string_agg(distinct concat_ws(' ', coalesce(o.kind, n.kind), coalesce(o.name, n.name)), ', ')
    from jsonb_to_recordset(old_definition) as o (kind text, name text, statement text)
    full join jsonb_to_recordset(new_definition) as n (kind text, name text, statement text)
        on o.kind = n.kind and o.name = n.name and coalesce(o.statement, '') = coalesce(n.statement, '')
    where o.kind is null or n.kind is null;
$function$;


-- What the target does not have, neither by that name nor in other words the same, in the order in which it can be made.
create or replace function rpc_migrations.missing_in_target(source oid, target oid, as_name text, wanted_phase text)
returns table (kind text, name text, definition text, statement text, detach text, place bigint)
language sql stable
set search_path = ''
as $function$
    select s.kind, s.name, s.definition, s.statement, s.detach, s.place
    from rpc_migrations.describe_table(source, as_name)
        with ordinality as s (phase, kind, name, definition, statement, detach, place)
    where
        s.phase = wanted_phase
        and not exists (
            select from rpc_migrations.describe_table(target, as_name) as t
            where t.kind = s.kind and (t.name = s.name or t.definition = s.definition)
        )
    order by s.place;
$function$;


-- Copies that an older version has begun go on in the words of this one (see 00_version.sql).
update rpc_migrations.copies as c
set definition = rpc_migrations.table_definition(c.old_table)
where c.state in ('copying', 'copied') and c.old_table is not null and c.definition is null;
