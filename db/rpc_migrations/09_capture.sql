-- Capture: a trigger on the source writes the key of every row that is inserted, updated or deleted into a log, in
-- the transaction of the change. It never touches the target, so the application never waits for the copy. A truncation is
-- an entry of its own.

-- Makes the log of a copy and the trigger function that writes it.
create or replace function rpc_migrations.create_log(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
begin
    -- Base types in place of domains, because an entry of a truncation has no key, and a domain may refuse the NULL.
    execute format('create table %s as select %s from %s with no data', parts.log, (
        select string_agg(format('%1$I::%2$s as %1$I', k.name, format_type(rpc_migrations.base_type(a.atttypid), -1)), ', '
            order by a.attnum)
        from jsonb_to_recordset(copy.keys) as k (name name)
        inner join pg_catalog.pg_attribute as a on a.attrelid = copy.source and a.attname = k.name
    ), parts.source);
    execute format(
        'alter table %s add column rpc_migrations_id bigint generated always as identity primary key, '
        'add column rpc_migrations_truncated boolean default false', parts.log);
    if not rpc_migrations.has_no_key(copy) then  -- a whole row may be too long for an index, and the write would fail
        execute format('create index on %s (%s)', parts.log, parts.keys);
    end if;
    execute format('create index on %s (rpc_migrations_id) where rpc_migrations_truncated', parts.log);
    execute format('create index on %s (rpc_migrations_id) where rpc_migrations_truncated is null', parts.log);
    perform rpc_migrations.create_capture_function(copy);
    perform rpc_migrations.close_to_others();  -- this, the log, and sequences of further columns of the new table
    perform rpc_migrations.refuse_another_owner(copy, to_regprocedure(format('rpc_migrations.capture_%s()', copy.id)), to_regclass(parts.log));
end;
$function$;


-- Makes the trigger function. It belongs to us and runs with our rights: the application's roles may not even see the schema. Where
-- somebody has renamed, dropped or altered a column by which rows are told apart, the application goes on writing; that the log lacks its
-- changes is an entry of its own (see check_source).
create or replace function rpc_migrations.create_capture_function(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    parts record := rpc_migrations.copy_parts(copy);
    old_keys text;
    new_keys text;
    read_old text;
    read_new text;
begin
    select
        string_agg(format('before.%I', k.name), ', '), string_agg(format('after.%I', k.name), ', '),
        string_agg(format('before.%1$I := old.%1$I;', k.name), ' '), string_agg(format('after.%1$I := new.%1$I;', k.name), ' ')
    into old_keys, new_keys, read_old, read_new
    from jsonb_to_recordset(copy.keys) as k (name text);
    execute format(
        'create function rpc_migrations.capture_%s() returns trigger language plpgsql security definer set search_path = %L as %L',
        copy.id, '', format(
            $body$
            declare
                before %1$s;
                after %1$s;
            begin
                if tg_op = 'TRUNCATE' then
                    insert into %1$s (rpc_migrations_truncated) values (true);
                    return null;
                end if;
                begin  -- which only reads, and so costs no subtransaction a number
                    if tg_op <> 'INSERT' then
                        %6$s
                    end if;
                    if tg_op <> 'DELETE' then
                        %7$s
                    end if;
                exception when others then
                    insert into %1$s (rpc_migrations_truncated) values (null);
                    return null;
                end;
                if tg_op in ('UPDATE', 'DELETE') then
                    insert into %1$s (%2$s) values (%3$s);
                end if;
                if tg_op = 'INSERT' or (tg_op = 'UPDATE' and not (%5$s)) then
                    insert into %1$s (%2$s) values (%4$s);
                end if;
                return null;
            end;
            $body$,
            parts.log, parts.keys, old_keys, new_keys, rpc_migrations.key_match(copy, 'before', 'after'), read_old, read_new));
end;
$function$;


-- Raises RM001 if what captures changes has not become ours, because an event trigger gives what is new another owner. Such a function
-- would run with the rights of that one, and every write of the application would fail.
create or replace function rpc_migrations.refuse_another_owner(copy rpc_migrations.copies, capture oid, log oid) returns void
language plpgsql
set search_path = ''
as $function$
declare
    owners text;
begin
    select string_agg(distinct o.owner::regrole::text, ', ') into owners
    from (
        select p.proowner as owner from pg_catalog.pg_proc as p where p.oid = capture
        union all
        select c.relowner from pg_catalog.pg_class as c where c.oid = log
    ) as o
    where o.owner <> current_user::regrole;
    if owners is not null then
        raise exception 'changes of % cannot be captured: what would do so belongs to %, because an event trigger gives it to that role',
            copy.source::regclass, owners
        using errcode = 'RM001', hint = 'Nothing was changed. Disable it (alter event trigger ... disable), run the same command again, '
            'and enable it when that has begun.';
    end if;
end;
$function$;


-- Begins to capture the changes of the source. The lock that the triggers need waits for every transaction that has
-- written to the table, so each change is either there for the copy to see or in the log. The triggers always fire, also
-- in a session whose session_replication_role is replica.
create or replace function rpc_migrations.begin_capture(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    source text := copy.source::regclass;
begin
    execute format('lock table only %s in share row exclusive mode', source);
    execute format(
        'create trigger rpc_migrations_capture after insert or update or delete on %s for each row execute function rpc_migrations.capture_%s()',
        source, copy.id);
    execute format(
        'create trigger rpc_migrations_capture_truncate after truncate on %s for each statement execute function rpc_migrations.capture_%s()',
        source, copy.id);
    execute format(
        'alter table %s enable always trigger rpc_migrations_capture, enable always trigger rpc_migrations_capture_truncate', source);
    perform rpc_migrations.check_source(copy);
end;
$function$;


-- Drops what captures the changes of a copy's source.
create or replace function rpc_migrations.end_capture(copy_id bigint) returns void
language plpgsql
set search_path = ''
set client_min_messages = warning
as $function$
begin
    -- With its triggers. DROP TRIGGER would do the same, and on hosted projects lock much more (see describe_security).
    execute format('drop function if exists rpc_migrations.capture_%s() cascade', copy_id);
    execute format('drop table if exists rpc_migrations.log_%1$s, rpc_migrations.reserve_%1$s', copy_id);
end;
$function$;


-- Keeps the source from being truncated, rewritten or altered until the end of this transaction: a lock that no read or
-- write conflicts with. Once it is held, a truncation is either in the log or will not happen before we are done.
create or replace function rpc_migrations.hold_source(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    perform rpc_migrations.check_log(copy);
    execute format('lock table only %s in access share mode', copy.source::regclass);
    perform rpc_migrations.check_source(copy);
end;
$function$;


-- Raises RM003 if the source, the log or the target is gone: somebody may have dropped them by hand.
create or replace function rpc_migrations.check_log(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
declare
    lost text := case
        when not rpc_migrations.has_log(copy) then format('the log of changes rpc_migrations.log_%s', copy.id)
        when not exists (select from pg_catalog.pg_class as c where c.oid = copy.target)
            then case copy.state when 'rolling back' then 'the original table' else 'the new table' end
    end;
begin
    if not exists (select from pg_catalog.pg_class as c where c.oid = copy.source) then
        raise exception '% was dropped while it was being rebuilt', rpc_migrations.name_in_use(copy)
        using errcode = 'RM003', hint = case copy.state
            when 'rolling back' then format('The original table, %1$s, has the rows of the swap, and what the rollback has brought into it since. Give the '
                'rollback up with --give-up; then, to use that table: alter table %1$s rename to %2$I;', copy.target::regclass, copy.table_name)
            else 'Roll the migration back, which removes the copy.' end;
    end if;
    if lost is not null then
        raise exception '% was dropped%', lost, rpc_migrations.restored_in_words(copy)
        using errcode = 'RM003', hint = case copy.state
            when 'rolling back' then 'Give the rollback up with --give-up: the migrated table stays.'
            else 'Roll the migration back, which removes the copy, and run it again.' end;
    end if;
end;
$function$;
