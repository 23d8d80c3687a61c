-- Statements on tables in use. What we write names the schema of everything, and is run where no other name is found: nobody can put
-- anything in its way. But what such a table calls, in an index, a check or a generated column, may look names up (ll_to_earth of the
-- extension earthdistance does), and PostgreSQL calls it already to plan a query. A statement that fails for that is run once more
-- where the SQL Editor and the API find names.

-- Runs a statement, whose parameters are ($1)[1], ($1)[2] and so on. Answers the number of its rows. Raises what the statement raises.
create or replace function rpc_migrations.run(statement text, variadic parameters text[] default '{}') returns bigint
language plpgsql
set search_path = ''
as $function$
declare
    affected bigint;
begin
    begin
        execute statement using parameters;
        get diagnostics affected = row_count;
    exception when undefined_function or undefined_table or undefined_object then
        perform set_config('search_path', 'public, extensions', true);  -- until the end of this function
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
    return query execute query using parameters;
exception when undefined_function or undefined_table or undefined_object then
    perform set_config('search_path', 'public, extensions', true);
    return query execute query using parameters;
end;
$function$;
