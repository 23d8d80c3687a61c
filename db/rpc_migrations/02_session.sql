-- The session that a text (the SQL of a step, or of another call) runs in. It belongs to the REST layer's pool, and the
-- application's next request gets it: so what a text leaves behind in it (settings, temporary tables, session locks, prepared
-- statements, cursors, channels) is reset after each text, also after one that fails. And the text runs as the database's
-- owner, with names that are looked up in schemas where others may create things: nothing of theirs may pass for PostgreSQL's own.

-- What a session keeps beyond its transaction, to be compared afterwards. "names": settings to be noted by name, because those
-- with a dot in their names are listed nowhere.
create or replace function rpc_migrations.session_state(names text[]) returns jsonb
language plpgsql volatile
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        with listed as materialized (select s.name, s.setting, s.source from pg_catalog.pg_settings as s)  -- takes a millisecond
        select jsonb_build_object(
            'settings', (
                select coalesce(jsonb_object_agg(s.name, s.setting), '{}')
                from listed as s
                where
                    s.source = 'session'
                    and s.name not in ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable')
            ),
            'named', (
                select coalesce(jsonb_object_agg(n, current_setting(n, true)), '{}')
                from unnest(names) as n
                where not exists (select from listed as s where lower(s.name) = n)
            ),
            'locks', (
                select coalesce(jsonb_agg(jsonb_build_array(l.classid, l.objid, l.objsubid, l.mode)), '[]')
                from pg_catalog.pg_locks as l
                where l.locktype = 'advisory' and l.granted and l.pid = pg_backend_pid()
            ),
            'temporary', (
                select coalesce(jsonb_agg(jsonb_build_array(d.classid, d.objid)), '[]')
                from pg_catalog.pg_depend as d
                where d.refclassid = 'pg_catalog.pg_namespace'::regclass and d.refobjid = pg_my_temp_schema()
            ),
            'prepared', (
                select coalesce(jsonb_agg(p.name), '[]') from pg_catalog.pg_prepared_statements as p where p.from_sql
            ),
            'cursors', (select coalesce(jsonb_agg(c.name), '[]') from pg_catalog.pg_cursors as c),  -- any keeps its tables in use
            'channels', (select coalesce(jsonb_agg(c), '[]') from pg_listening_channels() as c)
        )
    );
end;
$function$;


-- The settings that a text names where it sets one.
create or replace function rpc_migrations.settings_named_in(query text) returns text[]
language sql immutable
set search_path = ''
as $function$
    select coalesce(array_agg(distinct lower(replace(coalesce(found[1], found[2]), '"', ''))), '{}')
    from regexp_matches(
        query, '\mset(?:\s+(?:session|local))?\s+("?[\w$]+"?(?:\."?[\w$]+"?)*)|\mset_config\s*\(\s*''([\w$.]+)''', 'gi'
    ) as found;
$function$;


-- Makes the session what it was: each setting has its old value again for the rest of the transaction, and after it the
-- session's default, which is what a session of the pool had before the transaction.
create or replace function rpc_migrations.restore_session(before jsonb, names text[]) returns void
language plpgsql
set search_path = ''
as $function$
declare
    now_there jsonb := rpc_migrations.session_state(names);
    changed record;
    channel record;
begin
    for changed in
        select s.key as name, before -> 'settings' ->> s.key as value
        from pg_catalog.jsonb_each_text(now_there -> 'settings') as s
        where s.value is distinct from before -> 'settings' ->> s.key or pg_catalog.lower(s.key) = any (names)
        union all
        select s.key, before -> 'named' ->> s.key
        from pg_catalog.jsonb_each_text(now_there -> 'named') as s
        where s.value is not null and s.key not in ('role', 'session_authorization', 'seed')
    loop
        execute 'reset ' || rpc_migrations.setting_name(changed.name);
        perform pg_catalog.set_config(changed.name, changed.value, true) where changed.value is not null;
    end loop;
    -- What was set before and is not now was reset to the session's default.
    perform pg_catalog.set_config(s.key, s.value, true)
    from pg_catalog.jsonb_each_text(before -> 'settings') as s
    where not now_there -> 'settings' ? s.key;
    -- A LISTEN is not to be seen before its transaction has ended.
    unlisten *;
    for channel in select c.name from pg_catalog.jsonb_array_elements_text(before -> 'channels') as c (name) loop
        execute pg_catalog.format('listen %I', channel.name);
    end loop;
    if now_there - 'settings' - 'named' <> before - 'settings' - 'named' then
        perform rpc_migrations.release_leftovers(now_there, before);
    end if;
end;
$function$;


-- The name of a setting as SQL takes it, each part quoted.
create or replace function rpc_migrations.setting_name(name text) returns text
language sql immutable
set search_path = ''
as $function$
    select string_agg(quote_ident(part), '.' order by place) from string_to_table(name, '.') with ordinality as p (part, place);
$function$;


-- Releases what the session has of locks, temporary objects, prepared statements and cursors and did not have before.
-- Advisory locks of the transaction cannot be told from those of the session; unlocking one warns, and does nothing.
create or replace function rpc_migrations.release_leftovers(now_there jsonb, before jsonb) returns void
language plpgsql
set search_path = ''
set client_min_messages = error
as $function$
declare
    item jsonb;
    statement text;
begin
    for statement in
        select pg_catalog.format('close %I', c) from pg_catalog.jsonb_array_elements_text(now_there -> 'cursors') as c
        where not before -> 'cursors' ? c
        union all
        select pg_catalog.format('deallocate %I', p) from pg_catalog.jsonb_array_elements_text(now_there -> 'prepared') as p
        where not before -> 'prepared' ? p
    loop
        execute statement;
    end loop;
    for item in
        select t
        from pg_catalog.jsonb_array_elements(now_there -> 'temporary') as t
        where
            not before -> 'temporary' @> pg_catalog.jsonb_build_array(t)
            -- The sequence of an identity column goes with its table, and not before it.
            and not exists (
                select from pg_catalog.pg_depend as d
                where d.classid = (t ->> 0)::oid and d.objid = (t ->> 1)::oid and d.deptype = 'i'
            )
    loop
        -- Gone already where it belonged to another one of them.
        select pg_catalog.format('drop %s %s cascade', o.type, o.identity) into statement
        from pg_catalog.pg_identify_object((item ->> 0)::oid, (item ->> 1)::oid, 0) as o
        where o.identity is not null;
        continue when not found;
        execute statement;
    end loop;
    for item in select l from pg_catalog.jsonb_array_elements(now_there -> 'locks') as l where not before -> 'locks' @> pg_catalog.jsonb_build_array(l) loop
        perform rpc_migrations.unlock(item);
    end loop;
end;
$function$;


-- Gives up an advisory lock of the session, [classid, objid, objsubid, mode] as pg_locks has it, as often as it is held. Two
-- keys of four bytes have objsubid 2, one of eight has 1 (PostgreSQL's documentation of pg_locks).
create or replace function rpc_migrations.unlock(held jsonb) returns void
language plpgsql
set search_path = ''
as $function$
declare
    high bigint := held ->> 0;
    low bigint := held ->> 1;
    suffix text := case when held ->> 3 = 'ShareLock' then '_shared' else '' end;
    unlocked boolean := true;
begin
    while unlocked and exists (
        select from pg_catalog.pg_locks as l
        where
            l.locktype = 'advisory' and l.pid = pg_catalog.pg_backend_pid()
            and pg_catalog.jsonb_build_array(l.classid, l.objid, l.objsubid, l.mode) = held
    ) loop
        if held ->> 2 = '1' then
            execute pg_catalog.format('select pg_catalog.pg_advisory_unlock%s($1)', suffix) into unlocked
            using (high << 32) | low;
        else
            execute pg_catalog.format('select pg_catalog.pg_advisory_unlock%s($1, $2)', suffix) into unlocked
            using high::bit(32)::integer, low::bit(32)::integer;
        end if;
    end loop;
end;
$function$;


-- The search_path of a session of the owner's own, such as psql's: the setting of its role, of the database or of both. (The
-- session that we are in is the REST layer's.)
create or replace function rpc_migrations.path_of_the_owner() returns text
language sql stable
set search_path = ''
as $function$
    select coalesce(
        (
            select substr(setting, 13)
            from pg_catalog.pg_db_role_setting as s
            cross join unnest(s.setconfig) as setting
            where
                setting ^@ 'search_path='
                and s.setrole in (0, current_user::regrole)
                and s.setdatabase in (0, (select d.oid from pg_catalog.pg_database as d where d.datname = current_database()))
            order by s.setrole <> 0 desc, s.setdatabase <> 0 desc
            limit 1
        ),
        '"$user", public, extensions'
    );
$function$;


-- What other roles have put into the schemas of a search_path that PostgreSQL would take for its own, or for the owner's:
-- public.lower(varchar) fits lower(name) better than pg_catalog's lower(text) does, public.crypt(text, text) is found before the one in
-- extensions, and each would run as the database's owner. A type (only a domain calls anything) hides one of its name further on.
-- "of_any_name": also where nothing else has the name. (Compiled, as its estimate suggests, it takes 65 ms, not 1.)
create or replace function rpc_migrations.impostors(path text, of_any_name boolean default false) returns setof text
language plpgsql volatile
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
as $function$
declare
    looked_in name[];
begin
    perform pg_catalog.set_config('search_path', path, true);
    looked_in := pg_catalog.current_schemas(false);
    perform pg_catalog.set_config('search_path', '', true);
    return query
        with
        others as materialized (
            select r.oid from pg_catalog.pg_roles as r where not pg_has_role(r.oid, current_user, 'usage')
        ),
        schemas as materialized (
            select n.oid, n.nspname, n.nspowner from pg_catalog.pg_namespace as n
            where n.nspname = any (looked_in) and n.nspname !~ '^pg_'
        ),
        found as materialized (  -- nearly always empty, so that those of the same name, which are many, are not looked at
            select format('function %s of role %s', p.oid::regprocedure, p.proowner::regrole) as what, 'function' as kind, p.proname as name
            from pg_catalog.pg_proc as p
            where p.pronamespace in (select n.oid from schemas as n) and p.proowner in (select other.oid from others as other)
            union all
            select format('operator %s of role %s', o.oid::regoperator, o.oprowner::regrole), 'operator', o.oprname
            from pg_catalog.pg_operator as o
            where o.oprnamespace in (select n.oid from schemas as n) and o.oprowner in (select other.oid from others as other)
            union all
            select format('domain %s of role %s', t.oid::regtype, t.typowner::regrole), 'domain', t.typname
            from pg_catalog.pg_type as t
            where
                t.typtype = 'd'
                and t.typnamespace in (select n.oid from schemas as n) and t.typowner in (select other.oid from others as other)
        )
        -- Nobody has chosen to look there: whoever makes a schema of this name comes before public.
        select format('schema %I of role %s', n.nspname, n.nspowner::regrole)
        from schemas as n
        where n.nspname = current_user and n.nspowner in (select other.oid from others as other)
        union all
        -- Found in no schema: ::text and to_jsonb() call it for every value of that type.
        select format('cast from %s to %s by function %s of role %s', format_type(c.castsource, -1), format_type(c.casttarget, -1),
            p.oid::regprocedure, p.proowner::regrole)
        from pg_catalog.pg_cast as c
        inner join pg_catalog.pg_proc as p on p.oid = c.castfunc
        where c.oid >= 16384 and p.proowner in (select other.oid from others as other)  -- lower ones are PostgreSQL's own
        union all
        select f.what
        from found as f
        where
            of_any_name  -- EXISTS would be hashed: all of these catalogs
            or (
                select true from pg_catalog.pg_proc as s
                where
                    f.kind = 'function' and s.proname = f.name and s.proowner not in (select other.oid from others as other)
                    and (s.pronamespace = 'pg_catalog'::regnamespace or s.pronamespace in (select n.oid from schemas as n))
                limit 1
            )
            or (
                select true from pg_catalog.pg_operator as s
                where
                    f.kind = 'operator' and s.oprname = f.name and s.oprowner not in (select other.oid from others as other)
                    and (s.oprnamespace = 'pg_catalog'::regnamespace or s.oprnamespace in (select n.oid from schemas as n))
                limit 1
            )
            or (
                select true from pg_catalog.pg_type as s
                where
                    f.kind = 'domain' and s.typname = f.name and s.typowner not in (select other.oid from others as other)
                    and s.typnamespace in (select n.oid from schemas as n)
                limit 1
            );
end;
$function$;


-- Raises RM001 if there are impostors where the owner looks names up.
create or replace function rpc_migrations.refuse_impostors() returns void
language plpgsql
set search_path = ''
as $function$
declare
    impostors text;
begin
    select string_agg(i, '; ') into impostors from rpc_migrations.impostors(rpc_migrations.path_of_the_owner()) as i;
    if impostors is not null then
        raise exception 'something that others made could be taken for PostgreSQL''s own, or for yours: %', impostors
        using errcode = 'RM001', hint = 'Nothing of it remains. See who made it and why; then drop it, or give it to the role that runs this.';
    end if;
end;
$function$;


-- Lets the text write all rows of a table, as over a direct connection. pg-safeupdate, which guards the API's sessions, refuses an UPDATE or
-- DELETE without WHERE: in an application that is a mistake, in a migration it is meant, also in a function that it calls. On hosted
-- projects postgres may switch it off (supautils.privileged_role_allowed_configs), and by SET alone; elsewhere it stays on. Only where it can
-- be switched on again as well, as restore_session does.
create or replace function rpc_migrations.allow_writes_without_where() returns void
language plpgsql
set search_path = ''
as $function$
declare
    setting constant text := 'safeupdate.enabled';
begin
    if pg_catalog.current_setting(setting, true) = 'on' then
        execute pg_catalog.format('set local %1$s = off; reset %1$s; set local %1$s = off', setting);
    end if;
exception when insufficient_privilege then
    null;  -- it refuses them, and says so
end;
$function$;


-- Runs a text (see run_statements) such that nothing but its effect remains in the session, and that it calls nothing that others
-- have put in the place of PostgreSQL's own before: raises RM001 where they have. As over a direct connection there is no API caller: the
-- text does not see the caller's claims (auth.role() is null in it).
create or replace function rpc_migrations.run_text(query text, separator text default null) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    -- RESET ALL resets these two, and the record of calls needs them.
    names text[] := rpc_migrations.settings_named_in(query) || array['request.jwt.claims', 'request.headers'];
    before jsonb := rpc_migrations.session_state(names);
    answer jsonb;
begin
    perform rpc_migrations.refuse_impostors();
    -- An empty text would be no JSON where a function takes it for some.
    perform pg_catalog.set_config('request.jwt.claims', '{}', true)
    where pg_catalog.current_setting('request.jwt.claims', true) <> '';
    perform rpc_migrations.allow_writes_without_where();
    begin
        answer := rpc_migrations.run_statements(query, separator);
    exception when others or query_canceled or assert_failure then
        -- Locks of the session and prepared statements outlive the error.
        perform rpc_migrations.restore_session(before, names);
        raise;
    end;
    perform pg_catalog.set_config('search_path', '', true);
    -- A text that has dropped this schema, as remove_sql_function.py sends it, leaves no function to restore with; another version's may
    -- have another name. (Types are qualified: the text may have left one called jsonb in pg_temp, which is looked in first.)
    if pg_catalog.to_regprocedure('rpc_migrations.restore_session(pg_catalog.jsonb, pg_catalog.text[])') is not null then
        perform rpc_migrations.restore_session(before, names);
    end if;
    return answer;
end;
$function$;
