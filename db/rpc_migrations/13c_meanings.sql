-- What is carried over as text is parsed again, and may no longer mean what it meant: a function that was added since may make a call
-- ambiguous, or be chosen in place of the one that was meant. So a statement that fails is reported with the name of what it makes,
-- and in the swap everything with the same text as before must refer to the same things as before.

-- Runs a statement that makes something again. Raises RM001, with the name of the thing, if PostgreSQL no longer understands it.
create or replace function rpc_migrations.make_again(kind text, name text, statement text) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.make_from_text(kind, statement);
exception when syntax_error_or_access_rule_violation then
    raise exception '% cannot be made again from its text: %', concat_ws(' ', kind, name),
        concat_ws('; ', sqlerrm, case when sqlstate in ('42883', '42P01', '42704') then rpc_migrations.what_a_function_needs() end)
    using errcode = 'RM001', hint = 'No table in use was changed. Change it, or drop it and make it again after the migration; then run the '
        'same command again.';
end;
$function$;


-- What a function needs that finds names in other schemas than public and extensions, for a message.
create or replace function rpc_migrations.what_a_function_needs() returns text
language sql immutable
set search_path = ''
as $function$
    select 'a function that it calls has to name its schemas, or have a search_path of its own (alter function ... set search_path = ...)';
$function$;


-- The texts of a table and of what depends on it, and what they refer to, by name: {"KIND NAME": {text, refers_to}}. Left out are built-in
-- things, which are not in pg_depend; keys, because it does not matter which one makes a "group by" complete; types that a default
-- refers to, and columns, operator classes and collations that an index does, because those of its expressions are in their texts,
-- and its plain columns may have got other names and types; and the table's columns where "excluded" stands for a row of them all,
-- new ones included.
create or replace function rpc_migrations.meanings(relation oid) returns jsonb
language sql stable
set search_path = ''
as $function$
    with texts as (
        select 'check ' || c.conname as name, 'pg_catalog.pg_constraint'::regclass as catalog, c.oid as object, pg_get_constraintdef(c.oid) as text
        from pg_catalog.pg_constraint as c where c.conrelid = relation and c.contype in ('c', 'x')
        union all
        select 'index ' || x.relname, 'pg_catalog.pg_class', x.oid, concat_ws('; ', pg_get_expr(i.indexprs, relation), pg_get_expr(i.indpred, relation))
        from pg_catalog.pg_index as i inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
        where i.indrelid = relation and (i.indexprs is not null or i.indpred is not null)
        union all
        select 'column ' || a.attname, 'pg_catalog.pg_attrdef', d.oid, pg_get_expr(d.adbin, d.adrelid)
        from pg_catalog.pg_attrdef as d
        inner join pg_catalog.pg_attribute as a on a.attrelid = d.adrelid and a.attnum = d.adnum
        where d.adrelid = relation
        union all
        select 'trigger ' || t.tgname, 'pg_catalog.pg_trigger', t.oid, pg_get_triggerdef(t.oid)
        from pg_catalog.pg_trigger as t where t.tgrelid = relation and not t.tgisinternal and t.tgname !~ '^rpc_migrations_'
        union all
        select format('policy %I on %s', p.polname, p.polrelid::regclass), 'pg_catalog.pg_policy', p.oid,
            concat_ws('; ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
        from pg_catalog.pg_policy as p
        where p.polrelid = relation or p.oid in (select d.object from rpc_migrations.depending('pg_catalog.pg_policy', relation) as d)
        union all
        select
            case when r.rulename = '_RETURN' then 'view ' || r.ev_class::regclass else format('rule %I on %s', r.rulename, r.ev_class::regclass) end,
            'pg_catalog.pg_rewrite', r.oid, pg_get_ruledef(r.oid)
        from pg_catalog.pg_rewrite as r
        where r.ev_class = relation or r.oid in (select d.object from rpc_migrations.depending('pg_catalog.pg_rewrite', relation) as d)
        union all
        select 'function ' || p.oid::regprocedure, 'pg_catalog.pg_proc', p.oid, pg_get_functiondef(p.oid)
        from rpc_migrations.depending('pg_catalog.pg_proc', relation) as d
        inner join pg_catalog.pg_proc as p on p.oid = d.object and p.prokind <> 'a'
    )
    select coalesce(jsonb_object_agg(t.name, jsonb_build_object('text', t.text, 'refers_to', (
        select coalesce(jsonb_agg(distinct i.type || ' ' || i.identity), '[]')
        from pg_catalog.pg_depend as d
        cross join lateral pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) as i
        where
            d.classid = t.catalog and d.objid = t.object and d.refclassid <> 'pg_catalog.pg_constraint'::regclass
            and not (d.classid = 'pg_catalog.pg_attrdef'::regclass and d.refclassid = 'pg_catalog.pg_type'::regclass)
            and not (
                d.classid = 'pg_catalog.pg_class'::regclass and (
                    d.refclassid in ('pg_catalog.pg_opclass'::regclass, 'pg_catalog.pg_collation'::regclass)
                    or d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = relation))
            and not (
                d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = relation and d.refobjsubid > 0
                and t.text ~ ' ON CONFLICT.*DO UPDATE')
    ))), '{}')
    from texts as t;
$function$;


-- What has the same text as before the swap but refers to other things, one sentence each. "before": the meanings at that time.
create or replace function rpc_migrations.changed_meanings(before jsonb, relation oid) returns text[]
language sql stable
set search_path = ''
as $function$
    select coalesce(array_agg(format('%s would not mean the same (before: %s; now: %s)', o.key,
        (select string_agg(r, ', ') from jsonb_array_elements_text(o.value -> 'refers_to') as r where not n.value -> 'refers_to' ? r),
        (select string_agg(r, ', ') from jsonb_array_elements_text(n.value -> 'refers_to') as r where not o.value -> 'refers_to' ? r)) order by o.key), '{}')
    from jsonb_each(before) as o
    inner join jsonb_each(rpc_migrations.meanings(relation)) as n using (key)
    where o.value -> 'text' = n.value -> 'text' and o.value -> 'refers_to' <> n.value -> 'refers_to';
$function$;


-- Raises RM001 with these sentences, if there are any.
create or replace function rpc_migrations.refuse_changed_meanings(changed text[]) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if changed <> '{}' then
        raise exception 'these definitions would mean something else if they were made again now: %', array_to_string(changed, '; ')
        using errcode = 'RM001', hint = 'No table in use was changed. Something was added since these were made, and now fits better. Make them again '
            'in words that leave no choice (with casts, or another name), then run the same command again.';
    end if;
end;
$function$;
