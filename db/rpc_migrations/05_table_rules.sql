-- What acts on a table's rows, and who may: triggers and rules, row level security, rights. And what has no other place: comments, options,
-- sequences, publications.

-- The words by which ALTER TABLE gives a trigger or rule a state; null for the default state.
create or replace function rpc_migrations.firing(state "char") returns text
language sql immutable
set search_path = ''
as $function$
    select case state when 'D' then 'disable' when 'R' then 'enable replica' when 'A' then 'enable always' end;
$function$;


-- A pattern that matches a text as it is.
create or replace function rpc_migrations.as_pattern(text text) returns text
language sql immutable
set search_path = ''
as $function$
    select regexp_replace(as_pattern.text, '([^[:alnum:]_ ])', '\\\1', 'g');
$function$;


-- Triggers and rules. What they do is found by name, so they are made when the new table has the name.
create or replace function rpc_migrations.describe_triggers(relation oid, as_name text) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            'swap', 'trigger', t.tgname::text,
            replace(pg_get_triggerdef(t.oid), format(' ON %s ', relation::regclass), ' ON it '),
            regexp_replace(rpc_migrations.parsed_alike(pg_get_triggerdef(t.oid), t.tgqual::text), '^(.*?) ON ' || rpc_migrations.as_pattern(relation::regclass::text) || ' ',
                format('\1 ON %s ', replace(as_name, '\', '\\')))
            || coalesce(format('; alter table %s ', as_name) || rpc_migrations.firing(t.tgenabled) || format(' trigger %I', t.tgname), '')
            || rpc_migrations.extension_marks('pg_catalog.pg_trigger', t.oid, format('trigger %I on %s', t.tgname, as_name)),
            null
        from pg_catalog.pg_trigger as t
        where t.tgrelid = relation and not t.tgisinternal and t.tgname !~ '^rpc_migrations_'
        union all
        select
            'swap', 'rule', r.rulename::text,
            regexp_replace(pg_get_ruledef(r.oid), '^CREATE RULE .*? TO ' || rpc_migrations.as_pattern(relation::regclass::text), 'CREATE RULE'),
            regexp_replace(rpc_migrations.parsed_alike(pg_get_ruledef(r.oid), concat(r.ev_qual::text, r.ev_action::text)), '^(.*? TO )' || rpc_migrations.as_pattern(relation::regclass::text), format('\1%s', replace(as_name, '\', '\\')))
            || coalesce(format(' alter table %s ', as_name) || rpc_migrations.firing(r.ev_enabled) || format(' rule %I', r.rulename), ''),
            null
        from pg_catalog.pg_rewrite as r
        where r.ev_class = relation;
end;
$function$;


-- Row level security, and policies after it: a policy without it would be a finding of Supabase's advisors.
--
-- On hosted projects each CREATE, ALTER or DROP POLICY by postgres locks auth.users and some twenty other tables of Supabase's
-- until the end of the transaction, whatever table the policy is on (the extension supautils looks up all tables of its setting
-- policy_grants in that mode). So policies are not made in the swap, but for those that mention the table itself: until then
-- these would mean the old one. They are told by the table's name in their text.
create or replace function rpc_migrations.describe_security(relation oid, as_name text) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            setting.phase, 'row security', setting.name, null::text,
            format('alter table %s %s row level security', as_name, setting.word), null::text
        from pg_catalog.pg_class as c
        cross join lateral (
            values ('build', 'enabled', 'enable', c.relrowsecurity), ('swap', 'forced', 'force', c.relforcerowsecurity)
        ) as setting (phase, name, word, is_on)
        where c.oid = relation and setting.is_on
        union all
        select
            case when p.on_rows or strpos(concat(p.using_text, p.check_text), relation::regclass::text) > 0 then 'swap' else 'build' end,
            case when p.on_rows then 'policy on a function of its rows' else 'policy' end, p.polname::text, p.rule,
            format('create policy %I on %s %s', p.polname, as_name, p.rule)
            || case when p.on_rows then coalesce(format('; comment on policy %I on %s is %L', p.polname, as_name, obj_description(p.oid, 'pg_policy')), '')
                else '' end,
            null
        from (
            select
                r.*,
                format('as %s for %s to %s',
                    case when r.polpermissive then 'permissive' else 'restrictive' end,
                    case r.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
                    (select string_agg(rpc_migrations.role_name(o), ', ') from unnest(r.polroles) as o))
                || coalesce(' using (' || r.using_text || ')', '') || coalesce(' with check (' || r.check_text || ')', '') as rule
            from (
                select
                    p.*,
                    p.oid in (select d.object from rpc_migrations.depending_on_functions_of_rows('pg_catalog.pg_policy', relation) as d) as on_rows,
                    rpc_migrations.parsed_alike(pg_get_expr(p.polqual, p.polrelid), p.polqual::text) as using_text,
                    rpc_migrations.parsed_alike(pg_get_expr(p.polwithcheck, p.polrelid), p.polwithcheck::text) as check_text
                from pg_catalog.pg_policy as p
                where p.polrelid = relation
            ) as r
        ) as p;
end;
$function$;


-- The policies, triggers and rules of a table, to see later whether somebody has altered one: {"policy NAME": [what it says, what the
-- catalog has]}. What it says also changes where something that it mentions is renamed, and the catalog's entry where it is made anew (by
-- the rebuild of a table that it mentions); whoever alters it changes both. States of triggers are left out.
create or replace function rpc_migrations.acting_on(relation oid) returns jsonb
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        select coalesce(jsonb_object_agg(concat_ws(' ', a.kind, a.name), jsonb_build_array(md5(a.definition), md5(c.entry::text))), '{}')
        from (
            select s.* from rpc_migrations.describe_security(relation, 'x') as s where s.kind = 'policy'
            union all
            select t.* from rpc_migrations.describe_triggers(relation, 'x') as t
        ) as a
        inner join (
            select 'policy' as kind, p.polname as name, to_jsonb(p) as entry from pg_catalog.pg_policy as p where p.polrelid = relation
            union all
            select 'trigger', t.tgname, to_jsonb(t) - 'tgenabled' from pg_catalog.pg_trigger as t where t.tgrelid = relation
            union all
            select 'rule', r.rulename, to_jsonb(r) - 'ev_enabled' from pg_catalog.pg_rewrite as r where r.ev_class = relation
        ) as c on c.kind = a.kind and c.name = a.name
    );
end;
$function$;


-- Rights on the table and on single columns, in the order in which they were given; and the owner, who comes after them, and has all
-- those on the table without being given any.
create or replace function rpc_migrations.describe_rights(relation oid, as_name text) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
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
            where acl.grantee <> source.relowner or source.column_name is not null
            order by source.place, acl.place
        ) as g
        union all
        select
            'swap', 'owner', c.relowner::regrole::text, null, format('alter table %s owner to %s', as_name, c.relowner::regrole), null
        from pg_catalog.pg_class as c
        where c.oid = relation;
end;
$function$;


-- The sequences of a table's identity columns.
create or replace function rpc_migrations.identity_sequences(relation oid) returns table (column_name name, sequence oid)
language plpgsql stable rows 1
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select a.attname, d.objid
        from pg_catalog.pg_attribute as a
        inner join pg_catalog.pg_depend as d
            on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = a.attrelid and d.refobjsubid = a.attnum
            and d.classid = 'pg_catalog.pg_class'::regclass and d.deptype = 'i'
        where a.attrelid = relation and a.attidentity <> '' and not a.attisdropped;
end;
$function$;


-- Comments on the table and on what belongs to it, under the names that these have on the new table (see new_names; null
-- there: the new table has no such thing). Those on foreign keys to the table and on statistics come with these.
create or replace function rpc_migrations.describe_comments(relation oid, as_name text, names jsonb) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select 'swap', 'comment', o.what, null, format('comment on %s is %L', o.what, d.description), null
        from (
            select format('table %s', as_name) as what, 'pg_catalog.pg_class'::regclass as catalog, relation as object, 0 as part
            union all
            select format('type %s', as_name), 'pg_catalog.pg_type', c.reltype, 0 from pg_catalog.pg_class as c where c.oid = relation
            union all
            select format('column %s.%I', as_name, a.attname), 'pg_catalog.pg_class', relation, a.attnum
            from pg_catalog.pg_attribute as a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
            union all
            select format('constraint %I on %s', coalesce(names ->> n.key, c.conname), as_name), 'pg_catalog.pg_constraint', c.oid, 0
            from pg_catalog.pg_constraint as c
            cross join lateral (select 'constraint ' || c.conname as key) as n
            where c.conrelid = relation and c.confrelid <> relation and names -> n.key is distinct from 'null'
            union all
            select format('index %I.%I', (parse_ident(as_name))[1], x.new_name), 'pg_catalog.pg_class', x.index, 0
            from rpc_migrations.index_names(relation, names) as x
            union all
            select
                format('sequence %I.%I', (parse_ident(as_name))[1], coalesce(names ->> ('sequence ' || s.relname), s.relname)),
                'pg_catalog.pg_class', s.oid, 0
            from rpc_migrations.identity_sequences(relation) as q
            inner join pg_catalog.pg_class as s on s.oid = q.sequence
            union all
            select format('trigger %I on %s', t.tgname, as_name), 'pg_catalog.pg_trigger', t.oid, 0
            from pg_catalog.pg_trigger as t where t.tgrelid = relation and not t.tgisinternal
            union all
            select format('rule %I on %s', r.rulename, as_name), 'pg_catalog.pg_rewrite', r.oid, 0
            from pg_catalog.pg_rewrite as r where r.ev_class = relation
            union all
            select format('policy %I on %s', p.polname, as_name), 'pg_catalog.pg_policy', p.oid, 0
            from pg_catalog.pg_policy as p
            where
                p.polrelid = relation
                and p.oid not in (select d.object from rpc_migrations.depending_on_functions_of_rows('pg_catalog.pg_policy', relation) as d)
        ) as o
        inner join pg_catalog.pg_description as d on d.classoid = o.catalog and d.objoid = o.object and d.objsubid = o.part;
end;
$function$;


-- Storage options, membership in publications, and sequences of serial columns: these go with the table in use, and both tables
-- draw from the same one until then. Those of identity columns come with their column, which needs no other one.
create or replace function rpc_migrations.describe_options(relation oid, as_name text) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
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
            'swap', 'publication', p.pubname::text, null,
            format('alter publication %I add table %s', p.pubname, as_name)
            || coalesce((select ' (' || string_agg(quote_ident(a.attname), ', ' order by a.attnum) || ')' from pg_catalog.pg_attribute as a
                where a.attrelid = relation and a.attnum = any (r.prattrs)), '')
            || coalesce(' where (' || rpc_migrations.parsed_alike(pg_get_expr(r.prqual, r.prrelid), r.prqual::text) || ')', ''),
            format('alter publication %I drop table %s', p.pubname, as_name)
        from pg_catalog.pg_publication_rel as r
        inner join pg_catalog.pg_publication as p on p.oid = r.prpubid
        where r.prrelid = relation
        union all
        select
            'swap', 'sequence', a.attname::text, null,
            case when d.deptype = 'a' then format('alter sequence %s owned by %s.%I', s.oid::regclass, as_name, a.attname) end,
            case when d.deptype = 'a' then format('alter sequence %s owned by none', s.oid::regclass) end
        from pg_catalog.pg_depend as d
        inner join pg_catalog.pg_class as s on s.oid = d.objid and s.relkind = 'S'
        inner join pg_catalog.pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
        where d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
            and d.refobjid = relation and d.deptype in ('a', 'i');
end;
$function$;
