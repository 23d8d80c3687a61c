-- Expressions as text. PostgreSQL writes them such that they mean the same when they are read again, but not such that they would be
-- written as before: what was one thing may be two, and a second reading may end otherwise than the first. So what is carried over by
-- its text gets some more of it, which leaves no trace once it is read.

-- The type of an array whose elements are columns of one length or precision, as "varchar(20)", where an expression converts such an
-- array as a whole; by the expression's tree as the catalog has it. Null where there are others as well, or none.
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


-- A text as PostgreSQL writes it, such that it is parsed to what it was written from; of itself it is not always:
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
    type constant text := format('(?:%1$s\.)?%1$s(?: varying| precision| with time zone| without time zone)?', name);
    constant_end constant text := '[,;)]|$|\s+(?:[;)]|FROM|WHERE|GROUP|HAVING|WINDOW|UNION|INTERSECT|EXCEPT|ORDER|LIMIT|OFFSET|FETCH|FOR|END)';
    string constant text := 'E?''(?:[^'']|'''')*''';
    tokens text[];
    token text;
    written text := '';
    kinds text[] := '{}';  -- of the brackets that are open: a group, an array, or another
    joined_by text[] := '{}';  -- AND or OR, where it stands directly in them
    are_names boolean[] := '{}';  -- whether there is nothing else in them
    level integer := 0;
begin
    if coalesce(text !~ 'ARRAY\[|\) (AND|OR) |SELECT ', true) then
        return text;
    end if;
    select array_agg(t.token[1] order by t.place) into tokens
    from regexp_matches(text, concat(
        '(?:SELECT (?:DISTINCT )?|,\n *)(?:NULL|', string, ')::', type, '(?:\(\d+\))?(?:\[\])?(?=', constant_end, ')',
        '|', string, '|"(?:[^"]|"")*"|[A-Za-z_]\w*|[][(),]|[^][(),A-Za-z_"'']+'
    ), 'g') with ordinality as t (token, place);
    for i in 1 .. cardinality(tokens) loop
        token := tokens[i];
        if token ~ '^(SELECT |,\n)' then
            token := token || ' AS "?column?"';
        elsif token in ('(', '[') then
            are_names[level] := false;
            level := level + 1;
            kinds[level] := case
                when token = '[' and tokens[i - 1] = 'ARRAY' then 'array'
                when token = '(' and coalesce(tokens[i - 1] !~ '^(["a-z_]|OVER$)', true) then 'group'
                else 'other' end;
            joined_by[level] := null;
            are_names[level] := true;
        elsif token in (')', ']') then
            if kinds[level] = 'group' and tokens[i + 1] = ' ' and tokens[i + 2] = joined_by[level] then
                token := ')::boolean';
            elsif kinds[level] = 'array' and tokens[i + 1] = ')' and starts_with(tokens[i + 2], '::') then
                token := ']::' || coalesce(case when are_names[level] then rpc_migrations.converted_columns(tree) end, 'pg_catalog."any"');
            end if;
            level := level - 1;
        else
            if token in ('AND', 'OR') then
                joined_by[level] := token;
            end if;
            are_names[level] := are_names[level] and token ~ '^(["a-z_]|[., ]+$)';
        end if;
        written := written || token;
    end loop;
    return written;
end;
$function$;
