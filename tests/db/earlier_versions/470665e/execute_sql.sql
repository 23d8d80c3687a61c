-- The private schema rpc_migrations: the journal of migrations, and the functions that run a step exactly once.
--
-- The files of this folder are deployed together, in the order of their numbers, in one transaction. Running them again
-- brings an older version up to date and keeps the journal. They need no superuser: the role that runs them (postgres,
-- on Supabase) owns what they make. Nothing relies on default privileges, in either direction: the last file revokes
-- and grants every right by name.

create schema if not exists rpc_migrations;
comment on schema rpc_migrations is 'Journal and functions of the migrations run through public.execute_sql. Not exposed by the API.';

-- One row for each time somebody ran a migration or its rollback.
create table if not exists rpc_migrations.runs (
    id uuid primary key,
    migration text not null,
    action text not null check (action in ('migrate', 'roll back')),
    client text not null,                       -- user@host, shown to whoever finds the migration busy
    pid integer,                                -- the client's process
    started_at timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    outcome text,                               -- done, failed, interrupted, taken over; null: under way or killed
    message text
);

-- One row for each step, written in the same transaction as the step's effect.
create table if not exists rpc_migrations.journal (
    id bigint generated always as identity primary key,
    migration text not null,
    step text not null,
    checksum text not null,
    run uuid,                                   -- null: run in the SQL Editor or by psql
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,                    -- null: waits for a lock, or is a batch step under way
    calls integer not null default 0,           -- calls that took effect
    rows bigint not null default 0,
    seconds double precision not null default 0,
    result jsonb,
    undone_at timestamptz                       -- set by a rollback; the step may then be run again
);

-- One row for each table that a migration rebuilt (see online_copy.sql).
create table if not exists rpc_migrations.copies (
    id bigint generated always as identity primary key,
    migration text not null,
    state text not null check (
        state in ('copying', 'copied', 'swapped', 'rolling back', 'rolled back', 'abandoned')
    ),
    schema_name name not null,
    table_name name not null,
    backup_name name not null,
    old_table oid,                              -- null: there was no table before
    new_table oid not null,
    source oid,                                 -- where rows are read: the old table; the new one in a rollback
    target oid,
    keys jsonb,                                 -- the primary key: [{name, operator}]
    columns jsonb,                              -- what is copied: [{name, type, fallback, as_text}]
    definition jsonb,                           -- what the source looked like: [{kind, name, statement}]
    old_definition jsonb,                       -- what the old table looked like, for a rollback
    filenode oid,                               -- another one: the source was rewritten, its ctids mean nothing now
    pass integer not null default 1,            -- of the search for changes in a rollback: changed rows, deleted rows
    next_block bigint not null default 0,
    end_block bigint not null default 0,
    chunk_blocks bigint not null default 16,
    compared_at timestamptz,
    quieted jsonb not null default '{}',        -- triggers of the target that are off until the swap: {name: state}
    renamed jsonb not null default '[]',        -- what the swap renamed: [{kind, old_name, new_name}]
    unvalidated jsonb not null default '[]',    -- foreign keys that the swap made anew: [{relation, name}]
    kept_as text,                               -- the migrated table's name after a rollback
    started_at timestamptz not null default clock_timestamp(),
    swapped_at timestamptz,
    ended_at timestamptz                        -- rolled back or abandoned
);

create unique index if not exists copies_current
on rpc_migrations.copies (migration) where ended_at is null;

create unique index if not exists journal_current_step
on rpc_migrations.journal (migration, step) where undone_at is null;

create index if not exists runs_migration_idx on rpc_migrations.runs (migration, started_at);


-- Functions of an older version go first: "create or replace" could not change what they take and answer. Those that
-- capture the changes of a table that is being rebuilt belong to that copy, and stay.
do $block$
declare
    old_function regprocedure;
begin
    for old_function in
        select p.oid
        from pg_catalog.pg_proc as p
        where p.pronamespace = 'rpc_migrations'::regnamespace and p.proname !~ '^capture_[0-9]+$'
    loop
        execute format('drop function %s', old_function);
    end loop;
end;
$block$;


-- The key of the advisory lock that keeps two sessions from being inside the same migration at once.
create or replace function rpc_migrations.lock_key(migration text) returns bigint
language sql immutable
set search_path = ''
as $function$
    select hashtextextended('rpc_migrations ' || migration, 0);
$function$;


-- How many rows a batch step should touch: what it wants, less two bits for each statement timeout that cut it before.
create or replace function rpc_migrations.batch_size(wanted bigint) returns bigint
language sql stable
set search_path = ''
as $function$
    select greatest(1, wanted >> least(coalesce(nullif(current_setting('rpc_migrations.shrink', true), '')::integer, 0), 40));
$function$;


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
            a.usename as role,
            a.state,
            round(extract(epoch from clock_timestamp() - a.xact_start)::numeric, 1) as transaction_seconds,
            string_agg(distinct l.relation::regclass::text, ', ') as relation,
            string_agg(distinct l.mode, ', ') as mode
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
        group by a.pid, a.usename, a.state, a.xact_start
        order by a.xact_start
        limit 5
    ) as h;
$function$;


-- Who is inside this migration, for an answer "busy".
create or replace function rpc_migrations.busy(migration text) returns jsonb
language sql volatile
set search_path = ''
as $function$
    select jsonb_build_object(
        'state', 'busy',
        'holder', (
            select to_jsonb(h)
            from (
                select
                    l.pid,
                    a.state,
                    round(extract(epoch from clock_timestamp() - a.xact_start)::numeric, 1) as transaction_seconds
                from pg_catalog.pg_locks as l
                left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
                where
                    l.locktype = 'advisory' and l.granted and l.objsubid = 1
                    and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
                    and (l.classid::bigint << 32) | l.objid::bigint = rpc_migrations.lock_key(busy.migration)
                limit 1
            ) as h
        ),
        'run', (
            select to_jsonb(r)
            from rpc_migrations.runs as r
            where r.migration = busy.migration and r.ended_at is null
            order by r.started_at desc
            limit 1
        )
    );
$function$;


-- Runs a text in this transaction. The rows, as a JSON array of objects, where it is one statement that returns rows;
-- else the number of rows that its last statement affected. PostgreSQL itself tells which of the two it is: a text that
-- cannot be opened as a cursor is refused before any of it runs.
create or replace function rpc_migrations.run_sql(query text) returns jsonb
language plpgsql
set search_path = public, extensions, pg_temp
as $function$
declare
    cursor_name refcursor;
    current_row record;
    all_rows jsonb[] := '{}';
    affected bigint;
    returns_rows boolean := true;
begin
    begin
        open cursor_name for execute query;
    exception when invalid_cursor_definition then
        returns_rows := false;
    end;
    if not returns_rows then
        execute query;
        get diagnostics affected = row_count;
        return to_jsonb(affected);
    end if;
    loop
        fetch cursor_name into current_row;
        exit when not found;
        all_rows := array_append(all_rows, to_jsonb(current_row));
    end loop;
    close cursor_name;
    return to_jsonb(all_rows);
end;
$function$;


-- Notes that the run is alive, and returns null; or an answer "taken_over" when a newer run of the same migration has
-- taken its place in the meantime (this one was away for long: a suspended laptop).
create or replace function rpc_migrations.touch_run(run uuid) returns jsonb
language plpgsql
set search_path = ''
as $function$
begin
    update rpc_migrations.runs as r
    set last_seen_at = clock_timestamp()
    where r.id = touch_run.run and r.ended_at is null;
    if found or touch_run.run is null then
        return null;
    end if;
    return jsonb_build_object('state', 'taken_over', 'by', (
        select to_jsonb(newer)
        from rpc_migrations.runs as mine
        inner join rpc_migrations.runs as newer on newer.migration = mine.migration and newer.started_at > mine.started_at
        where mine.id = touch_run.run
        order by newer.started_at desc
        limit 1
    ));
end;
$function$;


-- Runs one step of a migration exactly once, however often it is sent: the lock, the look into the journal, the step's
-- text and the journal row are one transaction. A batch step is one statement whose single row says whether it is
-- "done"; it is sent until it is. Answers an object with "state":
--   done        the step is done; "already" if it was so before this call
--   more        the batch took effect; send the step again
--   waiting     a lock was not to be had within the lock timeout; nothing was done (or, in a batch, only what is in
--               "rows"); send again after a pause
--   busy        another session is inside this migration; nothing was done
--   taken_over  a newer run has taken this run's place; nothing was done
create or replace function rpc_migrations.run_step(
    query text, migration text, step text, checksum text, batch boolean default false, run uuid default null, shrink integer default 0
) returns jsonb
language plpgsql
set search_path = public, extensions, pg_temp
as $function$
declare
    entry rpc_migrations.journal;
    answer jsonb;
    first_row jsonb;
    is_done boolean := true;
    row_count bigint;
    began timestamptz := clock_timestamp();
begin
    if not pg_catalog.pg_try_advisory_xact_lock(rpc_migrations.lock_key(run_step.migration)) then
        return rpc_migrations.busy(run_step.migration);
    end if;
    answer := rpc_migrations.touch_run(run_step.run);
    if answer is not null then
        return answer;
    end if;

    entry := rpc_migrations.open_step(run_step.migration, run_step.step, run_step.checksum, run_step.run);
    if entry.finished_at is not null then
        return jsonb_build_object(
            'state', 'done', 'already', true, 'rows', entry.rows, 'seconds', entry.seconds, 'result', entry.result
        );
    end if;

    perform set_config('rpc_migrations.migration', run_step.migration, true);
    perform set_config('rpc_migrations.shrink', run_step.shrink::text, true);
    begin
        -- While we wait for a lock, everyone who comes after us waits too: so we wait for a moment only, and try again.
        perform set_config('lock_timeout', '100ms', true);
        answer := rpc_migrations.run_sql(run_step.query);
    exception when lock_not_available then
        return jsonb_build_object('state', 'waiting', 'rows', 0, 'holders', rpc_migrations.lock_holders());
    end;

    first_row := case when jsonb_typeof(answer) = 'array' then answer -> 0 end;
    if run_step.batch then
        if jsonb_typeof(first_row -> 'done') is distinct from 'boolean' or jsonb_array_length(answer) <> 1 then
            raise exception 'batch step "%" did not answer one row with a boolean column "done"', run_step.step
            using errcode = 'RM005',
                hint = 'Write the step as one statement that returns done (true when nothing is left) and, if you like, rows.';
        end if;
        is_done := (first_row ->> 'done')::boolean;
    end if;
    row_count := case
        when jsonb_typeof(answer) = 'number' then answer::bigint
        else coalesce((first_row ->> 'rows')::bigint, 0)
    end;

    update rpc_migrations.journal as j
    set
        calls = j.calls + 1,
        rows = j.rows + row_count,
        seconds = j.seconds + extract(epoch from clock_timestamp() - began),
        result = coalesce(first_row, j.result),
        finished_at = case when is_done then clock_timestamp() end
    where j.id = entry.id
    returning j.* into entry;

    return jsonb_build_object(
        'state', case when is_done then 'done' when first_row ? 'holders' and first_row -> 'holders' <> 'null' then 'waiting' else 'more' end,
        'already', false,
        'rows', row_count,
        'seconds', entry.seconds,
        'result', first_row,
        'holders', coalesce(first_row -> 'holders', 'null')
    );
end;
$function$;


-- The step's current journal row, made where there is none. A step that has had an effect keeps its text: refused with
-- RM002 when it comes back with another one. A forward step ends what a finished rollback left in the journal.
create or replace function rpc_migrations.open_step(migration text, step text, checksum text, run uuid)
returns rpc_migrations.journal
language plpgsql
set search_path = ''
as $function$
declare
    entry rpc_migrations.journal;
begin
    select j.* into entry
    from rpc_migrations.journal as j
    where j.migration = open_step.migration and j.step = open_step.step and j.undone_at is null;
    if found then
        if entry.calls > 0 and entry.checksum <> open_step.checksum then
            raise exception 'step "%" of % was run with another text on %', open_step.step, open_step.migration, entry.started_at
            using errcode = 'RM002',
                hint = 'Put the step''s old text back; or roll the migration back and run it again; or put the change into a new step.';
        end if;
        update rpc_migrations.journal as j
        set run = open_step.run, checksum = open_step.checksum
        where j.id = entry.id and j.finished_at is null
        returning j.* into entry;
        if not found then
            select j.* into entry from rpc_migrations.journal as j
            where j.migration = open_step.migration and j.step = open_step.step and j.undone_at is null;
        end if;
        return entry;
    end if;

    if open_step.step !~ '^roll back: ' then
        update rpc_migrations.journal as j
        set undone_at = clock_timestamp()
        where j.migration = open_step.migration and j.step ~ '^roll back: ' and j.undone_at is null;
    end if;
    insert into rpc_migrations.journal (migration, step, checksum, run)
    values (open_step.migration, open_step.step, open_step.checksum, open_step.run)
    returning * into entry;
    return entry;
end;
$function$;


-- Registers a run, or answers "busy" while another one is under way: seen within the last "patience" seconds and not
-- among "dead" (runs whose process the caller knows to be gone). Sent again with the same id, it changes nothing.
create or replace function rpc_migrations.start_run(
    run uuid, migration text, action text, client text, pid integer, patience double precision, dead uuid default null
) returns jsonb
language plpgsql
set search_path = ''
as $function$
begin
    if not pg_try_advisory_xact_lock(rpc_migrations.lock_key(start_run.migration)) then
        return rpc_migrations.busy(start_run.migration);
    end if;
    if exists (select from rpc_migrations.runs as r where r.id = start_run.run) then
        return jsonb_build_object('state', 'done');
    end if;
    if exists (
        select from rpc_migrations.runs as r
        where
            r.migration = start_run.migration and r.ended_at is null and r.id is distinct from start_run.dead
            and r.last_seen_at > clock_timestamp() - make_interval(secs => start_run.patience)
    ) then
        return rpc_migrations.busy(start_run.migration);
    end if;
    update rpc_migrations.runs as r
    set ended_at = clock_timestamp(), outcome = 'taken over'
    where r.migration = start_run.migration and r.ended_at is null;
    insert into rpc_migrations.runs (id, migration, action, client, pid)
    values (start_run.run, start_run.migration, start_run.action, start_run.client, start_run.pid);
    return jsonb_build_object('state', 'done');
end;
$function$;


-- Notes how a run ended.
create or replace function rpc_migrations.end_run(run uuid, outcome text, message text default null) returns void
language sql
set search_path = ''
as $function$
    update rpc_migrations.runs as r
    set ended_at = clock_timestamp(), outcome = end_run.outcome, message = end_run.message
    where r.id = end_run.run and r.ended_at is null;
$function$;


-- Where a migration stands: its steps and its last ten runs, the newest first.
create or replace function rpc_migrations.status(migration text) returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_build_object(
        'steps', (
            select coalesce(jsonb_agg(to_jsonb(j) order by j.id), '[]')
            from rpc_migrations.journal as j
            where j.migration = status.migration and j.undone_at is null
        ),
        'runs', (
            select coalesce(jsonb_agg(to_jsonb(r) order by r.started_at desc), '[]')
            from (
                select
                    runs.*,
                    (
                        select jsonb_agg(
                            jsonb_build_object('step', j.step, 'rows', j.rows, 'seconds', j.seconds, 'checksum', j.checksum)
                            order by j.id
                        )
                        from rpc_migrations.journal as j
                        where j.run = runs.id
                    ) as steps
                from rpc_migrations.runs
                where runs.migration = status.migration
                order by runs.started_at desc
                limit 10
            ) as r
        ),
        'copy', (
            select jsonb_build_object(
                'id', c.id, 'state', c.state, 'table', format('%I.%I', c.schema_name, c.table_name),
                'backup', format('%I.%I', c.schema_name, c.backup_name), 'kept_as', c.kept_as
            )
            from rpc_migrations.copies as c
            where c.migration = status.migration
            order by c.id desc
            limit 1
        )
    );
$function$;

-- What a table looks like: what can be carried over to its new version, what has changed, and what cannot be carried.

-- All that belongs to a table or depends on it and that we know how to make again: what kind of thing it is, its name,
-- its definition apart from its name (null where the name says all), the statement that makes it on "as_name", the
-- statement that must come first to take it off the table it is on (null: none), and when it is carried over: before
-- the copy (columns), after it (build), or in the swap, when the new table has the name that the statements mention.
create or replace function rpc_migrations.describe_table(relation oid, as_name text)
returns table (phase text, kind text, name text, definition text, statement text, detach text)
language sql stable
set search_path = ''
as $function$
    -- columns
    select
        'columns', 'column', a.attname::text, null,
        format('alter table %s add column %I %s%s%s%s', as_name, a.attname, format_type(a.atttypid, a.atttypmod),
            case when a.attcollation <> t.typcollation then ' collate ' || a.attcollation::regcollation end,
            case
                when a.attgenerated = 's' then format(' generated always as (%s) stored', pg_get_expr(d.adbin, d.adrelid))
                when a.attgenerated = 'v' then format(' generated always as (%s) virtual', pg_get_expr(d.adbin, d.adrelid))
                when a.attidentity <> '' then format(
                    ' generated %s as identity (increment by %s minvalue %s maxvalue %s start with %s cache %s %s)',
                    case a.attidentity when 'a' then 'always' else 'by default' end,
                    q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache,
                    case when q.seqcycle then 'cycle' else 'no cycle' end)
                when d.adbin is not null then ' default ' || pg_get_expr(d.adbin, d.adrelid)
            end,
            case when a.attnotnull then ' not null' end),
        null
    from pg_catalog.pg_attribute as a
    inner join pg_catalog.pg_type as t on t.oid = a.atttypid
    left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    left join pg_catalog.pg_depend as o
        on o.refclassid = 'pg_catalog.pg_class'::regclass and o.refobjid = a.attrelid and o.refobjsubid = a.attnum
        and o.classid = 'pg_catalog.pg_class'::regclass and o.deptype = 'i' and a.attidentity <> ''
    left join pg_catalog.pg_sequence as q on q.seqrelid = o.objid
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    union all
    -- constraints of its own; a foreign key that points at the table itself is among those that point at it, below
    select
        'build',
        case c.contype when 'p' then 'primary key' when 'u' then 'unique constraint' when 'c' then 'check constraint' else 'foreign key' end,
        case when c.contype = 'p' then '' else c.conname::text end,
        regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', ''),
        format('alter table %s add constraint %I %s', as_name, c.conname,
            regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', '') || case when c.contype = 'f' then ' not valid' else '' end),
        null
    from pg_catalog.pg_constraint as c
    where c.conrelid = relation and c.contype in ('p', 'u', 'c', 'f') and c.confrelid <> relation
    union all
    -- indexes that belong to no constraint: the text after the name and the table is the definition
    select
        'build', 'index', x.relname::text,
        case when i.indisunique then 'unique ' else '' end || parts.rest,
        format('create %sindex %I on %s using %s', case when i.indisunique then 'unique ' end, x.relname, as_name, parts.rest),
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
        'swap', 'trigger', t.tgname::text, null,
        pg_get_triggerdef(t.oid) || case t.tgenabled
            when 'O' then ''
            else format('; alter table %s %s trigger %I', as_name,
                case t.tgenabled when 'D' then 'disable' when 'R' then 'enable replica' else 'enable always' end, t.tgname)
        end,
        null
    from pg_catalog.pg_trigger as t
    where t.tgrelid = relation and not t.tgisinternal and t.tgname !~ '^rpc_migrations_'
    union all
    select
        'swap', 'policy', p.polname::text, null,
        format('create policy %I on %s as %s for %s to %s', p.polname, as_name,
            case when p.polpermissive then 'permissive' else 'restrictive' end,
            case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
            (select string_agg(case r when 0 then 'public' else r::regrole::text end, ', ') from unnest(p.polroles) as r))
        || coalesce(' using (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
        || coalesce(' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''),
        null
    from pg_catalog.pg_policy as p
    where p.polrelid = relation
    union all
    select
        'swap', 'row security', setting.name, null,
        format('alter table %s %s row level security', as_name, setting.word), null
    from pg_catalog.pg_class as c
    cross join lateral (values ('enabled', 'enable', c.relrowsecurity), ('forced', 'force', c.relforcerowsecurity))
        as setting (name, word, is_on)
    where c.oid = relation and setting.is_on
    union all
    -- rights on the table and on single columns, in the order in which they were given
    select
        'swap', 'grant', concat_ws(' ', g.privilege, g.column_name, g.grantee, g.is_grantable), null,
        format('grant %s %s on table %s to %s', g.privilege, '(' || quote_ident(g.column_name) || ')', as_name, g.grantee)
        || case when g.is_grantable then ' with grant option' else '' end,
        null
    from (
        select
            acl.privilege_type as privilege, source.column_name, acl.is_grantable, source.place, acl.place as entry,
            case acl.grantee when 0 then 'public' else acl.grantee::regrole::text end as grantee
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
        'swap', 'comment', o.what, null, format('comment on %s is %L', o.what, o.comment), null
    from (
        select format('table %s', as_name) as what, obj_description(relation, 'pg_class') as comment
        union all
        select format('column %s.%I', as_name, a.attname), col_description(relation, a.attnum)
        from pg_catalog.pg_attribute as a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
        union all
        select format('constraint %I on %s', c.conname, as_name), obj_description(c.oid, 'pg_constraint')
        from pg_catalog.pg_constraint as c where c.conrelid = relation
        union all
        select format('index %I.%I', n.nspname, x.relname), obj_description(x.oid, 'pg_class')
        from pg_catalog.pg_index as i
        inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
        inner join pg_catalog.pg_namespace as n on n.oid = x.relnamespace
        where i.indrelid = relation
        union all
        select format('trigger %I on %s', t.tgname, as_name), obj_description(t.oid, 'pg_trigger')
        from pg_catalog.pg_trigger as t where t.tgrelid = relation and not t.tgisinternal
        union all
        select format('policy %I on %s', p.polname, as_name), obj_description(p.oid, 'pg_policy')
        from pg_catalog.pg_policy as p where p.polrelid = relation
    ) as o
    where o.comment is not null
    union all
    select
        'swap', 'storage option', split_part(o.setting, '=', 1), null,
        format('alter table %s set (%s = %L)', as_name, split_part(o.setting, '=', 1), substr(o.setting, strpos(o.setting, '=') + 1)),
        null
    from pg_catalog.pg_class as c cross join lateral unnest(c.reloptions) as o (setting)
    where c.oid = relation
    union all
    select
        'swap', 'replica identity', c.relreplident::text, null,
        format('alter table %s replica identity %s', as_name, case c.relreplident
            when 'f' then 'full' when 'n' then 'nothing'
            else (select format('using index %I', x.relname)
                from pg_catalog.pg_index as i inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
                where i.indrelid = c.oid and i.indisreplident)
        end),
        null
    from pg_catalog.pg_class as c
    where c.oid = relation and c.relreplident <> 'd'
    union all
    select
        'swap', 'owner', c.relowner::regrole::text, null, format('alter table %s owner to %s', as_name, c.relowner::regrole), null
    from pg_catalog.pg_class as c
    where c.oid = relation
    union all
    select
        'swap', 'publication', p.pubname::text, null,
        format('alter publication %I add table %s', p.pubname, as_name)
        || coalesce((select ' (' || string_agg(quote_ident(a.attname), ', ') || ')' from pg_catalog.pg_attribute as a
            where a.attrelid = relation and a.attnum = any (r.prattrs)), '')
        || coalesce(' where (' || pg_get_expr(r.prqual, r.prrelid) || ')', ''),
        format('alter publication %I drop table %s', p.pubname, as_name)
    from pg_catalog.pg_publication_rel as r
    inner join pg_catalog.pg_publication as p on p.oid = r.prpubid
    where r.prrelid = relation
    union all
    -- foreign keys that point at the table: made anew as not valid, which takes no time, and validated after the swap
    select
        'swap', 'foreign key of another table', format('%s %I', c.conrelid::regclass, c.conname), null,
        format('alter table %s add constraint %I %s', case when c.conrelid = relation then as_name else c.conrelid::regclass::text end,
            c.conname, regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', '') || ' not valid'),
        case when c.conrelid <> relation then format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname) end
    from pg_catalog.pg_constraint as c
    where c.confrelid = relation and c.contype = 'f' and c.conparentid = 0
    union all
    -- plain views: replaced by their own text, which then means the table that has the name
    select distinct
        'swap', 'view', v.oid::regclass::text, null,
        format('create or replace view %s%s as %s', v.oid::regclass, ' with (' || array_to_string(v.reloptions, ', ') || ')', pg_get_viewdef(v.oid)),
        null
    from pg_catalog.pg_depend as d
    inner join pg_catalog.pg_rewrite as w on w.oid = d.objid and d.classid = 'pg_catalog.pg_rewrite'::regclass
    inner join pg_catalog.pg_class as v on v.oid = w.ev_class and v.relkind = 'v'
    where d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = relation and w.rulename = '_RETURN'
    union all
    -- sequences of serial columns: both tables draw from the same one, and it goes with the table in use
    select
        'swap', 'sequence', s.oid::regclass::text, null,
        format('alter sequence %s owned by %s.%I', s.oid::regclass, as_name, a.attname), null
    from pg_catalog.pg_depend as d
    inner join pg_catalog.pg_class as s on s.oid = d.objid and s.relkind = 'S'
    inner join pg_catalog.pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    where d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
        and d.refobjid = relation and d.deptype = 'a';
$function$;


-- The same as one JSON value, to be remembered and compared.
create or replace function rpc_migrations.table_definition(relation oid) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(
        jsonb_agg(jsonb_build_object('kind', d.kind, 'name', d.name, 'statement', d.statement) order by d.place), '[]'
    )
    from (
        select t.*, row_number() over (order by t.kind, case when t.kind <> 'grant' then t.name end) as place
        from rpc_migrations.describe_table(relation, relation::regclass::text) as t
    ) as d;
$function$;


-- What stands in one definition and not, or otherwise, in the other, for a message.
create or replace function rpc_migrations.definition_changes(old_definition jsonb, new_definition jsonb) returns text
language sql immutable
set search_path = ''
as $function$
    select string_agg(distinct concat_ws(' ', coalesce(o.kind, n.kind), coalesce(o.name, n.name)), ', ')
    from jsonb_to_recordset(old_definition) as o (kind text, name text, statement text)
    full join jsonb_to_recordset(new_definition) as n (kind text, name text, statement text)
        on o.kind = n.kind and o.name = n.name and o.statement = n.statement
    where o.kind is null or n.kind is null;
$function$;


-- What the target does not have, neither by that name nor in other words the same.
create or replace function rpc_migrations.missing_in_target(source oid, target oid, as_name text, wanted_phase text)
returns table (kind text, name text, statement text, detach text)
language sql stable
set search_path = ''
as $function$
    select s.kind, s.name, s.statement, s.detach
    from rpc_migrations.describe_table(source, as_name) as s
    where
        s.phase = wanted_phase
        and not exists (
            select from rpc_migrations.describe_table(target, as_name) as t
            where t.kind = s.kind and (t.name = s.name or t.definition = s.definition)
        );
$function$;


-- Everything about a table that cannot be carried over, in words. No row: the table can be rebuilt.
create or replace function rpc_migrations.obstacles(relation oid) returns setof text
language sql stable
set search_path = ''
as $function$
    select 'it is not an ordinary table'
    from pg_catalog.pg_class as c where c.oid = relation and c.relkind <> 'r'
    union all
    select 'it is unlogged or temporary'
    from pg_catalog.pg_class as c where c.oid = relation and c.relpersistence <> 'p'
    union all
    select 'it has a tablespace or an access method of its own'
    from pg_catalog.pg_class as c inner join pg_catalog.pg_am as m on m.oid = c.relam
    where c.oid = relation and (c.reltablespace <> 0 or m.amname <> 'heap')
    union all
    select format('it belongs to %s, whose rights %s does not have', c.relowner::regrole, current_user)
    from pg_catalog.pg_class as c where c.oid = relation and not pg_has_role(c.relowner, 'usage')
    union all
    select 'row level security is forced on its owner, who may not bypass it'
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_roles as r on r.rolname = current_user
    where c.oid = relation and c.relforcerowsecurity and not (r.rolbypassrls or r.rolsuper)
    union all
    select 'it has no primary key; add one (alter table ... add primary key ...)'
    where not exists (select from pg_catalog.pg_index as i where i.indrelid = relation and i.indisprimary and i.indisvalid)
    union all
    select format('it inherits from %s or is a partition of it', i.inhparent::regclass)
    from pg_catalog.pg_inherits as i where i.inhrelid = relation
    union all
    select format('constraint %I excludes or has a period (%s)', c.conname, pg_get_constraintdef(c.oid))
    from pg_catalog.pg_constraint as c
    where c.conrelid = relation and (c.contype = 'x' or pg_get_constraintdef(c.oid) ~ '(WITHOUT OVERLAPS|PERIOD )')
    union all
    select format('rule %I', r.rulename)
    from pg_catalog.pg_rewrite as r where r.ev_class = relation
    union all
    select format('column %I has options of its own (%s)', a.attname, array_to_string(a.attoptions, ', '))
    from pg_catalog.pg_attribute as a where a.attrelid = relation and a.attnum > 0 and a.attoptions is not null
    union all
    select format('security label of provider %s', l.provider)
    from pg_catalog.pg_seclabel as l where l.objoid = relation and l.classoid = 'pg_catalog.pg_class'::regclass
    union all
    select format('it is part of extension %s', pg_describe_object(d.refclassid, d.refobjid, 0))
    from pg_catalog.pg_depend as d
    where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = relation and d.deptype = 'e'
    union all
    select format('foreign key %I of the partitioned table %s points at it', c.conname, c.conrelid::regclass)
    from pg_catalog.pg_constraint as c
    inner join pg_catalog.pg_class as r on r.oid = c.conrelid
    where c.confrelid = relation and c.contype = 'f' and (r.relkind <> 'r' or c.conparentid <> 0)
    union all
    select format('%s depends on it', pg_describe_object(d.classid, d.objid, d.objsubid))
    from pg_catalog.pg_depend as d
    where d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = relation and d.deptype <> 'e'
        and not (d.classid = 'pg_catalog.pg_class'::regclass and exists (
            select from pg_catalog.pg_class as c where c.oid = d.objid and c.relkind in ('i', 'S', 't')))
        and not (d.classid = 'pg_catalog.pg_type'::regclass and d.objsubid = 0 and exists (
            select from pg_catalog.pg_type as t where t.oid = d.objid and t.typrelid = relation))
        and not (d.classid = 'pg_catalog.pg_constraint'::regclass and exists (
            select from pg_catalog.pg_constraint as c where c.oid = d.objid and relation in (c.conrelid, c.confrelid)))
        and not (d.classid = 'pg_catalog.pg_attrdef'::regclass and exists (
            select from pg_catalog.pg_attrdef as a where a.oid = d.objid and a.adrelid = relation))
        and not (d.classid = 'pg_catalog.pg_trigger'::regclass and exists (
            select from pg_catalog.pg_trigger as t where t.oid = d.objid and (t.tgrelid = relation or t.tgisinternal)))
        and not (d.classid = 'pg_catalog.pg_policy'::regclass and exists (
            select from pg_catalog.pg_policy as p where p.oid = d.objid and p.polrelid = relation))
        and not (d.classid = 'pg_catalog.pg_publication_rel'::regclass)
        and not (d.classid = 'pg_catalog.pg_rewrite'::regclass and exists (
            select from pg_catalog.pg_rewrite as w
            inner join pg_catalog.pg_class as v on v.oid = w.ev_class
            where w.oid = d.objid and (w.ev_class = relation or (v.relkind = 'v' and w.rulename = '_RETURN'))))
    union all
    select format('%s uses its row type', pg_describe_object(d.classid, d.objid, d.objsubid))
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_type as t on t.oid = c.reltype
    inner join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_type'::regclass and d.refobjid in (t.oid, t.typarray)
    where c.oid = relation and d.objid <> t.typarray;
$function$;

-- Rebuilding a table while it is in use: capture changes in a log, copy, replay, compare, swap. In the manner of
-- pg_repack, but in short calls of one transaction each, between which no lock is held.
--
-- A step file calls, in this order: begin_copy, copy_batch, [builds indexes and so on], carry_over, replay, compare,
-- swap, validate_foreign_keys. rollback.sql calls begin_rollback, find_changes, replay, compare, swap_back and
-- validate_foreign_keys. Every one of them works on the one table that the current migration rebuilds.
--
-- Why no write is lost: a trigger on the source writes the primary key of every changed row into the log, in the
-- transaction of the change. Whoever sees a changed row therefore sees its log entry. A copied chunk leaves out every
-- row that has a log entry; the replay makes the target's row equal to the source's current one (or gone), in any
-- order, as often as it likes; and nothing leaves the log before the copy is complete. The swap replays what is left
-- under a lock that no writer gets past.


-- The copy of the migration whose step this is, or null where it rebuilds no table (any more).
create or replace function rpc_migrations.current_copy() returns rpc_migrations.copies
language sql
set search_path = ''
as $function$
    select c.*
    from rpc_migrations.copies as c
    where c.migration = current_setting('rpc_migrations.migration', true) and c.ended_at is null
    for update;
$function$;


-- Names and lists of a copy as SQL text. In a forward copy the source has the old table's form and the target the new
-- one's; in a rollback it is the other way round. Old rows are always looked at as the migration would make them: a
-- NULL in a column that may not be NULL any more is its default.
create or replace function rpc_migrations.copy_parts(
    copy rpc_migrations.copies,
    out source text, out target text, out log text, out keys text, out columns text, out read text, out source_row text, out target_row text
)
language sql stable
set search_path = ''
as $function$
    with parts as (
        select
            c.place,
            quote_ident(c.name) as name,
            case when c.fallback is null then format('%s.%I', old_alias, c.name)
                else format('coalesce(%s.%I, %s)', old_alias, c.name, c.fallback) end as old_value,
            format('%s.%I', new_alias, c.name) as new_value,
            c.type,
            case when c.as_text then '::text collate "C"' else '' end as as_text
        from (values (
            case when copy.source = copy.new_table then 't' else 's' end,
            case when copy.source = copy.new_table then 's' else 't' end
        )) as alias (old_alias, new_alias)
        cross join rows from (jsonb_to_recordset(copy.columns) as (name text, type text, fallback text, as_text boolean))
            with ordinality as c (name, type, fallback, as_text, place)
    ),
    lists as (
        select
            string_agg(p.name, ', ' order by p.place) as columns,
            string_agg(p.old_value, ', ' order by p.place) as old_values,
            string_agg(p.new_value, ', ' order by p.place) as new_values,
            string_agg(format('(%s)::%s%s', p.old_value, p.type, p.as_text), ', ' order by p.place) as old_row,
            string_agg(format('%s%s', p.new_value, p.as_text), ', ' order by p.place) as new_row
        from parts as p
    )
    select
        copy.source::regclass::text,
        copy.target::regclass::text,
        format('rpc_migrations.log_%s', copy.id),
        (select string_agg(quote_ident(k.name), ', ') from jsonb_to_recordset(copy.keys) as k (name text)),
        l.columns,
        case when copy.source = copy.new_table then l.new_values else l.old_values end,
        case when copy.source = copy.new_table then l.new_row else l.old_row end,
        case when copy.source = copy.new_table then l.old_row else l.new_row end
    from lists as l;
$function$;


-- The condition that two rows have the same primary key, with the operators of the key's own index.
create or replace function rpc_migrations.key_match(copy rpc_migrations.copies, one_alias text, other_alias text) returns text
language sql immutable
set search_path = ''
as $function$
    select string_agg(format('%s.%I operator(%s) %s.%I', one_alias, k.name, k.operator, other_alias, k.name), ' and ')
    from jsonb_to_recordset(copy.keys) as k (name text, operator text);
$function$;


-- The primary key of a table: [{name, operator}], the equality operator being the one of the index's operator class
-- (strategy 3 of a btree), so that no search_path decides what "equal" means.
create or replace function rpc_migrations.primary_key(relation oid) returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_agg(
        jsonb_build_object('name', a.attname, 'operator', format('%I.%s', n.nspname, o.oprname)) order by k.place
    )
    from pg_catalog.pg_index as i
    cross join lateral unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality as k (attnum, opclass, place)
    inner join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
    inner join pg_catalog.pg_opclass as c on c.oid = k.opclass
    inner join pg_catalog.pg_amop as m
        on m.amopfamily = c.opcfamily and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype and m.amopstrategy = 3
    inner join pg_catalog.pg_operator as o on o.oid = m.amopopr
    inner join pg_catalog.pg_namespace as n on n.oid = o.oprnamespace
    where i.indrelid = relation and i.indisprimary and k.place <= i.indnkeyatts;
$function$;


-- Whether a column must be compared as text: its type has no hash of its own (json, xml, point), or it is a text whose
-- equality may take different strings for the same one.
create or replace function rpc_migrations.compares_as_text(type oid) returns boolean
language plpgsql stable
set search_path = ''
as $function$
declare
    hash bigint;
begin
    if exists (select from pg_catalog.pg_type as t where t.oid = compares_as_text.type and t.typcategory = 'S') then
        return true;
    end if;
    execute format('select hash_record_extended(row(null::%s), 0)', format_type(compares_as_text.type, null)) into hash;
    return false;
exception when undefined_function then
    return true;
end;
$function$;


-- Which columns are copied and how: every column of the old table that the new one has and does not generate.
-- Raises RM001, naming the columns, where the old rows cannot be held by the new table.
create or replace function rpc_migrations.plan_columns(old_table oid, new_table oid) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    col record;
    plan jsonb := '[]';
    problems text[] := '{}';
    fallback text;
begin
    for col in
        select
            o.attname as name, o.atttypid as old_type, n.atttypid as new_type,
            o.attname is not null as in_old, n.attname is not null as in_new,
            format_type(o.atttypid, o.atttypmod) as old_type_name, format_type(n.atttypid, n.atttypmod) as new_type_name,
            n.attname as new_name, n.attnotnull and not coalesce(o.attnotnull, false) as must_fill,
            n.attgenerated, n.attidentity, pg_get_expr(d.adbin, d.adrelid) as default_value,
            case when n.atttypid in ('varchar'::regtype, 'bpchar'::regtype) and n.atttypmod > 4 then n.atttypmod - 4 end as max_length
        from (select a.* from pg_catalog.pg_attribute as a where a.attrelid = old_table and a.attnum > 0 and not a.attisdropped) as o
        full join (select a.* from pg_catalog.pg_attribute as a where a.attrelid = new_table and a.attnum > 0 and not a.attisdropped) as n
            on n.attname = o.attname
        left join pg_catalog.pg_attrdef as d on d.adrelid = n.attrelid and d.adnum = n.attnum
        order by n.attnum
    loop
        fallback := null;
        if not col.in_old then
            if col.must_fill and col.default_value is null and col.attidentity = '' then
                problems := array_append(problems, format('column %I of the new table is not null and has no default, and the old table lacks it', col.new_name));
            end if;
            continue;
        end if;
        continue when col.attgenerated <> '';
        if not rpc_migrations.type_fits(col.old_type, col.new_type) then
            problems := array_append(problems, format('column %I is %s and cannot become %s', col.name, col.old_type_name, col.new_type_name));
            continue;
        end if;
        if col.must_fill and col.default_value is not null then
            -- Evaluated once, so that every NULL becomes the same value and the comparison before the swap can tell.
            execute format('select quote_literal((%s)::text) || %L', col.default_value, '::' || col.new_type_name) into fallback;
        elsif col.must_fill then
            problems := problems || rpc_migrations.count_problem(old_table, format('%I is null', col.name), format('%I may not be null', col.name));
        end if;
        if col.max_length is not null then
            problems := problems || rpc_migrations.count_problem(
                old_table, format('length(%I::text) > %s', col.name, col.max_length), format('%I is longer than %s', col.name, col.max_length));
        end if;
        plan := plan || jsonb_build_object(
            'name', col.name, 'type', format_type(col.new_type, null), 'fallback', fallback,
            'as_text', rpc_migrations.compares_as_text(col.new_type)
        );
    end loop;
    if problems <> '{}' then
        raise exception '% cannot be held by the new table: %', old_table::regclass, array_to_string(problems, '; ')
        using errcode = 'RM001', hint = 'Nothing was changed. Mend these rows or columns, then run the same command again.';
    end if;
    return plan;
end;
$function$;


-- Whether every value of one type may be assigned to another without being asked for by name: the same type, or a cast
-- that an INSERT makes on its own.
create or replace function rpc_migrations.type_fits(old_type oid, new_type oid) returns boolean
language sql stable
set search_path = ''
as $function$
    select
        old_type = new_type
        or exists (
            select from pg_catalog.pg_cast as c
            where c.castsource = old_type and c.casttarget = new_type and c.castcontext in ('i', 'a')
        )
        or exists (select from pg_catalog.pg_type as t where t.oid = new_type and t.typcategory = 'S');
$function$;


-- A sentence about the rows for which a condition holds, with the query that finds them; empty where there are none.
create or replace function rpc_migrations.count_problem(relation oid, condition text, problem text) returns text[]
language plpgsql
set search_path = ''
as $function$
declare
    found_rows bigint;
    query text := format('select * from %s where %s', relation::regclass, condition);
begin
    execute format('select count(*) from %s where %s', relation::regclass, condition) into found_rows;
    if found_rows = 0 then
        return '{}';
    end if;
    return array[format('%s in %s row(s), which this query finds: %s', problem, found_rows, query)];
end;
$function$;


-- Makes the log of a copy and the trigger function that writes it. The function belongs to us and runs with our
-- rights: the application's roles may not even see the schema.
create or replace function rpc_migrations.create_log(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    old_keys text;
    new_keys text;
begin
    select string_agg(format('old.%I', k.name), ', '), string_agg(format('new.%I', k.name), ', ') into old_keys, new_keys
    from jsonb_to_recordset(copy.keys) as k (name text);

    execute format('create table %s as select %s from %s with no data', parts.log, parts.keys, parts.source);
    execute format(
        'alter table %s add column rpc_migrations_id bigint generated always as identity primary key, '
        'add column rpc_migrations_truncated boolean not null default false', parts.log);
    execute format('create index on %s (%s)', parts.log, parts.keys);
    execute format('create index on %s (rpc_migrations_id) where rpc_migrations_truncated', parts.log);
    execute format('revoke all on table %s from public, anon, authenticated, service_role', parts.log);
    execute format(
        $sql$
        create function rpc_migrations.capture_%1$s() returns trigger
        language plpgsql security definer
        set search_path = ''
        as $body$
        begin
            if tg_op = 'TRUNCATE' then
                insert into %2$s (rpc_migrations_truncated) values (true);
                return null;
            end if;
            if tg_op in ('UPDATE', 'DELETE') then
                insert into %2$s (%3$s) values (%4$s);
            end if;
            if tg_op = 'INSERT' or (tg_op = 'UPDATE' and not (%6$s)) then
                insert into %2$s (%3$s) values (%5$s);
            end if;
            return null;
        end;
        $body$
        $sql$,
        copy.id, parts.log, parts.keys, old_keys, new_keys, rpc_migrations.key_match(copy, 'old', 'new'));
    execute format('revoke all on function rpc_migrations.capture_%s() from public, anon, authenticated, service_role', copy.id);
end;
$function$;


-- Begins to capture the changes of the source. The lock that the triggers need waits for every transaction that has
-- written to the table, so each change is either there for the copy to see or in the log. The triggers fire always:
-- also for a session that plays a replica's role.
create or replace function rpc_migrations.begin_capture(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    found_definition jsonb;
begin
    execute format('lock table only %s in share row exclusive mode', parts.source);
    found_definition := rpc_migrations.table_definition(copy.source);
    if found_definition <> copy.definition then
        raise exception '% was altered while the copy began: %', parts.source,
            rpc_migrations.definition_changes(copy.definition, found_definition)
        using errcode = 'RM003', hint = 'Nothing was changed. Run the same command again.';
    end if;
    execute format(
        'create trigger rpc_migrations_capture after insert or update or delete on %s for each row execute function rpc_migrations.capture_%s()',
        parts.source, copy.id);
    execute format(
        'create trigger rpc_migrations_capture_truncate after truncate on %s for each statement execute function rpc_migrations.capture_%s()',
        parts.source, copy.id);
    execute format(
        'alter table %s enable always trigger rpc_migrations_capture, enable always trigger rpc_migrations_capture_truncate', parts.source);
    update rpc_migrations.copies as c
    set
        filenode = pg_relation_filenode(copy.source), next_block = 0,
        end_block = pg_relation_size(copy.source) / current_setting('block_size')::bigint
    where c.id = copy.id;
end;
$function$;


-- Begins to rebuild a table: checks that it can be done, gives the new table the columns that only the old one has, and
-- begins to capture changes. "new_table" has been created by an earlier step, empty, in the schema rpc_migrations and
-- under the name that it will have (so that everything that PostgreSQL names after it is named rightly). Where there is
-- no old table there is nothing to copy. Raises RM001 where the old table cannot be carried over, with all reasons.
create or replace function rpc_migrations.begin_copy(old_table text, backup text, out rows bigint, out message text)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    copy rpc_migrations.copies;
    old_name text[] := parse_ident(old_table);
    backup_name text[] := parse_ident(backup);
    further record;
    reasons text;
begin
    copy.migration := nullif(current_setting('rpc_migrations.migration', true), '');
    copy.schema_name := old_name[1];
    copy.table_name := old_name[2];
    copy.backup_name := backup_name[array_upper(backup_name, 1)];
    copy.old_table := to_regclass(old_table);
    copy.new_table := to_regclass(format('rpc_migrations.%I', copy.table_name));
    perform rpc_migrations.check_begin(copy, old_name, backup_name);
    execute format('revoke all on table %s from public, anon, authenticated, service_role', copy.new_table::regclass);
    execute format('alter table %s enable row level security', copy.new_table::regclass);

    if copy.old_table is null then
        insert into rpc_migrations.copies (migration, state, schema_name, table_name, backup_name, new_table)
        values (copy.migration, 'copied', copy.schema_name, copy.table_name, copy.backup_name, copy.new_table);
        rows := 0;
        message := format('there is no %s yet: nothing to copy', old_table);
        return;
    end if;

    select string_agg(o, '; ') into reasons from rpc_migrations.obstacles(copy.old_table) as o;
    if reasons is not null then
        raise exception '% cannot be rebuilt: %', copy.old_table::regclass, reasons
        using errcode = 'RM001', hint = 'Nothing was changed. Take these away or change them first, then run the same command again.';
    end if;
    for further in
        select m.statement
        from rpc_migrations.missing_in_target(copy.old_table, copy.new_table, copy.new_table::regclass::text, 'columns') as m
    loop
        execute further.statement;
    end loop;

    insert into rpc_migrations.copies (
        migration, state, schema_name, table_name, backup_name, old_table, new_table, source, target,
        keys, columns, definition, old_definition
    )
    values (
        copy.migration, 'copying', copy.schema_name, copy.table_name, copy.backup_name, copy.old_table, copy.new_table,
        copy.old_table, copy.new_table,
        rpc_migrations.primary_key(copy.old_table), rpc_migrations.plan_columns(copy.old_table, copy.new_table),
        rpc_migrations.table_definition(copy.old_table), rpc_migrations.table_definition(copy.old_table)
    )
    returning * into copy;
    perform rpc_migrations.create_log(copy);
    perform rpc_migrations.begin_capture(copy);
    rows := 0;
    message := format('changes of %s are being captured', copy.old_table::regclass);
end;
$function$;


-- What must hold before a copy begins, apart from the old table's own form. Raises RM001 or RM005.
create or replace function rpc_migrations.check_begin(copy rpc_migrations.copies, old_name text[], backup_name text[]) returns void
language plpgsql
set search_path = ''
as $function$
declare
    has_rows boolean;
    other text;
begin
    if copy.migration is null or array_length(old_name, 1) is distinct from 2 then
        raise exception 'begin_copy takes a table''s name with its schema, and is called in a step of a step file'
        using errcode = 'RM005', hint = 'Write for example rpc_migrations.begin_copy(''public.orders'', ''public.orders_backup'').';
    end if;
    if array_length(backup_name, 1) is distinct from 2 or backup_name[1] <> old_name[1] or backup_name[2] = old_name[2] then
        raise exception 'the backup must be in the schema of the old table, under another name'
        using errcode = 'RM005', hint = format('Write for example %I.%I.', old_name[1], old_name[2] || '_backup');
    end if;
    select c.migration into other
    from rpc_migrations.copies as c
    where c.migration = copy.migration and c.ended_at is null
        or c.old_table = copy.old_table and c.state in ('copying', 'copied', 'rolling back')
    limit 1;
    if found then
        raise exception 'migration % already rebuilds a table, or this one', other
        using errcode = 'RM005', hint = 'Rebuild one table in a step file, and finish or roll back the other migration first.';
    end if;
    if to_regclass(format('%I.%I', old_name[1], copy.backup_name)) is not null then
        raise exception '%.% is already there', quote_ident(old_name[1]), quote_ident(copy.backup_name)
        using errcode = 'RM001',
            hint = 'It may hold the only copy of older data, so it is left alone. Rename it, or drop it if you are sure, then run the same command again.';
    end if;
    if copy.new_table is null then
        raise exception 'there is no table rpc_migrations.%', quote_ident(copy.table_name)
        using errcode = 'RM005', hint = 'Create it in an earlier step, with the columns that the new table shall have.';
    end if;
    if exists (select from pg_catalog.pg_constraint as c where c.conrelid = copy.new_table and c.confrelid = copy.new_table) then
        raise exception 'the new table has a foreign key that points at itself'
        using errcode = 'RM005', hint = 'Leave it out: the old table''s is carried over; add a new one in a step after the swap.';
    end if;
    execute format('select exists (select from %s)', copy.new_table::regclass) into has_rows;
    if has_rows then
        raise exception 'rpc_migrations.% is not empty', quote_ident(copy.table_name)
        using errcode = 'RM005', hint = 'The copy fills it. Take out the step that puts rows into it.';
    end if;
end;
$function$;


-- Triggers of the target stay quiet until the swap: they have fired once, when the application wrote the row.
create or replace function rpc_migrations.quiet_triggers(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    noisy record;
begin
    for noisy in
        select t.tgname, t.tgenabled
        from pg_catalog.pg_trigger as t
        where t.tgrelid = copy.target and not t.tgisinternal and t.tgenabled <> 'D'
    loop
        execute format('alter table %s disable trigger %I', copy.target::regclass, noisy.tgname);
        update rpc_migrations.copies as c
        set quieted = c.quieted || jsonb_build_object(noisy.tgname, noisy.tgenabled)
        where c.id = copy.id;
    end loop;
end;
$function$;


-- Whether the source has another file than when the copy began (TRUNCATE, VACUUM FULL, CLUSTER): the places where rows
-- stood mean nothing then, and the copy starts over. The lock, which only such commands conflict with, keeps the answer
-- true until the end of the transaction.
create or replace function rpc_migrations.restart_if_rewritten(copy rpc_migrations.copies) returns rpc_migrations.copies
language plpgsql
set search_path = ''
as $function$
begin
    execute format('lock table only %s in access share mode', copy.source::regclass);
    if copy.filenode is not distinct from pg_relation_filenode(copy.source) then
        return copy;
    end if;
    execute format('truncate table only %s', copy.target::regclass);
    update rpc_migrations.copies as c
    set
        filenode = pg_relation_filenode(copy.source), next_block = 0,
        end_block = pg_relation_size(copy.source) / current_setting('block_size')::bigint
    where c.id = copy.id
    returning c.* into copy;
    return copy;
end;
$function$;


-- Copies rows in physical order, chunk by chunk, until about a second has gone by. Chunks grow while they are quick and
-- shrink while they are slow; after a statement timeout the caller asks for smaller ones (see batch_size).
create or replace function rpc_migrations.copy_batch(out done boolean, out rows bigint, out progress double precision)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    parts record;
    chunk_rows bigint;
begin
    if copy.id is null then
        raise exception 'no table is being rebuilt by this migration'
        using errcode = 'RM005', hint = 'Call rpc_migrations.begin_copy in an earlier step of the same step file.';
    end if;
    rows := 0;
    if copy.state = 'copying' then
        perform rpc_migrations.quiet_triggers(copy);
        copy := rpc_migrations.restart_if_rewritten(copy);
        parts := rpc_migrations.copy_parts(copy);
        for chunk_rows in
            select c.rows from rpc_migrations.each_chunk(copy, format(
                'insert into %1$s (%2$s) overriding system value select %3$s from only %4$s as s '
                'where s.ctid >= $1 and s.ctid < $2 and not exists (select from %5$s as l where %6$s)',
                parts.target, parts.columns, parts.read, parts.source, parts.log, rpc_migrations.key_match(copy, 'l', 's')
            )) as c
        loop
            rows := rows + chunk_rows;
        end loop;
        select c.* into copy from rpc_migrations.copies as c where c.id = copy.id;
        if copy.next_block >= copy.end_block then
            update rpc_migrations.copies as c set state = 'copied' where c.id = copy.id returning c.* into copy;
        end if;
    end if;
    done := copy.state <> 'copying';
    progress := case when done then 1 else copy.next_block::double precision / copy.end_block end;
end;
$function$;


-- Runs a statement for one chunk of blocks after another, as ($1 <= ctid < $2), until about a second has gone by or the
-- last block is done, and remembers where it stopped. Answers the rows of each chunk.
create or replace function rpc_migrations.each_chunk(copy rpc_migrations.copies, statement text) returns table (rows bigint)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    began timestamptz := clock_timestamp();
    chunk_began timestamptz;
    chunk_seconds double precision;
    chunk bigint;
    last_block bigint;
begin
    while copy.next_block < copy.end_block and clock_timestamp() < began + interval '1 second' loop
        chunk := rpc_migrations.batch_size(copy.chunk_blocks);
        last_block := least(copy.next_block + chunk, copy.end_block);
        chunk_began := clock_timestamp();
        execute statement using format('(%s,0)', copy.next_block)::tid, format('(%s,0)', last_block)::tid;
        get diagnostics rows = row_count;
        return next;
        chunk_seconds := extract(epoch from clock_timestamp() - chunk_began);
        copy.next_block := last_block;
        copy.chunk_blocks := case
            when chunk_seconds < 0.15 then least(chunk * 2, 65536)
            when chunk_seconds > 0.5 then greatest(chunk / 4, 1)
            else chunk
        end;
    end loop;
    update rpc_migrations.copies as c
    set next_block = copy.next_block, chunk_blocks = copy.chunk_blocks
    where c.id = copy.id;
end;
$function$;


-- Builds on the new table, one a call, each constraint and index of the old table that the step file has not defined
-- (foreign keys as not valid first, then validated in a call of their own).
create or replace function rpc_migrations.carry_over(out done boolean, out rows bigint, out message text)
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    next_one record;
begin
    done := true;
    rows := 0;
    if copy.old_table is null or copy.state <> 'copied' then
        return;
    end if;
    select m.* into next_one
    from rpc_migrations.missing_in_target(copy.source, copy.target, copy.target::regclass::text, 'build') as m
    order by m.kind = 'foreign key', m.kind <> 'primary key', m.name
    limit 1;
    if not found then
        select 'foreign key' as kind, c.conname as name,
            format('alter table %s validate constraint %I', copy.target::regclass, c.conname) as statement
        into next_one
        from pg_catalog.pg_constraint as c
        where c.conrelid = copy.target and c.contype = 'f' and not c.convalidated
        limit 1;
    end if;
    if found then
        execute next_one.statement;
        done := false;
        rows := 1;
        message := concat_ws(' ', next_one.kind, next_one.name);
    end if;
end;
$function$;


-- Takes a number of entries from the log and makes the target's rows with these keys equal to the source's, or gone.
-- One statement, hence one snapshot: what is read of the log and of the source belongs together. Entries are deleted by
-- the ids that were read, never by "up to the highest", because a transaction with a lower id may commit later. Rows
-- are deleted first and inserted then, so that values may change places between rows under a unique index.
-- Answers how many entries were taken; -1 where the source was truncated, which empties the target.
create or replace function rpc_migrations.replay_entries(copy rpc_migrations.copies, entries bigint) returns bigint
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    taken_entries bigint;
begin
    execute format('select count(*) from (select from %s where rpc_migrations_truncated limit 1) as t', parts.log) into taken_entries;
    if taken_entries > 0 then
        -- Every row that the source has now was written after the truncation, and so is in the log.
        execute format('delete from %s where rpc_migrations_truncated', parts.log);
        execute format('truncate table only %s', parts.target);
        return -1;
    end if;
    execute format(
        $sql$
        with taken as materialized (
            select l.* from %1$s as l
            where not exists (select from %1$s as m where m.rpc_migrations_truncated)
            order by l.rpc_migrations_id limit $1
        ),
        forgotten as (
            delete from %1$s as l using taken as t where l.rpc_migrations_id = t.rpc_migrations_id
        ),
        keys as materialized (select distinct %2$s from taken),
        gone as (
            delete from only %3$s as t using keys as k where %4$s returning 1
        ),
        present as (
            insert into %3$s (%5$s) overriding system value
            select %6$s from keys as k inner join only %7$s as s on %8$s
            where (select count(*) from gone) is not null
        )
        select count(*) from taken
        $sql$,
        parts.log, parts.keys, parts.target, rpc_migrations.key_match(copy, 't', 'k'), parts.columns, parts.read, parts.source,
        rpc_migrations.key_match(copy, 's', 'k'))
    into taken_entries
    using entries;
    return taken_entries;
end;
$function$;


-- Replays the log until little is left of it, for about a second. A conflict with a unique index or a foreign key may
-- be a change that is in the log but was not among the entries taken, so it is no error here: the batch is taken back
-- and a later one takes more. What is left for the swap is replayed with all that there is, and has to fit.
create or replace function rpc_migrations.replay(out done boolean, out rows bigint, out message text)
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    began timestamptz := clock_timestamp();
    entries bigint := rpc_migrations.batch_size(5000);
    taken bigint;
begin
    rows := 0;
    done := copy.source is null or copy.state = 'copying';
    if done then
        return;
    end if;
    perform rpc_migrations.quiet_triggers(copy);
    while not done and clock_timestamp() < began + interval '1 second' loop
        begin
            taken := rpc_migrations.replay_entries(copy, entries);
        exception when unique_violation or foreign_key_violation then
            message := sqlerrm;
            exit when entries >= 80000;
            entries := entries * 4;
            continue;
        end;
        rows := rows + abs(taken);
        done := taken between 0 and 500;
    end loop;
    -- One more conflict than there is room to retry: the swap, which stops all writers, will tell.
    done := done or message is not null;
end;
$function$;


-- Compares source and target in one snapshot, by the number of rows and a hash of all columns that both have, in which
-- the order of the rows plays no part. Rows with an entry in the log are left out: the replay will see to them.
-- Raises RM004 where they differ, with the number of differing rows and up to five of their keys.
create or replace function rpc_migrations.compare(out rows bigint, out message text)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    parts record;
    result record;
    differing bigint;
    examples text;
begin
    rows := 0;
    if copy.source is null or copy.state = 'copying' then
        return;
    end if;
    while rpc_migrations.replay_entries(copy, 5000) < 0 loop end loop;
    parts := rpc_migrations.copy_parts(copy);
    execute format(
        $sql$
        select s.rows as source_rows, s.hash as source_hash, t.rows as target_rows, t.hash as target_hash
        from (
            select count(*) as rows, bit_xor(hash_record_extended(row(%1$s), 0)) as hash
            from only %2$s as s where not exists (select from %5$s as l where %6$s)
        ) as s
        cross join (
            select count(*) as rows, bit_xor(hash_record_extended(row(%3$s), 0)) as hash
            from only %4$s as t where not exists (select from %5$s as l where %7$s)
        ) as t
        $sql$,
        parts.source_row, parts.source, parts.target_row, parts.target, parts.log,
        rpc_migrations.key_match(copy, 'l', 's'), rpc_migrations.key_match(copy, 'l', 't'))
    into result;
    if result.source_rows <> result.target_rows or result.source_hash is distinct from result.target_hash then
        select d.differing, d.examples into differing, examples from rpc_migrations.differences(copy) as d;
        raise exception '% and its new version differ in % row(s)', parts.source, differing
        using errcode = 'RM004', detail = format('For example those with the primary keys: %s', examples),
            hint = 'Nothing was changed. Roll the migration back and run it again; if it happens again, do not use it for this table.';
    end if;
    update rpc_migrations.copies as c set compared_at = clock_timestamp() where c.id = copy.id;
    rows := result.source_rows;
    message := 'source and target are the same';
end;
$function$;


-- How many rows differ between source and target, and the primary keys of up to five of them. Rows with an entry in the
-- log, where there is one, are left out.
create or replace function rpc_migrations.differences(copy rpc_migrations.copies, out differing bigint, out examples text)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    not_logged text := '';
begin
    if to_regclass(parts.log) is not null then
        not_logged := format('where not exists (select from %s as l where %s)', parts.log, rpc_migrations.key_match(copy, 'l', 'd'));
    end if;
    execute format(
        $sql$
        with differing as (
            select %1$s from only %2$s as s
            where not exists (select from only %3$s as t where %4$s and row(%5$s) is not distinct from row(%6$s))
            union
            select %1$s from only %3$s as t
            where not exists (select from only %2$s as s where %4$s)
        ),
        counted as (select d.*, row_number() over () as place from differing as d %7$s)
        select count(*), string_agg(row(%1$s)::text, ' ') filter (where c.place <= 5) from counted as c
        $sql$,
        parts.keys, parts.source, parts.target, rpc_migrations.key_match(copy, 's', 't'), parts.source_row, parts.target_row, not_logged)
    into differing, examples;
end;
$function$;

-- The swap: one short transaction in which the new table takes the place and the names of the old one.

-- A name of at most 63 bytes in which the table's old name is replaced by its new one, and that nothing else has.
create or replace function rpc_migrations.derived_name(schema_name text, name text, old_prefix text, new_prefix text) returns text
language plpgsql
set search_path = ''
as $function$
declare
    derived text := case
        when starts_with(name, old_prefix) then new_prefix || substr(name, length(old_prefix) + 1)
        else new_prefix || '_' || name
    end;
    shortened text := derived;
begin
    if octet_length(derived) <= 63 and to_regclass(format('%I.%I', schema_name, derived)) is null then
        return derived;
    end if;
    while octet_length(shortened) > 54 loop
        shortened := left(shortened, -1);
    end loop;
    return shortened || '_' || left(md5(derived || clock_timestamp()), 8);
end;
$function$;


-- Renames a table with its indexes and the sequences of its identity columns, so that their names are free for the table
-- that takes its place. Answers what was renamed, the table first: [{kind, old_name, new_name}].
create or replace function rpc_migrations.move_aside(relation oid, new_name text) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    schema_name text;
    table_name text;
    item record;
    renamed jsonb;
begin
    select n.nspname, c.relname into schema_name, table_name
    from pg_catalog.pg_class as c inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.oid = relation;
    renamed := jsonb_build_array(jsonb_build_object('kind', 'table', 'old_name', table_name, 'new_name', new_name));
    for item in
        select case c.relkind when 'S' then 'sequence' else 'index' end as kind, c.relname as name,
            rpc_migrations.derived_name(schema_name, c.relname, table_name, new_name) as new_name
        from pg_catalog.pg_class as c
        where
            c.oid in (select i.indexrelid from pg_catalog.pg_index as i where i.indrelid = relation)
            or c.relkind = 'S' and c.oid in (
                select d.objid from pg_catalog.pg_depend as d
                where d.refobjid = relation and d.classid = 'pg_catalog.pg_class'::regclass and d.deptype = 'i')
        order by c.relname
    loop
        renamed := renamed || jsonb_build_object('kind', item.kind, 'old_name', item.name, 'new_name', item.new_name);
    end loop;
    perform rpc_migrations.rename_all(schema_name, renamed, 'old_name', 'new_name');
    return renamed;
end;
$function$;


-- Renames relations from one of the two names in a list to the other.
create or replace function rpc_migrations.rename_all(schema_name text, renamed jsonb, from_name text, to_name text) returns void
language plpgsql
set search_path = ''
as $function$
declare
    item jsonb;
begin
    for item in select e.value from jsonb_array_elements(renamed) as e loop
        execute format('alter %s %I.%I rename to %I', item ->> 'kind', schema_name, item ->> from_name, item ->> to_name);
    end loop;
end;
$function$;


-- Closes a table to the API: no rights for anyone but the owner, and row level security without a way through.
create or replace function rpc_migrations.close_table(relation oid) returns void
language plpgsql
set search_path = ''
as $function$
declare
    grantee text;
begin
    for grantee in
        select distinct case acl.grantee when 0 then 'public' else acl.grantee::regrole::text end
        from (
            select c.relacl as acl, c.relowner from pg_catalog.pg_class as c where c.oid = relation
            union all
            select a.attacl, c.relowner
            from pg_catalog.pg_attribute as a inner join pg_catalog.pg_class as c on c.oid = a.attrelid
            where a.attrelid = relation
        ) as source
        cross join lateral aclexplode(source.acl) as acl
        where acl.grantee <> source.relowner
    loop
        execute format('revoke all on table %s from %s', relation::regclass, grantee);
    end loop;
    execute format('alter table %s enable row level security', relation::regclass);
end;
$function$;


-- Gives identity columns of one table the positions that the same columns of another have reached.
create or replace function rpc_migrations.carry_positions(from_table oid, to_table oid) returns void
language plpgsql
set search_path = ''
as $function$
declare
    col name;
    from_sequence text;
    to_sequence text;
begin
    for col in
        select o.attname
        from pg_catalog.pg_attribute as o
        inner join pg_catalog.pg_attribute as n on n.attrelid = to_table and n.attname = o.attname and n.attidentity <> ''
        where o.attrelid = from_table and o.attidentity <> ''
    loop
        from_sequence := pg_get_serial_sequence(from_table::regclass::text, col);
        to_sequence := pg_get_serial_sequence(to_table::regclass::text, col);
        execute format('select setval(%L, s.last_value, s.is_called) from %s as s', to_sequence, from_sequence);
    end loop;
end;
$function$;


-- Gives the target's triggers back the state that they had before they were quieted.
create or replace function rpc_migrations.wake_triggers(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    trigger_name text;
    state text;
begin
    for trigger_name, state in select q.key, q.value from jsonb_each_text(copy.quieted) as q loop
        execute format(
            'alter table %s enable %s trigger %I', copy.target::regclass,
            case state when 'R' then 'replica' when 'A' then 'always' end, trigger_name);
    end loop;
end;
$function$;


-- Takes away what captures the changes of the source.
create or replace function rpc_migrations.end_capture(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    if to_regclass(copy.source::regclass::text) is not null then
        execute format('drop trigger if exists rpc_migrations_capture on %s', copy.source::regclass);
        execute format('drop trigger if exists rpc_migrations_capture_truncate on %s', copy.source::regclass);
    end if;
    execute format('drop function if exists rpc_migrations.capture_%s()', copy.id);
    execute format('drop table if exists rpc_migrations.log_%s', copy.id);
end;
$function$;


-- Under the lock that lets nobody write: replays what is left, all of it at once, so that it has to fit.
create or replace function rpc_migrations.replay_rest(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    left_over bigint;
begin
    if copy.source is null then
        return;
    end if;
    perform rpc_migrations.quiet_triggers(copy);
    while rpc_migrations.replay_entries(copy, 1000000000) <> 0 loop end loop;
    execute format('select count(*) from rpc_migrations.log_%s', copy.id) into left_over;
    if left_over > 0 then
        raise exception '% entries of the log could not be replayed', left_over using errcode = 'RM005';
    end if;
end;
$function$;


-- Locks the source and all that the swap alters with it, in the order of their names, and checks under the lock that the
-- source is what it was when the copy began. Raises RM003 with what has changed.
create or replace function rpc_migrations.lock_for_swap(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    other text;
    found_definition jsonb;
begin
    execute format('lock table only %s in access exclusive mode', copy.source::regclass);
    for other in
        select distinct c.conrelid::regclass::text as name
        from pg_catalog.pg_constraint as c
        where c.confrelid = copy.source and c.contype = 'f' and c.conrelid <> copy.source
        order by name
    loop
        execute format('lock table only %s in access exclusive mode', other);
    end loop;
    found_definition := rpc_migrations.table_definition(copy.source);
    if found_definition <> copy.definition then
        raise exception '% was altered since the copy began: %', copy.source::regclass,
            rpc_migrations.definition_changes(copy.definition, found_definition)
        using errcode = 'RM003',
            hint = 'Nothing was changed. Roll the migration back (which takes away the copy only) and run it again.';
    end if;
end;
$function$;


-- Puts the new table in the old one's place. Catches up with the log first; then, in one short transaction under a lock
-- that is waited for as briefly as possible, everything from the last replay to the new names. Where the lock cannot
-- be had it answers who is in the way ("holders"), keeps what it has replayed, and wants to be called again.
create or replace function rpc_migrations.swap(out done boolean, out rows bigint, out holders jsonb, out message text)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
begin
    rows := 0;
    done := false;
    if copy.state is distinct from 'copied' or (copy.source is not null and copy.compared_at is null) then
        raise exception 'the swap comes after the copy and the comparison, once' using errcode = 'RM005',
            hint = 'Call copy_batch, carry_over, replay and compare in earlier steps.';
    end if;
    if copy.source is not null then
        select r.rows into rows from rpc_migrations.replay() as r;
    end if;
    begin
        if copy.source is not null then
            perform rpc_migrations.lock_for_swap(copy);
            perform rpc_migrations.replay_rest(copy);
        end if;
        perform rpc_migrations.exchange(copy);
    exception when lock_not_available then
        holders := rpc_migrations.lock_holders(copy.source);
        return;
    end;
    done := true;
    message := case
        when copy.source is null then format('%s is there', copy.new_table::regclass)
        else format('%s is the new table, %s the original one', copy.new_table::regclass, copy.old_table::regclass)
    end;
end;
$function$;


-- The exchange of the two tables, forward. What the statements mention is the name that the table in use has.
create or replace function rpc_migrations.exchange(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    name_in_use text := format('%I.%I', copy.schema_name, copy.table_name);
    carried jsonb;
    moved jsonb := '[]';
begin
    if copy.source is not null then
        carried := rpc_migrations.statements_to_carry(copy.source, copy.target, name_in_use, null);
        perform rpc_migrations.run_each(carried, 'detach');
        moved := rpc_migrations.move_aside(copy.old_table, copy.backup_name);
    end if;
    execute format('alter table %s set schema %I', copy.new_table::regclass, copy.schema_name);
    if copy.source is not null then
        perform rpc_migrations.carry_positions(copy.old_table, copy.new_table);
        perform rpc_migrations.run_each(carried, 'statement');
        perform rpc_migrations.wake_triggers(copy);
        perform rpc_migrations.close_table(copy.old_table);
        perform rpc_migrations.end_capture(copy);
    end if;
    update rpc_migrations.copies as c
    set
        state = 'swapped', swapped_at = clock_timestamp(), renamed = moved, quieted = '{}',
        unvalidated = rpc_migrations.unvalidated_keys(carried)
    where c.id = copy.id;
    notify pgrst, 'reload schema';
end;
$function$;


-- The statements of the swap for what the target lacks, as one JSON value, of these kinds only where they are given.
create or replace function rpc_migrations.statements_to_carry(source oid, target oid, as_name text, kinds text[]) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(
        jsonb_agg(jsonb_build_object('kind', m.kind, 'name', m.name, 'detach', m.detach, 'statement', m.statement)), '[]'
    )
    from rpc_migrations.missing_in_target(source, target, as_name, 'swap') as m
    where kinds is null or m.kind = any (kinds);
$function$;


-- Runs the statements of a list that stand under one key, in order.
create or replace function rpc_migrations.run_each(statements jsonb, key text) returns void
language plpgsql
set search_path = ''
as $function$
declare
    statement text;
begin
    for statement in select e.value ->> key from jsonb_array_elements(statements) as e where e.value ->> key is not null loop
        execute statement;
    end loop;
end;
$function$;


-- The foreign keys of other tables in a list of carried statements: to be validated, now that they are made anew.
create or replace function rpc_migrations.unvalidated_keys(carried jsonb) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(jsonb_build_object('relation', c.conrelid::regclass::text, 'name', c.conname)), '[]')
    from jsonb_to_recordset(coalesce(carried, '[]')) as e (kind text, name text)
    inner join pg_catalog.pg_constraint as c on format('%s %I', c.conrelid::regclass, c.conname) = e.name
    where e.kind = 'foreign key of another table' and not c.convalidated;
$function$;


-- Validates, one a call, the foreign keys that the swap has made anew. Blocks neither reads nor writes.
create or replace function rpc_migrations.validate_foreign_keys(out done boolean, out rows bigint, out message text)
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies;
    foreign_key jsonb;
begin
    select c.* into copy
    from rpc_migrations.copies as c
    where c.migration = current_setting('rpc_migrations.migration', true)
    order by c.id desc limit 1;
    foreign_key := copy.unvalidated -> 0;
    done := foreign_key is null;
    rows := 0;
    if not done then
        execute format('alter table %s validate constraint %I', foreign_key ->> 'relation', foreign_key ->> 'name');
        update rpc_migrations.copies as c set unvalidated = c.unvalidated - 0 where c.id = copy.id;
        rows := 1;
        message := format('%s of %s', foreign_key ->> 'name', foreign_key ->> 'relation');
    end if;
end;
$function$;

-- Back again: the original table, brought up to date, takes its place back.

-- Marks the current journal rows of the migration's own steps as undone, so that it can be run again.
create or replace function rpc_migrations.mark_undone(migration text) returns void
language sql
set search_path = ''
as $function$
    update rpc_migrations.journal as j
    set undone_at = clock_timestamp()
    where j.migration = mark_undone.migration and j.undone_at is null and j.step !~ '^roll back: ';
$function$;


-- Before the swap: takes the new table, the capture and the log away, and the old table is as if nothing had been.
create or replace function rpc_migrations.abandon() returns void
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
begin
    if copy.id is null or copy.state not in ('copying', 'copied') then
        raise exception 'only a copy that was not swapped in can be abandoned' using errcode = 'RM005';
    end if;
    if copy.source is not null then
        perform rpc_migrations.end_capture(copy);
    end if;
    execute format('drop table rpc_migrations.%I', copy.table_name);
    update rpc_migrations.copies as c set state = 'abandoned', ended_at = clock_timestamp() where c.id = copy.id;
    perform rpc_migrations.mark_undone(copy.migration);
end;
$function$;


-- Begins to roll the migration back. Before the swap this abandons the copy, and that is all. After it, changes of the
-- table in use are captured from now on, to be brought into the original one, unless they are to be discarded.
-- Raises RM001 where that cannot be done.
create or replace function rpc_migrations.begin_rollback(discard_changes boolean default false, out rows bigint, out message text)
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
begin
    rows := 0;
    if copy.id is null then
        perform rpc_migrations.drop_unfinished_table();
        message := 'nothing was under way, and no table was changed';
        return;
    end if;
    if copy.state in ('copying', 'copied') then
        perform rpc_migrations.abandon();
        message := 'the copy was taken away; the table is as it was';
        return;
    end if;
    perform rpc_migrations.check_rollback(copy, discard_changes);
    if copy.old_table is null then
        return;
    end if;
    update rpc_migrations.copies as c
    set
        state = 'rolling back', source = copy.new_table, target = copy.old_table, compared_at = null, chunk_blocks = 16,
        keys = rpc_migrations.primary_key(copy.old_table), definition = rpc_migrations.table_definition(copy.new_table)
    where c.id = copy.id
    returning c.* into copy;
    if discard_changes then
        select d.differing into rows from rpc_migrations.differences(copy) as d;
        message := format('%s row(s) were added, changed or deleted since the migration', rows);
    elsif to_regclass(format('rpc_migrations.log_%s', copy.id)) is null then
        perform rpc_migrations.create_log(copy);
        perform rpc_migrations.begin_capture(copy);
        message := format('changes of %s are being captured', copy.new_table::regclass);
    end if;
end;
$function$;


-- A migration that stopped between creating the new table and beginning the copy leaves the former behind, empty.
create or replace function rpc_migrations.drop_unfinished_table() returns void
language plpgsql
set search_path = ''
as $function$
declare
    leftover text;
    has_rows boolean;
begin
    for leftover in
        select c.oid::regclass::text
        from pg_catalog.pg_class as c
        where
            c.relnamespace = 'rpc_migrations'::regnamespace and c.relkind = 'r'
            and c.relname not in ('runs', 'journal', 'copies') and c.relname !~ '^log_[0-9]+$'
            and not exists (select from rpc_migrations.copies as o where o.new_table = c.oid)
    loop
        execute format('select exists (select from %s)', leftover) into has_rows;
        if not has_rows then
            execute format('drop table %s', leftover);
        end if;
    end loop;
    perform rpc_migrations.mark_undone(current_setting('rpc_migrations.migration', true));
end;
$function$;


-- What must hold for a rollback after the swap. Raises RM001.
create or replace function rpc_migrations.check_rollback(copy rpc_migrations.copies, discard_changes boolean) returns void
language plpgsql
set search_path = ''
as $function$
declare
    name_in_use text := format('%I.%I', copy.schema_name, copy.table_name);
    backup text := format('%I.%I', copy.schema_name, copy.backup_name);
    reasons text;
begin
    if to_regclass(name_in_use) is distinct from copy.new_table::regclass then
        raise exception '% is not the table that this migration made', name_in_use
        using errcode = 'RM001', hint = 'Another migration has replaced it since, or it was renamed. Roll that one back first, or put the name back.';
    end if;
    if copy.old_table is not null and to_regclass(backup) is distinct from copy.old_table::regclass then
        raise exception 'the original table is not at % any more', backup
        using errcode = 'RM001', hint = 'It was dropped or renamed since. Put the name back; without it there is nothing to go back to.';
    end if;
    if discard_changes and copy.state = 'rolling back' and to_regclass(format('rpc_migrations.log_%s', copy.id)) is not null then
        raise exception 'a rollback that keeps the changes is under way, and may have brought some of them into % already', backup
        using errcode = 'RM001', hint = 'Finish it without --discard-changes.';
    end if;
    if not discard_changes and copy.old_table is not null then
        select string_agg(o, '; ') into reasons
        from rpc_migrations.obstacles(copy.new_table) as o;
    end if;
    if reasons is not null then
        raise exception '% cannot be rolled back: %', name_in_use, reasons
        using errcode = 'RM001', hint = 'Nothing was changed. Take these away or change them first, then run the same command again.';
    end if;
end;
$function$;


-- Finds the rows that were changed between the swap and the beginning of the rollback, chunk by chunk for about a second,
-- and notes their keys in the log, so that the replay brings them into the original table. In a first pass rows of the
-- table in use that the migration would not have made of the original ones; in a second one original rows that are gone.
create or replace function rpc_migrations.find_changes(out done boolean, out rows bigint, out progress double precision)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    parts record;
    statement text;
    chunk_rows bigint;
begin
    rows := 0;
    progress := 1;
    done := copy.source is null or copy.state <> 'rolling back' or copy.pass > 2;
    if done then
        return;
    end if;
    copy := rpc_migrations.restart_pass_if_rewritten(copy);
    parts := rpc_migrations.copy_parts(copy);
    statement := format(
        case copy.pass
            when 1 then
                'insert into %1$s (%2$s) select %3$s from only %5$s as s left join only %6$s as t on %7$s '
                'where s.ctid >= $1 and s.ctid < $2 and (t.ctid is null or row(%8$s) is distinct from row(%9$s))'
            else
                'insert into %1$s (%2$s) select %4$s from only %6$s as t '
                'where t.ctid >= $1 and t.ctid < $2 and not exists (select from only %5$s as s where %7$s)'
        end,
        parts.log, parts.keys, rpc_migrations.qualified_keys(copy, 's'), rpc_migrations.qualified_keys(copy, 't'),
        parts.source, parts.target, rpc_migrations.key_match(copy, 's', 't'), parts.source_row, parts.target_row);
    for chunk_rows in select c.rows from rpc_migrations.each_chunk(copy, statement) as c loop
        rows := rows + chunk_rows;
    end loop;
    select c.* into copy from rpc_migrations.copies as c where c.id = copy.id;
    progress := (copy.pass - 1 + copy.next_block / greatest(copy.end_block, 1)::double precision) / 2;
    if copy.next_block >= copy.end_block then
        update rpc_migrations.copies as c set pass = copy.pass + 1, filenode = null where c.id = copy.id;
    end if;
end;
$function$;


-- The primary key's columns of one side of a join.
create or replace function rpc_migrations.qualified_keys(copy rpc_migrations.copies, alias text) returns text
language sql immutable
set search_path = ''
as $function$
    select string_agg(format('%s.%I', alias, k.name), ', ') from jsonb_to_recordset(copy.keys) as k (name text);
$function$;


-- Begins a pass of find_changes, and begins it again where the table that it scans has been rewritten since. The lock,
-- which only such commands conflict with, keeps that true until the end of the transaction.
create or replace function rpc_migrations.restart_pass_if_rewritten(copy rpc_migrations.copies) returns rpc_migrations.copies
language plpgsql
set search_path = ''
as $function$
declare
    scanned oid := case copy.pass when 1 then copy.source else copy.target end;
begin
    execute format('lock table only %s in access share mode', scanned::regclass);
    if copy.filenode is distinct from pg_relation_filenode(scanned) then
        update rpc_migrations.copies as c
        set
            filenode = pg_relation_filenode(scanned), next_block = 0,
            end_block = pg_relation_size(scanned) / current_setting('block_size')::bigint
        where c.id = copy.id
        returning c.* into copy;
    end if;
    return copy;
end;
$function$;


-- Puts the original table back in its place, under its own name and with its own rights, as rpc_migrations.swap put the
-- new one there. The migrated table is kept, closed to the API, under a name of its own ("kept_as"): nothing that the
-- further columns held is lost. From then on the migration counts as not run.
create or replace function rpc_migrations.swap_back(
    discard_changes boolean default false, out done boolean, out rows bigint, out holders jsonb, out kept_as text, out message text
)
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
begin
    rows := 0;
    done := copy.id is null;
    if done then
        return;
    end if;
    if copy.old_table is not null and (copy.state <> 'rolling back' or (copy.compared_at is null and not discard_changes)) then
        raise exception 'the swap comes after the comparison' using errcode = 'RM005', hint = 'Run the whole of the rollback.';
    end if;
    if copy.source is not null and not discard_changes then
        select r.rows into rows from rpc_migrations.replay() as r;
    end if;
    begin
        if copy.source is not null then
            perform rpc_migrations.lock_for_swap(copy);
        else
            execute format('lock table only %s in access exclusive mode', copy.new_table::regclass);
        end if;
        if copy.source is not null and not discard_changes then
            perform rpc_migrations.replay_rest(copy);
        end if;
        kept_as := rpc_migrations.exchange_back(copy);
    exception when lock_not_available then
        holders := rpc_migrations.lock_holders(copy.new_table);
        return;
    end;
    done := true;
    message := format('the original table is back; the migrated one is kept as %s', kept_as);
end;
$function$;


-- The exchange of the two tables, backward. Answers the name under which the migrated table is kept.
create or replace function rpc_migrations.exchange_back(copy rpc_migrations.copies) returns text
language plpgsql
set search_path = ''
as $function$
declare
    name_in_use text := format('%I.%I', copy.schema_name, copy.table_name);
    kept text := rpc_migrations.derived_name(
        copy.schema_name, copy.table_name, copy.table_name, copy.table_name || to_char(clock_timestamp(), '"_rolled_back_"YYYYMMDDHH24MISS'));
    carried jsonb := '[]';
begin
    if copy.source is not null then
        carried := rpc_migrations.statements_to_carry(
            copy.source, copy.target, name_in_use, array['foreign key of another table', 'view', 'publication', 'sequence']);
        perform rpc_migrations.run_each(carried, 'detach');
    end if;
    perform rpc_migrations.move_aside(copy.new_table, kept);
    if copy.source is not null then
        perform rpc_migrations.rename_all(copy.schema_name, copy.renamed, 'new_name', 'old_name');
        perform rpc_migrations.carry_positions(copy.new_table, copy.old_table);
        perform rpc_migrations.run_each(carried, 'statement');
        perform rpc_migrations.reopen_table(copy);
        perform rpc_migrations.wake_triggers(copy);
        perform rpc_migrations.end_capture(copy);
    end if;
    perform rpc_migrations.close_table(copy.new_table);
    update rpc_migrations.copies as c
    set
        state = 'rolled back', ended_at = clock_timestamp(), kept_as = format('%I.%I', copy.schema_name, kept), quieted = '{}',
        unvalidated = rpc_migrations.unvalidated_keys(carried)
    where c.id = copy.id;
    perform rpc_migrations.mark_undone(copy.migration);
    notify pgrst, 'reload schema';
    return format('%I.%I', copy.schema_name, kept);
end;
$function$;


-- Gives the original table the rights back that the swap took from it.
create or replace function rpc_migrations.reopen_table(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.run_each((
        select jsonb_agg(e.value order by e.place)
        from jsonb_array_elements(copy.old_definition) with ordinality as e (value, place)
        where e.value ->> 'kind' = 'grant'
    ), 'statement');
    if not copy.old_definition @> '[{"kind": "row security", "name": "enabled"}]' then
        execute format('alter table %s disable row level security', copy.old_table::regclass);
    end if;
end;
$function$;

-- public.execute_sql: the one function that the API reaches, and the rights on everything.

-- A function of that name that is not ours stays as it is, and stops us: beside it, PostgREST could not tell which of
-- the two a call means.
do $block$
declare
    other record;
begin
    for other in
        select
            p.oid::regprocedure as signature,
            coalesce(obj_description(p.oid, 'pg_proc'), '') like 'rpc_migrations %' as is_ours
        from pg_catalog.pg_proc as p
        where p.pronamespace = 'public'::regnamespace and p.proname = 'execute_sql'
    loop
        if not other.is_ours then
            raise exception 'there is a function % already, which this project did not make', other.signature
            using errcode = 'RM001',
                hint = format('See who uses it. If nobody does, run: drop function %s; and then deploy again.', other.signature);
        end if;
        if other.signature::text <> 'execute_sql(text,text,text,text,boolean,uuid,integer)'
            and other.signature::text <> 'public.execute_sql(text,text,text,text,boolean,uuid,integer)' then
            execute format('drop function %s', other.signature);
        end if;
    end loop;
end;
$block$;


-- Runs a text in one transaction (see rpc_migrations.run_sql), or, when told which step of which migration it is, as
-- that step (see rpc_migrations.run_step). The timeout is below the 60 s after which Supabase's gateway gives up on a
-- request; PostgREST applies it to the whole transaction. Only service_role may execute it.
create or replace function public.execute_sql(
    query text,
    migration text default null,
    step text default null,
    checksum text default null,
    batch boolean default false,
    run uuid default null,
    shrink integer default 0
) returns jsonb
language plpgsql
security definer
set search_path = public, extensions, pg_temp
set statement_timeout = '50s'
as $function$
begin
    if execute_sql.step is null then
        return rpc_migrations.run_sql(execute_sql.query);
    end if;
    return rpc_migrations.run_step(
        execute_sql.query, execute_sql.migration, execute_sql.step, execute_sql.checksum,
        execute_sql.batch, execute_sql.run, execute_sql.shrink
    );
end;
$function$;


-- Rights, by name: revoking from public alone would leave what default privileges grant to the API's roles by name.
revoke all on schema rpc_migrations from public, anon, authenticated, service_role;
revoke all on all tables in schema rpc_migrations from public, anon, authenticated, service_role;
revoke all on all sequences in schema rpc_migrations from public, anon, authenticated, service_role;
revoke all on all functions in schema rpc_migrations from public, anon, authenticated, service_role;
revoke all on function public.execute_sql(text, text, text, text, boolean, uuid, integer)
from public, anon, authenticated, service_role;
grant execute on function public.execute_sql(text, text, text, text, boolean, uuid, integer) to service_role;

notify pgrst, 'reload schema';

comment on function public.execute_sql(text, text, text, text, boolean, uuid, integer)
is 'rpc_migrations 7d8547f3a9722470';
