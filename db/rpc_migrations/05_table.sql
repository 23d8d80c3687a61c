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
--
-- What is asked for many times in a run, some of it under the locks of the swap, is PL/pgSQL with plans that a session keeps: until
-- PostgreSQL 18 an SQL function is planned anew at each call, and these queries take longer to plan than to run.

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


-- A text as PostgreSQL writes it, such that it is parsed to what it was written from; of itself it is not always:
-- - `(ARRAY['a'::character varying, ...])::text[]`, which stands for "status in ('a', ...)", would be read as an array whose elements
--   are cast one by one; so with `(ARRAY[1, 2])::numeric[]`. The array gets its own type beside the other. (Within a string constant its
--   quotes would be doubled, so that none is found there.)
-- - `((x >= 1) AND (x <= 9)) AND y`, which stands for "x between 1 and 9 and y", would be read as one AND of three; so with OR. A cast to
--   the type that it has keeps such a group together, and leaves no trace.
create or replace function rpc_migrations.parsed_alike(text text) returns text
language sql immutable
set search_path = ''
as $function$
    select case when parsed_alike.text !~ '\) (AND|OR) |ARRAY\[\d' then w.text else (
        select string_agg(
            case when t.token[1] ~ '^["'']' then t.token[1] else regexp_replace(
                regexp_replace(t.token[1], '\) (AND|OR) ', ')::boolean \1 ', 'g'),
                'ARRAY\[(\d+(?:, \d+)*)\](\)?)::', 'ARRAY[\1]::integer[]\2::', 'g'
            ) end, '' order by t.place)
        from regexp_matches(w.text, '"(?:[^"]|"")*"|''(?:[^'']|'''')*''|[^"'']+', 'g') with ordinality as t (token, place)
    ) end
    from (
        select regexp_replace(
            parsed_alike.text,
            'ARRAY\[(E?''(?:[^'']|'''')*''::([^][()'',]+)(?:, E?''(?:[^'']|'''')*''::\2)*)\](\)?)::',
            'ARRAY[\1]::\2[]\3::', 'g'
        ) as text
    ) as w;
$function$;


-- One thing that belongs to a table or depends on it: what kind of thing it is; its name; its definition apart from the name
-- and the table (null where the name says all); the statement that makes it on the table "as_name"; the statement that must
-- come first to take it off the table that it is on (null: none); and when it is carried over ("phase"): before the copy
-- (columns), after it (build), in the swap (swap), or with something else, of which it is a part (along).
drop type if exists rpc_migrations.part;
create type rpc_migrations.part as (phase text, kind text, name text, definition text, statement text, detach text);


-- Whether a column that is "not null" may hold a NULL all the same: PostgreSQL 18 has such constraints that are not valid.
create or replace function rpc_migrations.may_hold_null(relation oid, attnum smallint) returns boolean
language sql stable
set search_path = ''
as $function$
    select exists (
        select from pg_catalog.pg_constraint as c
        where c.conrelid = relation and c.contype = 'n' and c.conkey = array[may_hold_null.attnum] and not c.convalidated
    );
$function$;


-- Columns, in their order, but for one that is generated from a later one.
create or replace function rpc_migrations.describe_columns(relation oid, as_name text) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            'columns', 'column', a.attname::text, null,
            format('alter table %s add column %I %s%s%s%s', as_name, a.attname, format_type(a.atttypid, a.atttypmod),
                case when a.attcollation <> t.typcollation then ' collate ' || a.attcollation::regcollation end,
                case
                    when a.attgenerated = 's' then format(' generated always as (%s) stored', e.text)
                    when a.attgenerated = 'v' then format(' generated always as (%s) virtual', e.text)
                    when a.attidentity <> '' then format(
                        ' generated %s as identity (sequence name %I.%I increment by %s minvalue %s maxvalue %s start with %s cache %s %s)',
                        case a.attidentity when 'a' then 'always' else 'by default' end, (parse_ident(as_name))[1], s.relname,
                        q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache,
                        case when q.seqcycle then 'cycle' else 'no cycle' end)
                    when d.adbin is not null then ' default ' || e.text
                end,
                case when a.attnotnull and not rpc_migrations.may_hold_null(a.attrelid, a.attnum) then ' not null' end),
            null
        from pg_catalog.pg_attribute as a
        inner join pg_catalog.pg_type as t on t.oid = a.atttypid
        left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        cross join lateral (select rpc_migrations.parsed_alike(pg_get_expr(d.adbin, d.adrelid)) as text) as e
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
            a.attgenerated <> '', a.attnum;
end;
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


-- The foreign keys that were taken off a table, under the names that they will have (see 13_foreign_keys.sql). One of a new table
-- has a stand-in on it, a check that is always true: it can be validated, renamed, described and dropped by a step as the
-- key itself could be.
create or replace function rpc_migrations.taken_off_keys(relation oid)
returns table (name name, refers_to oid, definition text, is_valid boolean, comment text, stand_in name)
language sql stable
set search_path = ''
as $function$
    select
        coalesce(s.conname, k.name), k.refers_to, k.definition, k.is_valid,
        coalesce(obj_description(s.oid, 'pg_constraint'), k.comment), s.conname
    from rpc_migrations.foreign_keys as k
    left join pg_catalog.pg_constraint as s on s.oid = k.stand_in
    where k.relation = taken_off_keys.relation and (k.stand_in is null or s.oid is not null);
$function$;


-- A constraint as ALTER TABLE takes it: with the options of its index, which pg_get_constraintdef leaves out for keys.
create or replace function rpc_migrations.constraint_definition(con pg_catalog.pg_constraint) returns text
language sql stable
set search_path = ''
as $function$
    select left(d.definition, length(d.definition) - length(d.timing)) || o.options || d.timing
    from (
        select
            rpc_migrations.parsed_alike(pg_get_constraintdef(con.oid)) as definition,
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
    ) as o;
$function$;


-- Constraints of its own, foreign keys that were taken off it among them. A foreign key that points at the table itself is among those that point at it (describe_keys_to).
-- A table has one primary key at most, so any is as good as another. Not-null constraints, which have names of their own since
-- 18, come with their column, but for those that are not valid.
create or replace function rpc_migrations.describe_constraints(relation oid, as_name text) returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select
            case when c.contype = 'n' and c.convalidated then 'along' when c.contype = 'f' then 'swap' else 'build' end,
            case c.contype
                when 'p' then 'primary key' when 'u' then 'unique constraint' when 'c' then 'check constraint' when 'f' then 'foreign key'
                when 'x' then 'exclusion constraint' else 'not-null constraint' end,
            c.conname::text,
            case when c.contype = 'p' then 'the primary key' else regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', '') end,
            format('alter table %s add constraint %I %s%s', as_name, c.conname, rpc_migrations.constraint_definition(c),
                case when c.contype = 'f' and c.convalidated then ' not valid' end),
            null
        from pg_catalog.pg_constraint as c
        where
            c.conrelid = describe_constraints.relation and c.contype in ('p', 'u', 'c', 'f', 'x', 'n')
            and c.confrelid <> describe_constraints.relation
            -- One that points at a partitioned table has others of its own, which point at the partitions.
            and (c.contype <> 'f' or c.conparentid = 0)
            and not exists (select from rpc_migrations.foreign_keys as k where k.stand_in = c.oid)
        union all
        select 'swap', 'foreign key', k.name::text, k.definition, format('alter table %s add constraint %I %s', as_name, k.name, k.definition), null
        from rpc_migrations.taken_off_keys(describe_constraints.relation) as k;
end;
$function$;


-- The extended statistics of a table; what they are called, while they lie in our schema, by themselves ("default_name": with the
-- schema that they are from where it is not the table's) and on the new table (see new_names); and their name after the swap.
create or replace function rpc_migrations.statistics_names(relation oid, names jsonb)
returns table (
    oid oid, stxrelid oid, stxname name, stxnamespace oid, stxowner oid, stxstattarget integer,
    default_name text, new_name text, last_name text
)
language sql stable
set search_path = ''
as $function$
    select
        s.oid, s.stxrelid, s.stxname, s.stxnamespace, s.stxowner, s.stxstattarget, n.default_name, m.new_name,
        format('%s.%I', s.stxnamespace::regnamespace, case when m.new_name = n.default_name then s.stxname else m.new_name end)
    from pg_catalog.pg_statistic_ext as s
    inner join pg_catalog.pg_class as c on c.oid = s.stxrelid
    cross join lateral (
        select concat_ws('.', case when s.stxnamespace <> c.relnamespace then s.stxnamespace::regnamespace end, s.stxname) as default_name
    ) as n
    cross join lateral (select coalesce(names ->> ('statistics ' || n.default_name), n.default_name) as new_name) as m
    where s.stxrelid = relation;
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
            format('create %sindex %I on %s using %s', case when i.indisunique then 'unique ' end, x.relname, as_name, rpc_migrations.parsed_alike(parts.rest)),
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
                    select string_agg(format('(%s)', rpc_migrations.parsed_alike(e.text)), ', ' order by e.place)
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
language plpgsql stable
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
language sql stable
set search_path = ''
as $function$
    select coalesce(string_agg(format('; alter %s depends on extension %I', described, e.extname), '' order by e.extname), '')
    from pg_catalog.pg_depend as d
    inner join pg_catalog.pg_extension as e on d.refclassid = 'pg_catalog.pg_extension'::regclass and e.oid = d.refobjid
    where d.classid = catalog and d.objid = object and d.deptype = 'x';
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


-- How ALTER TABLE gives a trigger or rule a state; null for the one that it has from the beginning.
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
            regexp_replace(rpc_migrations.parsed_alike(pg_get_triggerdef(t.oid)), '^(.*?) ON ' || rpc_migrations.as_pattern(relation::regclass::text) || ' ',
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
            regexp_replace(rpc_migrations.parsed_alike(pg_get_ruledef(r.oid)), '^(.*? TO )' || rpc_migrations.as_pattern(relation::regclass::text), format('\1%s', replace(as_name, '\', '\\')))
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
            case when strpos(concat(p.using_text, p.check_text), relation::regclass::text) > 0 then 'swap' else 'build' end,
            'policy', p.polname::text, p.rule, format('create policy %I on %s %s', p.polname, as_name, p.rule), null
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
                    p.*, rpc_migrations.parsed_alike(pg_get_expr(p.polqual, p.polrelid)) as using_text,
                    rpc_migrations.parsed_alike(pg_get_expr(p.polwithcheck, p.polrelid)) as check_text
                from pg_catalog.pg_policy as p
                where p.polrelid = relation
            ) as r
        ) as p;
end;
$function$;


-- Rights on the table and on single columns, in the order in which they were given; and the owner, who comes after them.
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
            where acl.grantee <> source.relowner
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
language plpgsql stable
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
        select 'swap', 'comment', o.what, null, format('comment on %s is %L', o.what, o.comment), null
        from (
            select format('table %s', as_name) as what, obj_description(relation, 'pg_class') as comment
            union all
            select format('column %s.%I', as_name, a.attname), col_description(relation, a.attnum)
            from pg_catalog.pg_attribute as a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
            union all
            select format('constraint %I on %s', coalesce(names ->> n.key, c.conname), as_name), obj_description(c.oid, 'pg_constraint')
            from pg_catalog.pg_constraint as c
            cross join lateral (select 'constraint ' || c.conname as key) as n
            where c.conrelid = relation and c.confrelid <> relation and names -> n.key is distinct from 'null'
            union all
            select format('index %I.%I', (parse_ident(as_name))[1], x.new_name), obj_description(x.index, 'pg_class')
            from rpc_migrations.index_names(relation, names) as x
            union all
            select format('sequence %I.%I', (parse_ident(as_name))[1], coalesce(names ->> ('sequence ' || s.relname), s.relname)),
                obj_description(s.oid, 'pg_class')
            from rpc_migrations.identity_sequences(relation) as q
            inner join pg_catalog.pg_class as s on s.oid = q.sequence
            union all
            select format('trigger %I on %s', t.tgname, as_name), obj_description(t.oid, 'pg_trigger')
            from pg_catalog.pg_trigger as t where t.tgrelid = relation and not t.tgisinternal
            union all
            select format('rule %I on %s', r.rulename, as_name), obj_description(r.oid, 'pg_rewrite')
            from pg_catalog.pg_rewrite as r where r.ev_class = relation
            union all
            select format('policy %I on %s', p.polname, as_name), obj_description(p.oid, 'pg_policy')
            from pg_catalog.pg_policy as p where p.polrelid = relation
        ) as o
        where o.comment is not null;
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
            || coalesce(' where (' || rpc_migrations.parsed_alike(pg_get_expr(r.prqual, r.prrelid)) || ')', ''),
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
