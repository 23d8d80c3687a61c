-- Statements on tables in use. What we write names the schema of everything, and is run where no other name is found: nobody can put
-- anything in its way. But what such a table calls, in an index, a check or a generated column, may look names up (ll_to_earth of the
-- extension earthdistance does), and PostgreSQL calls it already to plan a query. What a function finds decides what it answers (citext's
-- "=" or text's); so where the table that is rebuilt calls one, statements are run where the SQL Editor and the API find names. So is,
-- a second time, one that fails because something was not found: another table, which it refers to, may call such a function.

-- Whether a table calls functions that look names up: written in a language that does so, without a search_path of their own.
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
                select 'pg_catalog.pg_attrdef'::regclass, a.oid from pg_catalog.pg_attrdef as a where a.adrelid = relation
                union all
                select 'pg_catalog.pg_statistic_ext'::regclass, s.oid from pg_catalog.pg_statistic_ext as s where s.stxrelid = relation
            )
    );
$function$;


-- Tells run and ask, until the end of the transaction, whether the table of a copy does. Raises RM001 where its functions could find what
-- somebody else has made, which would run as the database's owner.
create or replace function rpc_migrations.let_names_be_found(are_looked_up boolean) returns void
language plpgsql
set search_path = ''
as $function$
declare
    strangers text;
begin
    perform set_config('rpc_migrations.names_are_found', coalesce(are_looked_up, false)::text, true);
    if are_looked_up then
        select string_agg(i, '; ') into strangers from rpc_migrations.impostors(of_any_name => true) as i;
    end if;
    if strangers is not null then
        raise exception 'functions of the table look names up, and could find something that others made: %', strangers
        using errcode = 'RM001', hint = 'Nothing was changed. See who made it and why. Drop it or give it to the role that runs this; or '
            'let the table''s functions name their schemas (alter function ... set search_path = ...). Then run the same command again.';
    end if;
end;
$function$;


-- Runs a statement, whose parameters are ($1)[1], ($1)[2] and so on. Answers the number of its rows. Raises what the statement raises.
create or replace function rpc_migrations.run(statement text, variadic parameters text[] default '{}') returns bigint
language plpgsql
set search_path = ''
as $function$
declare
    affected bigint;
begin
    begin
        perform set_config('search_path', 'public, extensions', true)  -- until the end of this function
        where current_setting('rpc_migrations.names_are_found', true) = 'true';
        execute statement using parameters;
        get diagnostics affected = row_count;
    exception when undefined_function or undefined_table or undefined_object then
        if exists (select from rpc_migrations.impostors(of_any_name => true)) then
            raise;
        end if;
        perform set_config('search_path', 'public, extensions', true);
        execute statement using parameters;
        get diagnostics affected = row_count;
    end;
    return affected;
end;
$function$;


-- The same for a query that answers one row, which is answered.
create or replace function rpc_migrations.ask(query text, variadic parameters text[] default '{}') returns setof record
language plpgsql
set search_path = ''
as $function$
begin
    perform set_config('search_path', 'public, extensions', true)
    where current_setting('rpc_migrations.names_are_found', true) = 'true';
    return query execute query using parameters;
exception when undefined_function or undefined_table or undefined_object then
    if exists (select from rpc_migrations.impostors(of_any_name => true)) then
        raise;
    end if;
    perform set_config('search_path', 'public, extensions', true);
    return query execute query using parameters;
end;
$function$;
