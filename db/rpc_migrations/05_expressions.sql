-- Expressions as text. PostgreSQL prints them such that they mean the same when they are parsed again, but they may be parsed to another
-- tree, and then be printed differently. So texts that are carried over get additions that make the tree the same, and that are not
-- part of it themselves.

-- The type of an array of columns of one length or precision ("varchar(20)[]") that an expression converts as a whole, found in the
-- expression's tree as the catalog has it. Null if there is none, or arrays of several such types.
create or replace function rpc_migrations.converted_columns(tree text) returns text
language sql stable
set search_path = ''
as $function$
    with arrays as (
        select distinct a.parts[1]::oid as type, v.parts[1]::integer as length
        from regexp_matches(
            tree, '\{ARRAYCOERCEEXPR :arg \{ARRAY(?:EXPR)? :array_typeid \d+ :array_collid \d+ :element_typeid (\d+) :elements \(((?: ?\{VAR [^{}]*\})+)\)', 'g'
        ) as a (parts)
        cross join lateral regexp_matches(a.parts[2], ':vartypmod (-?\d+) ', 'g') as v (parts)
    )
    select case when count(*) = 1 and min(length) >= 0 then format_type(min(type), min(length)) || '[]' end from arrays;
$function$;


-- A text as PostgreSQL prints it, changed such that it is parsed to the tree that it was printed from. These would not be:
-- - `(ARRAY['a'::character varying, ...])::text[]`, which stands for "status in ('a', ...)", would be read as an array whose elements
--   are cast one by one; so with `(ARRAY[1, 2])::numeric[]`. A cast between the two keeps them apart: to "any", which changes nothing,
--   or, where the elements have a length that would get lost, to the type that they have ("tree": see converted_columns).
-- - `((x >= 1) AND (x <= 9)) AND y`, which stands for "x between 1 and 9 and y", would be read as one AND of three; so with OR. A cast to
--   the type that it has keeps such a group together. (What else ends with a parenthesis may be of a domain, where the cast would show.)
-- - `SELECT 'a'::text` and `SELECT NULL::text`, which stand for "select 'a'" and "select null" within an expression, would call their
--   column "text". They get the name that they have, which is not written.
create or replace function rpc_migrations.parsed_alike(text text, tree text default null) returns text
language plpgsql stable
set search_path = ''
as $function$
declare
    name constant text := '(?:"(?:[^"]|"")*"|[a-z_]\w*)';
    type constant text := format('(?:%1$s\.)?%1$s(?: varying| precision| with time zone| without time zone)?(?:\[\])?', name);
    clause_end constant text := '(?=[,;]|\s+(?:;|FROM|WHERE|GROUP|HAVING|WINDOW|UNION|INTERSECT|EXCEPT|ORDER|LIMIT|OFFSET|FETCH|FOR|END|$)';
    tokens text[];  -- brackets, constants, quoted names, and what stands between them
    token text;
    item_end text;
    written text := '';
    kinds text[] := '{}';  -- of the brackets that are open: a group, an array, or another
    joined_by text[] := '{}';  -- AND or OR, where it stands directly in them
    are_names boolean[] := '{}';  -- whether there is nothing else in them
    level integer := 0;
begin
    -- Most texts have none of these, and this runs under the locks of the swap.
    if coalesce(text !~ '\]\)::|\)\) (AND|OR) |(AND|OR) [^()]*\) (AND|OR) |(SELECT (DISTINCT )?|, *\n? *)(NULL::|E?'')', true) then
        return text;
    end if;
    select array_agg(t.token[1] order by t.place) into tokens
    from regexp_matches(text, 'E?''(?:[^'']|'''')*''|"(?:[^"]|"")*"|[][()]|[^][()"'']+', 'g') with ordinality as t (token, place);
    for i in 1 .. cardinality(tokens) loop
        token := tokens[i];
        if token in ('(', '[') then
            are_names[level] := false;
            level := level + 1;
            kinds[level] := case
                when token = '[' and tokens[i - 1] ~ '\mARRAY$' then 'array'
                when token = '(' and coalesce(tokens[i - 1] !~ '([a-z0-9_"]|\mOVER )$', true) then 'group'
                else 'other' end;
            joined_by[level] := null;
            are_names[level] := true;
        elsif token in (')', ']') then
            if kinds[level] = 'group' and starts_with(tokens[i + 1], ' ' || joined_by[level] || ' ') then
                token := ')::boolean';
            elsif kinds[level] = 'array' and tokens[i + 1] = ')' and starts_with(tokens[i + 2], '::') then
                token := ']::' || coalesce(case when are_names[level] then rpc_migrations.converted_columns(tree) end, 'pg_catalog."any"');
            end if;
            level := level - 1;
        elsif token ~ '''$' then
            are_names[level] := false;
        elsif token !~ '^"' then
            joined_by[level] := coalesce(substring(token from ' (AND|OR) '), joined_by[level]);
            are_names[level] := are_names[level] and token !~ '[^\w., ]|\m\d';
            item_end := clause_end || case when coalesce(tokens[i + 1], ')') = ')' then '|$)' else ')' end;
            if starts_with(token, '::') and tokens[i - 1] ~ '''$' and tokens[i - 2] ~ '(SELECT (DISTINCT )?|,\n *)E?$' then
                token := regexp_replace(token, '^(::' || type || ')' || item_end, '\1 AS "?column?"');
            end if;
            if strpos(token, 'NULL::') > 0 then
                token := regexp_replace(token, '((?:SELECT (?:DISTINCT )?|,\n *)NULL::' || type || ')' || item_end, '\1 AS "?column?"', 'g');
            end if;
        end if;
        written := written || token;
    end loop;
    return written;
end;
$function$;
