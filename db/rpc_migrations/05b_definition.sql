-- A table's whole definition, and what another one lacks of it: the list serves to make on the new table what the step file
-- did not, to see whether somebody altered the old table in the meantime, and to make again in the swap what mentions it by name.

-- All that belongs to a table or depends on it and that we know how to make again, in an order in which it can be made, as
-- statements about the table "as_name". "names": what indexes, constraints and so on are called there (see new_names).
create or replace function rpc_migrations.describe_table(relation oid, as_name text, names jsonb default '{}') returns setof rpc_migrations.part
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return query
        select p.* from rpc_migrations.describe_columns(relation, as_name) as p
        union all
        select p.* from rpc_migrations.describe_column_settings(relation, as_name) as p
        union all
        select p.* from rpc_migrations.describe_constraints(relation, as_name) as p
        union all
        select p.* from rpc_migrations.describe_indexes(relation, as_name) as p
        union all
        select p.* from rpc_migrations.describe_triggers(relation, as_name) as p
        union all
        select p.* from rpc_migrations.describe_rights(relation, as_name) as p
        union all
        select p.* from rpc_migrations.describe_options(relation, as_name) as p
        union all
        select p.* from rpc_migrations.describe_index_settings(relation, as_name, names) as p
        union all
        select p.* from rpc_migrations.describe_keys_to(relation, as_name) as p
        union all
        select p.* from rpc_migrations.describe_holds(relation) as p
        union all
        select p.* from rpc_migrations.describe_texts(relation) as p
        union all
        select p.* from rpc_migrations.describe_security(relation, as_name) as p
        union all
        select p.* from rpc_migrations.describe_comments(relation, as_name, names) as p
        union all
        select p.* from rpc_migrations.describe_policies_about(relation) as p;
end;
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
    from rpc_migrations.describe_table(relation, relation::regclass::text, '{}')
        with ordinality as d (phase, kind, name, definition, statement, detach, place)
    where d.kind <> 'clustering';
$function$;


-- The difference between two definitions, for a message: things that only one has, or that differ.
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


-- The old table's constraints, indexes and statistics that the new one has already, in pairs: those with the same name and definition;
-- else with the same definition (among several equal ones, each counts once); else foreign keys of the same name to the same columns,
-- which may differ in what a deletion does.
create or replace function rpc_migrations.pairs(source oid, target oid)
returns table (kind text, old_name text, new_name text)
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
begin
    return query
        with
        items as (
            select p.kind, p.name, p.definition, relation.is_old
            from (values (source, true), (target, false)) as relation (oid, is_old)
            cross join lateral rpc_migrations.describe_constraints(relation.oid, 'x') as p
            union all
            select p.kind, p.name, p.definition, relation.is_old
            from (values (source, true), (target, false)) as relation (oid, is_old)
            cross join lateral rpc_migrations.describe_indexes(relation.oid, 'x') as p
        ),
        exact as (
            select o.kind, o.name, o.definition
            from items as o
            inner join items as n using (kind, name, definition)
            where o.is_old and not n.is_old
        ),
        others as (
            select i.*, row_number() over (partition by i.is_old, i.kind, i.definition order by i.name) as place
            from items as i
            where (i.kind, i.name, i.definition) not in (select e.kind, e.name, e.definition from exact as e)
        ),
        equal as (
            select o.kind, o.name, n.name as new_name
            from others as o
            inner join others as n using (kind, definition, place)
            where o.is_old and not n.is_old
        ),
        keys as (
            select o.kind, o.name, o.name as new_name
            from others as o
            inner join others as n using (kind, name)
            where o.is_old and not n.is_old and o.kind = 'foreign key'
                and regexp_replace(o.definition, '\) (MATCH|ON|DEFERRABLE|NOT) .*$', ')') = regexp_replace(n.definition, '\) (MATCH|ON|DEFERRABLE|NOT) .*$', ')')
                and o.name not in (select e.name from equal as e where e.kind = o.kind)
        )
        select e.kind, e.name, e.name from exact as e
        union all
        select e.kind, e.name, e.new_name from equal as e
        union all
        select k.kind, k.name, k.new_name from keys as k;
end;
$function$;


-- What the old table's constraints, indexes, statistics and identity sequences are called on the new one, where it has them:
-- {"index NAME": NAME}, with "constraint", "statistics" or "sequence" for "index". Null: it does without.
create or replace function rpc_migrations.new_names(source oid, target oid) returns jsonb
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        select coalesce(jsonb_object_agg(n.key, n.new_name), '{}')
        from (
            select format('constraint %s', c.conname) as key, null::text as new_name
            from pg_catalog.pg_constraint as c
            inner join pg_catalog.pg_attribute as o on o.attrelid = source and array[o.attnum] = c.conkey
            inner join pg_catalog.pg_attribute as a on a.attrelid = target and a.attname = o.attname and not a.attnotnull
            where c.conrelid = source and c.contype = 'n' and c.convalidated
            union all
            select format('%s %s', case when p.kind in ('index', 'statistics') then p.kind else 'constraint' end, p.old_name), p.new_name
            from rpc_migrations.pairs(source, target) as p
            union all
            select format('sequence %s', os.relname), ns.relname::text
            from rpc_migrations.identity_sequences(source) as o
            inner join rpc_migrations.identity_sequences(target) as n using (column_name)
            inner join pg_catalog.pg_class as os on os.oid = o.sequence
            inner join pg_catalog.pg_class as ns on ns.oid = n.sequence
        ) as n
    );
end;
$function$;


-- What ALTER TABLE has made of a table whose copy is that target (see 08b_rebuild.sql). Null: the step file made it.
create or replace function rpc_migrations.alteration_of(source oid, target oid) returns jsonb
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        select c.alteration
        from rpc_migrations.copies as c
        where c.old_table = alteration_of.source and c.new_table = alteration_of.target and c.ended_at is null
    );
end;
$function$;


-- The kinds of what belongs to others than the table, and only mentions it.
create or replace function rpc_migrations.kinds_of_others() returns text[]
language sql immutable
set search_path = ''
as $function$
    select array[
        'foreign key to the table', 'view', 'function', 'rule of another table', 'publication', 'policy of another table',
        'policy on a function of its rows'
    ];
$function$;


-- What a new table is to have: what the old one has; or, where it is made by ALTER TABLE, what that has made of a twin (see
-- 08b_rebuild.sql), and what others have that depends on the old one.
create or replace function rpc_migrations.wanted(source oid, target oid, as_name text)
returns table (phase text, kind text, name text, definition text, statement text, detach text, place bigint, is_altered boolean)
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
begin
    return query
        with altered as materialized (
            select a as alteration from rpc_migrations.alteration_of(source, target) as a where a is not null
        )
        select s.phase, s.kind, s.name, s.definition, s.statement, s.detach, s.place, exists (select from altered)
        from rpc_migrations.describe_table(
            source, as_name, case when exists (select from altered) then '{}' else rpc_migrations.new_names(source, target) end
        ) with ordinality as s (phase, kind, name, definition, statement, detach, place)
        where
            not exists (select from altered)
            or s.kind = any (rpc_migrations.kinds_of_others())
            or s.kind = 'sequence' and exists (
                select from altered as a where a.alteration -> 'columns' @> jsonb_build_array(jsonb_build_object('old', s.name, 'new', s.name))
            )
            or s.kind = 'place of statistics' and exists (
                select
                from altered as a
                cross join lateral jsonb_to_recordset(a.alteration -> 'parts') as p (kind text, name text)
                inner join rpc_migrations.statistics_names(source, '{}') as n on n.default_name = p.name
                where p.kind = 'statistics' and format('%s.%I', n.stxnamespace::regnamespace, n.stxname) = s.name
            )
        union all
        select p.value ->> 'phase', p.value ->> 'kind', p.value ->> 'name', p.value ->> 'definition', p.value ->> 'statement', null, p.place - 100000, true
        from altered as a
        cross join lateral jsonb_array_elements(a.alteration -> 'parts') with ordinality as p (value, place);
end;
$function$;


-- What the target lacks and is carried over in one phase, in the order in which it can be made. What it already has under the same name is
-- what the step file wants, unless "conflicts" objects. A column of another type may not take a setting for the storage of long values.
create or replace function rpc_migrations.missing_in_target(source oid, target oid, as_name text, wanted_phase text)
returns table (kind text, name text, definition text, statement text, detach text, place bigint)
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
begin
    return query
        with
        has as (select t.* from rpc_migrations.describe_table(target, as_name, '{}') as t),
        pairs as (select p.* from rpc_migrations.pairs(source, target) as p)
        select s.kind, s.name, s.definition, s.statement, s.detach, s.place
        from rpc_migrations.wanted(source, target, as_name) as s
        where
            s.phase = wanted_phase
            and not exists (select from has as t where t.kind = s.kind and t.name = s.name)
            and (s.is_altered or not exists (select from pairs as p where p.kind = s.kind and p.old_name = s.name))
            and not exists (
                select from pg_catalog.pg_attribute as a
                where
                    a.attrelid = target and a.attstorage = 'p' and s.kind = 'column setting' and not s.is_altered
                    and s.name in (format('storage of %I', a.attname), format('compression of %I', a.attname))
            )
        order by s.place;
end;
$function$;


-- Copies that an older version began continue in the words of this one (see 00_version.sql). Version 1 carried row level security and
-- policies over in the swap, and its carry_over may be done by now: what today's would carry over is made here. Whatever else moves to
-- an earlier phase needs the same.
do $block$
declare
    copy rpc_migrations.copies;
begin
    for copy in
        update rpc_migrations.copies as c
        set definition = rpc_migrations.table_definition(c.old_table)
        where c.state in ('copying', 'copied') and c.old_table is not null and c.definition is null
        returning c.*
    loop
        perform rpc_migrations.execute_each(array(
            select m.statement
            from rpc_migrations.missing_in_target(copy.source, copy.target, copy.target::regclass::text, 'build') as m
            where
                m.kind in ('row security', 'policy') and copy.state = 'copied'
                and current_setting('rpc_migrations.version_before', true) = '1'
            order by m.place
        ));
    end loop;
end;
$block$;
