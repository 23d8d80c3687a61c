-- The journal: what was run, by whom, and with what effect. All that this project keeps in a database is in these six
-- tables of the private schema rpc_migrations, and only the functions of this folder write to them. A row of the journal is
-- written in the transaction of the step that it is about: either both are there, or neither.

-- The tables. Each column is one line in the list of its table, and a new one goes to the end of the list. So a table that an
-- older version made, once it has got the columns that it lacks, equals a new one, even in the order of columns. The default of
-- a new column is what existing rows get. To change an older column (its type, default or "not null"), add a statement that may
-- be run again below the list; a check constraint is dropped and made again; an index that changes gets another name, and the
-- older one is dropped.

-- One row for each time somebody ran a migration or its rollback.
create table if not exists rpc_migrations.runs ();
alter table rpc_migrations.runs
    add column if not exists id uuid primary key,
    add column if not exists migration text not null,
    add column if not exists action text not null,
    add column if not exists client text not null,                  -- user@host, shown to whoever finds the migration busy
    add column if not exists pid integer,                           -- the client's process
    add column if not exists started_at timestamptz not null default clock_timestamp(),
    add column if not exists last_seen_at timestamptz not null default clock_timestamp(),
    add column if not exists ended_at timestamptz,
    add column if not exists outcome text,                          -- done, failed, interrupted, taken over; null: under way or killed
    add column if not exists message text,
    add column if not exists options jsonb not null default '{}',   -- of the command: {ignore_snapshots, lock_budget}
    drop constraint if exists runs_action_check,
    add constraint runs_action_check check (action in ('migrate', 'roll back', 'finish'));

create index if not exists runs_migration_idx on rpc_migrations.runs (migration, started_at);

-- One row for each step, written in the same transaction as the step's effect.
create table if not exists rpc_migrations.journal ();
alter table rpc_migrations.journal
    add column if not exists id bigint generated always as identity primary key,
    add column if not exists migration text not null,
    add column if not exists step text not null,
    add column if not exists checksum text not null,
    add column if not exists run uuid,                              -- null: run in the SQL Editor or by psql
    add column if not exists started_at timestamptz not null default clock_timestamp(),
    add column if not exists finished_at timestamptz,               -- null: waits for a lock, or is a batch step under way
    add column if not exists calls integer not null default 0,      -- calls that took effect
    add column if not exists rows bigint not null default 0,
    add column if not exists seconds double precision not null default 0,
    add column if not exists result jsonb,
    add column if not exists undone_at timestamptz,                 -- set by a rollback; the step may then be run again
    add column if not exists made text[];                           -- tables that the step has made in this schema; null: not noted

create unique index if not exists journal_current_step
on rpc_migrations.journal (migration, step) where undone_at is null;

-- One row for each text that execute_sql was called with and that did not fail, for 90 days (see 04_calls.sql).
create table if not exists rpc_migrations.calls ();
alter table rpc_migrations.calls
    add column if not exists id bigint generated always as identity primary key,
    add column if not exists called_at timestamptz not null default clock_timestamp(),
    add column if not exists role text not null,                    -- in the database
    add column if not exists jwt_role text,                         -- as the key says, with its "sub"
    add column if not exists sub text,
    add column if not exists forwarded_for text,                    -- the header x-forwarded-for
    add column if not exists migration text,
    add column if not exists step text,
    add column if not exists sha256 text not null,                  -- of the text
    add column if not exists kinds text[],                          -- of its statements: {"ALTER TABLE",INSERT}
    add column if not exists outcome text not null,                 -- done, or the state that run_step answered
    add column if not exists rows bigint,                           -- that it affected or returned
    add column if not exists changed boolean not null,              -- false: the transaction had written nothing
    add column if not exists query text;                            -- only where the owner asked for whole texts

-- One row: since when execute_sql is open, and until when (null: until it is removed).
create table if not exists rpc_migrations.access ();
alter table rpc_migrations.access
    add column if not exists opened_at timestamptz not null default clock_timestamp(),
    add column if not exists open_until timestamptz,
    add column if not exists keep_texts boolean not null default false;

create unique index if not exists access_is_one_row on rpc_migrations.access ((true));

insert into rpc_migrations.access (open_until) values (null) on conflict do nothing;

-- One row for each table that a migration rebuilt (see 07_copy_parts.sql).
create table if not exists rpc_migrations.copies ();
alter table rpc_migrations.copies
    add column if not exists id bigint generated always as identity primary key,
    add column if not exists migration text not null,
    add column if not exists state text not null,
    add column if not exists schema_name name not null,
    add column if not exists table_name name not null,
    add column if not exists backup_name name not null,
    add column if not exists old_table oid,                         -- null: there was no table before
    add column if not exists new_table oid not null,
    add column if not exists source oid,                            -- where rows are read: the old table; the new one in a rollback
    add column if not exists target oid,
    add column if not exists keys jsonb,                            -- of the primary key or a unique index: [{name, operator}]; without one, all columns, no operator, "hashed"
    add column if not exists columns jsonb,                         -- what is copied: [{name, old_name, type, old_type, fallback, expression, as_text}]
    add column if not exists definition jsonb,                      -- what the old table looked like: [{kind, name, statement}]
    add column if not exists filenode oid,                          -- another one: the source was rewritten, its ctids mean nothing now
    add column if not exists pass integer not null default 1,       -- of the search for changes in a rollback: changed rows, deleted rows
    add column if not exists next_block bigint not null default 0,
    add column if not exists end_block bigint not null default 0,
    add column if not exists chunk_blocks bigint not null default 16,
    add column if not exists compared_at timestamptz,
    add column if not exists quieted jsonb not null default '{}',   -- triggers that are off, of the table that is not in use: {name: state}
    add column if not exists renamed jsonb not null default '[]',   -- what the swap renamed: [{kind, schema, old_name, new_name}]
    add column if not exists unvalidated jsonb not null default '[]', -- foreign keys that the swap made anew, checks: [{relation, name}]
    add column if not exists kept_as text,                          -- the migrated table's name after a rollback
    add column if not exists started_at timestamptz not null default clock_timestamp(),
    add column if not exists swapped_at timestamptz,
    add column if not exists ended_at timestamptz,                  -- rolled back, abandoned or finished
    add column if not exists retold jsonb not null default '[]',    -- texts that the swap made anew: [{kind, name, before, after}]
    add column if not exists caught_up boolean not null default false, -- the log has been replayed, and only the swap is left
    add column if not exists snapshots jsonb,                       -- older than the last replay: [{pid, transaction}]; null: not noted yet
    add column if not exists attempts integer not null default 0,   -- to swap
    add column if not exists longest_attempt double precision not null default 0, -- seconds
    add column if not exists swap_mark jsonb,                       -- {xmin, columns: {name: number}} at the swap (see changed_since)
    add column if not exists alteration jsonb,                      -- what ALTER TABLE makes of it (see try_alterations)
    add column if not exists quieted_rules jsonb not null default '{}', -- as "quieted", for rules
    add column if not exists has_changes boolean not null default false, -- the original table: a rollback was bringing changes into it
    add column if not exists home text,                             -- where the OIDs are from (see 06a_restored.sql)
    add column if not exists restored_at timestamptz,               -- when the tables were found by name, after a dump was restored
    add column if not exists key_order name[],                      -- the old table's foreign keys at the swap, as they act; null: not noted
    add column if not exists compared_form jsonb,                   -- of the source's rows at the comparison (see form_of_rows)
    add column if not exists settings jsonb,                        -- how its values are read and written (see session_settings)
    add column if not exists as_made jsonb,                         -- the new table as the migration has left it: {version, parts} (see note_as_made)
    drop constraint if exists copies_state_check,
    add constraint copies_state_check check (
        state in ('copying', 'copied', 'swapped', 'rolling back', 'rolled back', 'abandoned', 'finished')
    );

create unique index if not exists copies_current
on rpc_migrations.copies (migration) where ended_at is null;

-- One row for each foreign key that was removed from a table for as long as the table is not in use (see 13_foreign_keys.sql).
create table if not exists rpc_migrations.foreign_keys ();
alter table rpc_migrations.foreign_keys
    add column if not exists relation oid not null,
    add column if not exists name name not null,
    add column if not exists refers_to oid not null,
    add column if not exists definition text not null,              -- as pg_get_constraintdef writes it
    add column if not exists is_valid boolean not null,
    add column if not exists comment text,
    add column if not exists stand_in oid;                          -- the check that holds its place on a new table

-- These tables by name; what else is a table of this schema belongs to a copy. (00_version.sql cannot call this yet, and has the list, too.)
create or replace function rpc_migrations.journal_tables() returns name[]
language sql immutable
set search_path = ''
as $function$
    select array['access', 'calls', 'copies', 'foreign_keys', 'journal', 'runs']::name[];
$function$;

-- As regclass, so that a dump has names in place of OIDs, and the tables are the right ones where it is restored.
alter table rpc_migrations.foreign_keys alter column relation type regclass, alter column refers_to type regclass;

create unique index if not exists foreign_keys_name on rpc_migrations.foreign_keys (relation, name);

-- A publication FOR ALL TABLES would let nobody change these two, which have no primary key.
alter table rpc_migrations.foreign_keys replica identity full;
alter table rpc_migrations.access replica identity full;

-- The first versions kept the old table's definition, once a rollback had begun, in a column of its own, and did not note the
-- types that a rollback goes back to.
do $block$
begin
    if exists (
        select from pg_catalog.pg_attribute as a
        where a.attrelid = 'rpc_migrations.copies'::regclass and a.attname = 'old_definition' and not a.attisdropped
    ) then
        update rpc_migrations.copies as c set definition = c.old_definition where c.state = 'rolling back';
        alter table rpc_migrations.copies drop column old_definition;
    end if;
    update rpc_migrations.copies as c
    set columns = (
        select jsonb_agg(k.value || jsonb_build_object(
            'type', format_type(n.atttypid, -1), 'old_type', format_type(o.atttypid, -1)) order by k.place)
        from jsonb_array_elements(c.columns) with ordinality as k (value, place)
        left join pg_catalog.pg_attribute as n on n.attrelid = c.new_table and n.attname = k.value ->> 'name'
        left join pg_catalog.pg_attribute as o on o.attrelid = c.old_table and o.attname = k.value ->> 'name'
    )
    where c.ended_at is null and not c.columns -> 0 ? 'old_type';
end;
$block$;
