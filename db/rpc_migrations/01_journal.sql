-- The journal: what was run, by whom, and with what effect. All that this project keeps in a database is in these three
-- tables of the private schema rpc_migrations, and the functions of this folder are the only ones that write to them. A row
-- of the journal is written in the transaction of the step that it tells of: either both are there, or neither.
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

-- One row for each table that a migration rebuilt (see 07_copy_parts.sql).
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
    definition jsonb,                           -- what the old table looked like: [{kind, name, statement}]
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
