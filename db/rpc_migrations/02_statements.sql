-- Running a text: one statement after the other, each with a short wait for locks. Errors keep what they say; their detail adds which
-- statement it was, and in which functions of the application it happened.

-- Sessions that may be in the way of a lock: those whose transaction holds a lock on a table, the oldest first.
-- Never shows the text of a query. Only those that are older than the lock timeout can have caused it.
create or replace function rpc_migrations.lock_holders(relation regclass default null) returns jsonb
language sql volatile
set search_path = ''
as $function$
    select coalesce(jsonb_agg(to_jsonb(h) order by h.transaction_seconds desc nulls last), '[]')
    from (
        select
            a.pid,
            coalesce(a.usename, a.backend_type) as role,       -- autovacuum has no role
            a.state,
            round(extract(epoch from clock_timestamp() - a.xact_start)::numeric, 1) as transaction_seconds,
            string_agg(distinct l.relation::regclass::text, ', ') as relation
        from pg_catalog.pg_locks as l
        inner join pg_catalog.pg_class as c on c.oid = l.relation
        inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        inner join pg_catalog.pg_stat_activity as a on a.pid = l.pid
        where
            l.granted
            and l.locktype = 'relation'
            and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
            and l.pid <> pg_backend_pid()
            and (l.relation = lock_holders.relation or (lock_holders.relation is null and n.nspname !~ '^pg_'))
        group by a.pid, a.usename, a.backend_type, a.state, a.xact_start
        union all
        -- It has no session, and stays for as long as nobody ends it.
        select
            null, p.owner, format('prepared transaction %L, until COMMIT PREPARED or ROLLBACK PREPARED', p.gid),
            round(extract(epoch from clock_timestamp() - p.prepared)::numeric, 1),
            string_agg(distinct l.relation::regclass::text, ', ')
        from pg_catalog.pg_prepared_xacts as p
        inner join pg_catalog.pg_locks as t on t.pid is null and t.transactionid = p.transaction and t.granted
        inner join pg_catalog.pg_locks as l on l.pid is null and l.locktype = 'relation' and l.virtualtransaction = t.virtualtransaction
        inner join pg_catalog.pg_class as c on c.oid = l.relation
        inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        where
            p.database = current_database()
            and (l.relation = lock_holders.relation or (lock_holders.relation is null and n.nspname !~ '^pg_'))
        group by p.gid, p.owner, p.prepared
        order by 4 desc nulls last
        limit 5
    ) as h;
$function$;


-- Ends an autovacuum that a step would wait for: on a table that its text names, or that its copy is about or a foreign key connects with
-- that. PostgreSQL does so for whoever has waited as long as deadlock_timeout, which no lock of ours may. But behind one in this mode
-- no read and no write waits. It is given up at once; one that prevents a wraparound goes on, as it does for psql.
create or replace function rpc_migrations.end_autovacuum(query text) returns void
language plpgsql
set search_path = ''
as $function$
declare
    relation regclass;
begin
    for relation in
        with copied as (
            select t.oid
            from rpc_migrations.copies as c
            cross join lateral unnest(array[c.old_table, c.new_table]) as t (oid)
            where c.migration = current_setting('rpc_migrations.migration', true) and c.ended_at is null
        )
        select c.oid
        from pg_catalog.pg_stat_activity as a
        inner join pg_catalog.pg_locks as l on l.pid = a.pid and l.granted and l.mode = 'ShareUpdateExclusiveLock'
        inner join pg_catalog.pg_class as c on c.oid = l.relation and c.relkind = 'r'
        where
            a.backend_type = 'autovacuum worker' and a.datname = current_database()
            and has_table_privilege(c.oid, 'update, delete, truncate')
            and (
                strpos(lower(replace(end_autovacuum.query, '""', '"')), lower(c.relname)) > 0
                or c.oid in (select t.oid from copied as t)
                or exists (
                    select from pg_catalog.pg_constraint as k
                    where k.contype = 'f' and c.oid in (k.conrelid, k.confrelid)
                        and exists (select from copied as t where t.oid in (k.conrelid, k.confrelid))
                )
            )
    loop
        begin
            perform set_config('lock_timeout',
                ceil(1000 * extract(epoch from current_setting('deadlock_timeout')::interval + interval '0.5 seconds')) || 'ms', true);
            execute format('lock table only %s in share update exclusive mode', relation);
            raise exception 'only asked for' using errcode = 'RM099';
        exception when lock_not_available or undefined_table or syntax_error or sqlstate 'RM099' then
            null;  -- a table that was dropped meanwhile has no name
        end;
    end loop;
end;
$function$;


-- Runs a text in this transaction. Returns the rows, as a JSON array of objects, if it is one statement that returns rows;
-- else the number of rows that its last statement affected. Statements are analysed one after the other, so that each
-- may use what those before it have made. PostgreSQL itself says whether the text is one statement that returns rows: it
-- opens it as a cursor or refuses to, before any of it runs. To do so it keeps the whole text once for each statement, of
-- which there are no more than semicolons: a text for which that would be more than 64 MB counts as several statements.
-- Names in the text are looked up as in a session of the owner's, temporary tables first: otherwise a text would write to
-- the permanent table of the same name. Our own code here qualifies every name.
create or replace function rpc_migrations.run_sql(query text) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    cursor_name refcursor;
    current_row record;
    all_rows jsonb[] := '{}';
    affected bigint;
    semicolons bigint := pg_catalog.length(query) - pg_catalog.length(pg_catalog.replace(query, ';', ''));
    returns_rows boolean := pg_catalog.octet_length(query) * semicolons < 64000000;
begin
    perform pg_catalog.set_config('search_path', rpc_migrations.path_of_the_owner(), true);
    if returns_rows then
        begin
            open cursor_name for execute query;
        exception when others then
            -- It returns no rows, is several statements (of which one may use what another one makes), or is wrong:
            -- what it is shows when it runs.
            returns_rows := false;
        end;
    end if;
    if not returns_rows then
        execute query;
        get diagnostics affected = row_count;
        return pg_catalog.to_jsonb(affected);
    end if;
    loop
        fetch cursor_name into current_row;
        exit when not found;
        all_rows := pg_catalog.array_append(all_rows, pg_catalog.to_jsonb(current_row));
    end loop;
    close cursor_name;
    return pg_catalog.to_jsonb(all_rows);
end;
$function$;


-- The tables of our schema that are not the journal's: new versions of tables, which grow here until the swap.
create or replace function rpc_migrations.new_tables() returns text[]
language sql volatile
set search_path = ''
as $function$
    select array(
        select c.relname
        from pg_catalog.pg_class as c
        where
            c.relnamespace = 'rpc_migrations'::regnamespace and c.relkind = 'r' and c.relname !~ '^(log|reserve)_[0-9]+$'
            and c.relname <> all (rpc_migrations.journal_tables())
    );
$function$;


-- What a comment looks like, as a regular expression.
create or replace function rpc_migrations.comment_pattern() returns text
language sql immutable
set search_path = ''
as $function$
    select '--[^\n]*|/\*([^*]|\*+[^*/])*\*+/';
$function$;


-- A statement without the comments before it.
create or replace function rpc_migrations.without_comments_before(statement text) returns text
language sql immutable
set search_path = ''
as $function$
    select regexp_replace(statement, '^(\s+|' || rpc_migrations.comment_pattern() || ')+', '');
$function$;


-- Runs a step's text, one statement after the other: "separator" is what divides them (null: there is only one, or the text
-- was not split by whoever sent it). Returns what run_sql returns for the last one. While we wait for a lock, everyone who
-- comes after us waits too: so each statement waits for a moment only, whatever those before it have set. An error keeps
-- what it says; its detail adds which statement it was, and in which functions it happened. Names are looked up as in run_sql.
create or replace function rpc_migrations.run_statements(query text, separator text) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    statements text[] := case when separator is null then array[query] else pg_catalog.string_to_array(query, separator) end;
    statement text;
    place integer := 0;
    answer jsonb;
    affected bigint;
    error_code text;
    error_message text;
    error_detail text;
    error_hint text;
    error_context text;
    -- An application whose transactions overlap for longer than this could be waited for in vain: so what it is allowed to wait counts here, too.
    lock_timeout text := greatest(100, rpc_migrations.lock_budget() / 2) || 'ms';
    path text := rpc_migrations.path_of_the_owner();
    path_before text := path;
    looked_at timestamptz := clock_timestamp();
begin
    perform pg_catalog.set_config('search_path', path, true);
    foreach statement in array statements loop
        place := place + 1;
        perform pg_catalog.set_config('lock_timeout', lock_timeout, true);
        if pg_catalog.array_length(statements, 1) = 1 then
            answer := rpc_migrations.run_sql(statement);
        else
            execute statement;
            get diagnostics affected = row_count;
        end if;
        -- Reset, in whatever way, it is what this session began with: the path of the REST layer's role.
        if pg_catalog.current_setting('search_path') <> path_before then
            perform pg_catalog.set_config('search_path', path, true) from pg_catalog.pg_settings as s
            where s.name = 'search_path' and s.source <> 'session';
            path_before := pg_catalog.current_setting('search_path');
        end if;
        -- Others go on meanwhile: so from time to time, and at the end. (A text that has dropped this schema leaves no function for that.)
        if (place = pg_catalog.array_length(statements, 1) or pg_catalog.clock_timestamp() > looked_at + interval '100 ms')
            and pg_catalog.to_regprocedure('rpc_migrations.refuse_impostors()') is not null
        then
            perform rpc_migrations.refuse_impostors();
            looked_at := pg_catalog.clock_timestamp();
        end if;
    end loop;
    -- What is deferred would fail at the commit, and nobody could tell which step it was. From here on nothing is deferred in this
    -- transaction: so only where something may be, which makes the step the last one of its request (see run_steps).
    place := 0;
    if exists (
        select from pg_catalog.pg_locks as l
        inner join pg_catalog.pg_trigger as t on t.tgrelid = l.relation
        where
            l.pid = pg_catalog.pg_backend_pid() and l.locktype = 'relation' and t.tgdeferrable
            and l.mode not in ('AccessShareLock', 'RowShareLock')
    ) then
        set constraints all immediate;
    end if;
    return coalesce(answer, pg_catalog.to_jsonb(affected));
exception when others or query_canceled or assert_failure then
    get stacked diagnostics
        error_code = returned_sqlstate, error_message = message_text, error_detail = pg_exception_detail,
        error_hint = pg_exception_hint, error_context = pg_exception_context;
    raise exception using
        errcode = error_code,
        message = error_message,
        detail = rpc_migrations.place_of_error(error_detail, error_context, place, pg_catalog.array_length(statements, 1), statement),
        hint = coalesce(nullif(error_hint, ''), case when error_code = '42P07' then
            coalesce(rpc_migrations.name_of_ours_in_words(error_message, statement), rpc_migrations.forgotten_tables_in_words()) end, '');
end;
$function$;


-- Where a table "already exists" because something of ours is called so. Null: it is not.
create or replace function rpc_migrations.name_of_ours_in_words(error_message text, statement text) returns text
language sql volatile
set search_path = ''
as $function$
    select format('rpc_migrations has a %1$I of its own. Rebuild the table by a line `-- rebuild: `, which makes the new one elsewhere.', c.relname)
    from pg_catalog.pg_class as c
    where
        c.relnamespace = 'rpc_migrations'::regnamespace and c.relkind in ('r', 'c') and c.relname <> all (rpc_migrations.new_tables())
        and strpos(error_message, '"' || c.relname || '"') > 0 and statement ~ '\mrpc_migrations\M';
$function$;


-- Where a table "already exists": new tables that no migration is known to work on, and how to be rid of them. Null: there are none.
create or replace function rpc_migrations.forgotten_tables_in_words() returns text
language sql volatile
set search_path = ''
as $function$
    select 'No migration is known to work on this one, so it was left behind. To remove it: '
        || string_agg(format('drop table rpc_migrations.%I;', n), ' ' order by n)
    from unnest(rpc_migrations.new_tables()) as n
    where
        not exists (
            select from rpc_migrations.copies as c where c.ended_at is null and c.new_table = to_regclass(format('rpc_migrations.%I', n))
        )
        and not exists (select from rpc_migrations.journal as j where j.undone_at is null and n = any (j.made));
$function$;


-- The detail of an error, with the place where it happened: a line "Statement 2 of 5" (or "At the commit"), and the context
-- of what that statement called, without our functions and what these have run.
create or replace function rpc_migrations.place_of_error(
    detail text, context text, place integer, places integer, statement text
) returns text
language sql immutable
set search_path = ''
as $function$
    select concat_ws(
        e'\n',
        nullif(place_of_error.detail, ''),
        nullif(
            rtrim(left(
                regexp_replace(
                    split_part(split_part(
                        place_of_error.context, 'SQL statement "' || left(place_of_error.statement, 40), 1
                    ), 'PL/pgSQL function rpc_migrations.run_', 1),
                    e'(SQL statement "((?!\nPL/pgSQL function ).)*"\n)?PL/pgSQL function rpc_migrations\\.[^\n]*(\n|$)', '', 'g'
                ), 2000
            ), e' \n'),
            ''
        ),
        case when place_of_error.place = 0 then 'At the commit' else format('Statement %s of %s', place_of_error.place, place_of_error.places) end
    );
$function$;
