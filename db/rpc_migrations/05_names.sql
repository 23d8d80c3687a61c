-- Statements on tables in use, and their search_path. Our own statements qualify every name and run with an empty search_path: nobody
-- can put anything in their way. But a function that the table calls, in an index, a check or a generated column, may look names up
-- (ll_to_earth of the extension earthdistance does), and PostgreSQL may call it even to plan a query. What it finds decides its result
-- (citext's "=" or text's). So if the table that is rebuilt calls such a function, statements run with the search_path of the SQL
-- Editor and the API. So does, on a second try, a statement that fails because something was not found: another table, which it
-- refers to, may call such a function.
--
-- The same holds for how times and dates are read and written, which decides what a value becomes in another type. ALTER TABLE goes by the
-- settings of the session it runs in. A rebuild is as many sessions as it has requests: it goes by those of the one that began it.

-- Those settings of this session.
create or replace function rpc_migrations.session_settings() returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_object_agg(n, current_setting(n)) from unnest('{timezone,datestyle,intervalstyle}'::text[]) as n;
$function$;


-- Takes on what work_on has noted, until the end of the calling function, which has others of its own (see 17_deployed.sql).
create or replace function rpc_migrations.take_settings() returns void
language plpgsql
set search_path = ''
as $function$
declare
    settings jsonb := nullif(current_setting('rpc_migrations.settings', true), '');
begin
    perform set_config(s.key, s.value, true)
    from jsonb_each_text(settings) as s
    where s.key in (select k from jsonb_object_keys(rpc_migrations.session_settings()) as k);
end;
$function$;


-- Whether rows of a table make PostgreSQL call functions that look names up: ones in a language that does so, without a search_path
-- of their own. Defaults do not count: a copied row does not need them.
create or replace function rpc_migrations.looks_names_up(relation oid) returns boolean
language sql stable
set search_path = ''
as $function$
    select exists (
        select
        from pg_catalog.pg_depend as d
        inner join pg_catalog.pg_proc as p on d.refclassid = 'pg_catalog.pg_proc'::regclass and p.oid = d.refobjid
        inner join pg_catalog.pg_language as l on l.oid = p.prolang and l.lanname not in ('internal', 'c')
        where
            p.prosqlbody is null and not exists (select from unnest(p.proconfig) as c where c ~* '^search_path=')
            and (d.classid, d.objid) in (
                select 'pg_catalog.pg_class'::regclass, i.indexrelid from pg_catalog.pg_index as i where i.indrelid = relation
                union all
                select 'pg_catalog.pg_constraint'::regclass, c.oid from pg_catalog.pg_constraint as c where c.conrelid = relation
                union all
                select 'pg_catalog.pg_attrdef'::regclass, e.oid
                from pg_catalog.pg_attrdef as e
                inner join pg_catalog.pg_attribute as a on a.attrelid = e.adrelid and a.attnum = e.adnum and a.attgenerated <> ''
                where e.adrelid = relation
                union all
                select 'pg_catalog.pg_statistic_ext'::regclass, s.oid from pg_catalog.pg_statistic_ext as s where s.stxrelid = relation
            )
    );
$function$;


-- Notes how statements on the tables of a copy are run until the end of the transaction: whether one of these tables does that (see
-- names_are_found), and the copy's settings (see take_settings).
create or replace function rpc_migrations.work_on(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform set_config('rpc_migrations.names_are_found',
        (rpc_migrations.looks_names_up(copy.old_table) or rpc_migrations.looks_names_up(copy.new_table))::text, true);
    perform set_config('rpc_migrations.settings', coalesce(copy.settings::text, ''), true);
end;
$function$;


-- Whether one of the tables that are worked on does, as work_on has noted.
create or replace function rpc_migrations.names_are_found() returns boolean
language sql stable
set search_path = ''
as $function$
    select coalesce(current_setting('rpc_migrations.names_are_found', true) = 'true', false);
$function$;


-- Raises RM001 if something that another role has made could be found, which would then run as the database's owner.
create or replace function rpc_migrations.refuse_strangers() returns void
language plpgsql
set search_path = ''
as $function$
declare
    strangers text;
begin
    select string_agg(i, '; ') into strangers from rpc_migrations.impostors('public, extensions', of_any_name => true) as i;
    if strangers is not null then
        raise exception 'functions of the table look names up, and could find something that others made: %', strangers
        using errcode = 'RM001', hint = 'No table in use was changed. See who made it and why. Drop it or give it to the role that runs this; '
            'or let the table''s functions name their schemas (alter function ... set search_path = ...). Then run the same command again.';
    end if;
end;
$function$;


-- Runs statements that define something, one after the other.
create or replace function rpc_migrations.execute_each(statements text[]) returns void
language plpgsql
set search_path = ''
as $function$
declare
    statement text;
begin
    foreach statement in array statements loop
        execute statement;
    end loop;
end;
$function$;


-- Runs a statement, whose parameters are ($1)[1], ($1)[2] and so on. "finds_names": with that search_path from the first try. Returns
-- the number of its rows. Raises what the statement raises.
create or replace function rpc_migrations.execute_statement(statement text, parameters text[], finds_names boolean) returns bigint
language plpgsql
set search_path = ''
as $function$
declare
    affected bigint;
begin
    perform rpc_migrations.take_settings();
    if finds_names then
        perform rpc_migrations.refuse_strangers();
    end if;
    loop
        begin
            perform set_config('search_path', 'public, extensions', true) where finds_names;  -- until the end of this function
            execute statement using parameters;
            get diagnostics affected = row_count;
            return affected;
        exception when undefined_function or ambiguous_function or undefined_table or undefined_object then
            if finds_names or exists (select from rpc_migrations.impostors('public, extensions', of_any_name => true)) then
                raise;
            end if;
            finds_names := true;
        end;
    end loop;
end;
$function$;


-- Runs a statement that reads or writes rows.
create or replace function rpc_migrations.run(statement text, variadic parameters text[] default '{}') returns bigint
language plpgsql
set search_path = ''
as $function$
begin
    return rpc_migrations.execute_statement(statement, parameters, rpc_migrations.names_are_found());
end;
$function$;


-- Runs a statement that makes something of that kind from its text. Only for kinds that evaluate expressions on rows may names be looked
-- up: in the texts of all others every name is qualified but those of PostgreSQL's own, for which something in public could pass.
create or replace function rpc_migrations.make_from_text(kind text, statement text) returns bigint
language plpgsql
set search_path = ''
as $function$
begin
    return rpc_migrations.execute_statement(
        statement, '{}', rpc_migrations.names_are_found() and kind in (
            'column', 'a generated column', 'check constraint', 'exclusion constraint', 'unique constraint', 'primary key', 'index', 'statistics'
        ));
end;
$function$;


-- As run, for a query that returns one row or none, which is returned.
create or replace function rpc_migrations.ask(query text, variadic parameters text[] default '{}') returns setof record
language plpgsql
set search_path = ''
as $function$
declare
    finds_names boolean := rpc_migrations.names_are_found();
    answer record;
    answers bigint;
begin
    perform rpc_migrations.take_settings();
    if finds_names then
        perform rpc_migrations.refuse_strangers();
    end if;
    loop
        begin
            perform set_config('search_path', 'public, extensions', true) where finds_names;
            execute query into answer using parameters;
            get diagnostics answers = row_count;
            exit;
        exception when undefined_function or ambiguous_function or undefined_table or undefined_object then
            if finds_names or exists (select from rpc_migrations.impostors('public, extensions', of_any_name => true)) then
                raise;
            end if;
            finds_names := true;
        end;
    end loop;
    if answers > 0 then
        return next answer;
    end if;
end;
$function$;
