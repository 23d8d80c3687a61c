-- A table's indexes and extended statistics, with their settings, comments and marks. Both may have other names on the new table (see
-- new_names).

-- The extended statistics of a table, with three names: "default_name", under which they lie in our schema unless the step file has
-- another (with the schema that they are from, if that is not the table's); "new_name" on the new table (see new_names); and
-- "last_name" after the swap.
create or replace function rpc_migrations.statistics_names(relation oid, names jsonb)
returns table (
    oid oid, stxrelid oid, stxname name, stxnamespace oid, stxowner oid, stxstattarget integer,
    default_name text, new_name text, last_name text
)
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
begin
    return query
        select
            s.oid, s.stxrelid, s.stxname, s.stxnamespace, s.stxowner, s.stxstattarget::integer, n.default_name, m.new_name,
            format('%s.%I', s.stxnamespace::regnamespace, case when m.new_name = n.default_name then s.stxname else m.new_name end)
        from pg_catalog.pg_statistic_ext as s
        inner join pg_catalog.pg_class as c on c.oid = s.stxrelid
        cross join lateral (
            select concat_ws('.', case when s.stxnamespace <> c.relnamespace then s.stxnamespace::regnamespace end, s.stxname) as default_name
        ) as n
        cross join lateral (select coalesce(names ->> ('statistics ' || n.default_name), n.default_name) as new_name) as m
        where s.stxrelid = relation;
end;
$function$;


-- Indexes that belong to no constraint, and extended statistics: the text after the name and up to the table, or after it, is
-- the definition. Statistics lie in a schema of their own; until the swap those of the new table lie in ours.
create or replace function rpc_migrations.describe_indexes(relation oid, as_name text) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            'build', 'index', x.relname::text,
            case when i.indisunique then 'unique ' else '' end || parts.rest,
            format('create %sindex %I on %s using %s', case when i.indisunique then 'unique ' end, x.relname, as_name, rpc_migrations.parsed_alike(parts.rest, concat(i.indexprs::text, i.indpred::text))),
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
            'build', 'statistics', s.new_name, parts.definition,
            format('create statistics rpc_migrations.%I%s from %s', s.new_name, parts.rest, as_name), null
        from rpc_migrations.statistics_names(relation, '{}') as s
        cross join lateral (
            select
                -- The kinds; but not the expressions, which are written there without the brackets that they need to be parsed alike.
                split_part(substr(pg_get_statisticsobjdef(s.oid), 1 + length(format('CREATE STATISTICS %s.%I', s.stxnamespace::regnamespace, s.stxname))), ' ON ', 1)
                || ' on ' || concat_ws(', ', (
                    select string_agg(quote_ident(a.attname), ', ' order by k.place)
                    from unnest(x.stxkeys::int2[]) with ordinality as k (number, place)
                    inner join pg_catalog.pg_attribute as a on a.attrelid = relation and a.attnum = k.number
                ), (
                    select string_agg(format('(%s)', rpc_migrations.parsed_alike(e.text, x.stxexprs::text)), ', ' order by e.place)
                    from unnest(pg_get_statisticsobjdef_expressions(x.oid)) with ordinality as e (text, place)
                )) as rest,
                -- apart from the order of the columns, which is the table's
                concat_ws('; ', array_to_string(x.stxkind, ''), (
                    select string_agg(quote_ident(a.attname), ', ' order by a.attname)
                    from pg_catalog.pg_attribute as a where a.attrelid = relation and a.attnum = any (x.stxkeys::int2[])
                ), array_to_string(pg_get_statisticsobjdef_expressions(x.oid), ', ')) as definition
            from pg_catalog.pg_statistic_ext as x where x.oid = s.oid
        ) as parts;
end;
$function$;


-- The valid indexes of a table and the names that they have on the new one.
create or replace function rpc_migrations.index_names(relation oid, names jsonb) returns table (index oid, new_name text)
language plpgsql stable rows 5
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            x.oid,
            coalesce(names ->> format('%s %s', case when c.oid is null then 'index' else 'constraint' end, x.relname), x.relname)
        from pg_catalog.pg_index as i
        inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
        left join pg_catalog.pg_constraint as c on c.conindid = x.oid and c.contype in ('p', 'u', 'x') and c.conrelid = relation
        where i.indrelid = relation and i.indisvalid;
end;
$function$;


-- The statements that mark something to be dropped along with an extension; "" where it is not.
create or replace function rpc_migrations.extension_marks(catalog regclass, object oid, described text) returns text
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        select coalesce(string_agg(format('; alter %s depends on extension %I', described, e.extname), '' order by e.extname), '')
        from pg_catalog.pg_depend as d
        inner join pg_catalog.pg_extension as e on d.refclassid = 'pg_catalog.pg_extension'::regclass and e.oid = d.refobjid
        where d.classid = catalog and d.objid = object and d.deptype = 'x'
    );
end;
$function$;


-- What indexes and statistics have besides, under the names that they have on the new table (see new_names). A setting for
-- statistics alone is all that a column of an index can have.
create or replace function rpc_migrations.describe_index_settings(relation oid, as_name text, names jsonb) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            'swap', 'index setting', format('%s %s', x.new_name, a.attnum), null,
            format('alter index %I.%I alter column %s set statistics %s', (parse_ident(as_name))[1], x.new_name, a.attnum, a.attstattarget), null
        from rpc_migrations.index_names(relation, names) as x
        inner join pg_catalog.pg_attribute as a on a.attrelid = x.index and a.attstattarget >= 0
        union all
        select 'swap', 'index setting', x.new_name, null, substr(m.marks, 3), null
        from rpc_migrations.index_names(relation, names) as x
        cross join lateral rpc_migrations.extension_marks(
            'pg_catalog.pg_class', x.index, format('index %I.%I', (parse_ident(as_name))[1], x.new_name)) as m (marks)
        where m.marks <> ''
        union all
        select 'swap', 'clustering', '', null, format('alter table %s cluster on %I', as_name, x.new_name), null
        from rpc_migrations.index_names(relation, names) as x
        inner join pg_catalog.pg_index as i on i.indexrelid = x.index
        where i.indisclustered
        union all
        select
            'swap', 'replica identity', c.relreplident::text, null,
            format('alter table %s replica identity %s', as_name, case c.relreplident
                when 'f' then 'full' when 'n' then 'nothing'
                else (select format('using index %I', x.new_name)
                    from rpc_migrations.index_names(relation, names) as x
                    inner join pg_catalog.pg_index as i on i.indexrelid = x.index
                    where i.indisreplident)
            end),
            null
        from pg_catalog.pg_class as c
        where c.oid = relation and c.relreplident <> 'd'
        union all
        select
            'swap', 'place of statistics', format('%s.%I', s.stxnamespace::regnamespace, s.stxname), null,
            concat_ws('; ',
                format('alter statistics rpc_migrations.%I set schema %s', s.new_name, s.stxnamespace::regnamespace),
                format('alter statistics %s.%I', s.stxnamespace::regnamespace, s.new_name)
                || case when s.new_name = s.default_name and s.new_name <> s.stxname then format(' rename to %I', s.stxname) end,
                format('alter statistics %s owner to %s', s.last_name, s.stxowner::regrole),
                format('alter statistics %s', s.last_name) || case when s.stxstattarget >= 0 then ' set statistics ' || s.stxstattarget end,
                format('comment on statistics %s is %L', s.last_name, obj_description(s.oid, 'pg_statistic_ext'))),
            null
        from rpc_migrations.statistics_names(relation, names) as s;
end;
$function$;
