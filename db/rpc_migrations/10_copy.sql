-- The copy: rows in physical order, by ranges of ctid, up to the size that the table had when the copy began. Rows move when
-- they are updated; every row whose key is in the log is left out, and the replay brings it in. Indexes and constraints
-- are built after the copy, which is far cheaper than keeping them up to date during it. The order matters: ALTER TABLE numbers
-- the rows of a new identity column in it, and neighbours that belong together are read together.

-- Copies rows in physical order, chunk by chunk, until about a second has gone by. Chunks grow while they are quick and
-- shrink while they are slow; after a statement timeout the caller asks for smaller ones (see batch_size).
create or replace function rpc_migrations.copy_batch(out done boolean, out rows bigint, out progress double precision)
language plpgsql
set search_path = ''
set row_security = off
set jit = off
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    parts record;
    not_logged text := rpc_migrations.not_logged(copy, 's');
    chunk_rows bigint;
    was_empty boolean;
begin
    perform rpc_migrations.refuse_no_copy(copy);
    rows := 0;
    if copy.state = 'copying' then
        perform rpc_migrations.quiet_triggers(copy, copy.target);
        perform rpc_migrations.hold_source(copy);
        copy := rpc_migrations.rewind_if_rewritten(copy, copy.source);
        parts := rpc_migrations.copy_parts(copy);
        if copy.next_block = 0 then
            was_empty := pg_relation_size(copy.target) = 0;
            perform rpc_migrations.run(format('truncate table only %s', parts.target));
            if rpc_migrations.lacks_reserve(copy) then
                if was_empty then
                    perform rpc_migrations.make_reserve(copy);
                end if;
                done := false;
                progress := 0;
                return;  -- what was there before is gone with the commit; until then there may be no room for a reserve
            end if;
        end if;
        if pg_relation_size(parts.log) > 16000000 then
            -- Each chunk would read all of a long log; looking up each row's key costs a little more and stays the same.
            perform set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true);
        else
            -- Not made a join, which could have the rows of the source in its hash table (since 16), and give them in the order of that.
            not_logged := format('coalesce(%s, false)', not_logged);
        end if;
        for chunk_rows in
            select c.rows from rpc_migrations.each_chunk(copy, format(
                'insert into %1$s (%2$s) overriding system value select %3$s from only %4$s as s '
                'where s.ctid >= ($1)[1]::tid and s.ctid < ($1)[2]::tid and %5$s',
                parts.target, parts.columns, parts.read, parts.source, not_logged
            )) as c
        loop
            rows := rows + chunk_rows;
        end loop;
        perform set_config('rpc_migrations.replayed', copy.id::text, true);
        select c.* into copy from rpc_migrations.copies as c where c.id = copy.id;
        if copy.next_block >= copy.end_block then
            update rpc_migrations.copies as c set state = 'copied' where c.id = copy.id returning c.* into copy;
        end if;
    end if;
    done := copy.state <> 'copying';
    progress := case when done then 1 else copy.next_block::double precision / copy.end_block end;
end;
$function$;


-- Whether room is still to be reserved for when the disk is full: the table is large enough to fill one.
create or replace function rpc_migrations.lacks_reserve(copy rpc_migrations.copies) returns boolean
language plpgsql stable
set search_path = ''
as $function$
begin
    return pg_relation_size(copy.source) >= 16000000 and to_regclass(format('rpc_migrations.reserve_%s', copy.id)) is null;
end;
$function$;


-- Reserves it: removing the copy needs a little room itself, because TRUNCATE makes new files before it drops the old ones.
create or replace function rpc_migrations.make_reserve(copy rpc_migrations.copies) returns void
language plpgsql
set search_path = ''
as $function$
begin
    execute format('create table rpc_migrations.reserve_%s as select repeat(%L, 1000) as filling from generate_series(1, 1000)', copy.id, 'x');
    perform rpc_migrations.close_to_others();
end;
$function$;


-- Called when the disk is full, so that the application cannot write: if a copy has taken the room, drops the reserve, and has the next
-- batch give back all the rest (see copy_batch). Returns whether it has.
create or replace function rpc_migrations.give_room_back() returns boolean
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
begin
    if copy.state is distinct from 'copying' or to_regclass(format('rpc_migrations.reserve_%s', copy.id)) is null then
        return false;
    end if;
    execute format('drop table rpc_migrations.reserve_%s', copy.id);
    update rpc_migrations.copies as c set next_block = 0 where c.id = copy.id;
    return true;
end;
$function$;


-- Runs a statement for one chunk of blocks after another, with ($1)[1]::tid <= ctid < ($1)[2]::tid, until about a second has gone by
-- or the last block is done, and remembers where it stopped. Returns the rows of each chunk.
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
        rows := rpc_migrations.run(statement, format('(%s,0)', copy.next_block), format('(%s,0)', last_block));
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


-- Restarts the scan of a table at its first block, the first time and whenever the table has another file than before
-- (TRUNCATE, VACUUM FULL, CLUSTER): the old places of rows mean nothing then. The lock, which only such commands
-- conflict with, keeps this true until the end of the transaction.
create or replace function rpc_migrations.rewind_if_rewritten(copy rpc_migrations.copies, scanned oid) returns rpc_migrations.copies
language plpgsql
set search_path = ''
as $function$
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


-- Disables the triggers and rules of the copy's table that is not in use, and remembers their state: those of the new table until the
-- swap, those of the table that was moved aside after it. They have fired once already, when the application wrote the row.
create or replace function rpc_migrations.quiet_triggers(copy rpc_migrations.copies, relation oid) returns void
language plpgsql
set search_path = ''
as $function$
declare
    noisy record;
begin
    for noisy in
        select t.tgname, t.tgenabled
        from pg_catalog.pg_trigger as t
        where t.tgrelid = relation and not t.tgisinternal and t.tgenabled <> 'D'
    loop
        execute format('alter table %s disable trigger %I', relation::regclass, noisy.tgname);
        update rpc_migrations.copies as c
        set quieted = c.quieted || jsonb_build_object(noisy.tgname, noisy.tgenabled)
        where c.id = copy.id;
    end loop;
    for noisy in
        select r.rulename, r.ev_enabled
        from pg_catalog.pg_rewrite as r
        where r.ev_class = relation and r.ev_enabled <> 'D'
    loop
        execute format('alter table %s disable rule %I', relation::regclass, noisy.rulename);
        update rpc_migrations.copies as c
        set quieted_rules = c.quieted_rules || jsonb_build_object(noisy.rulename, noisy.ev_enabled)
        where c.id = copy.id;
    end loop;
end;
$function$;


-- The place of an index among those of the old table: PostgreSQL checks them in the order in which they were made, and reports a row that
-- violates two unique ones by the first. Null if the old table has none of that name; such an index comes last.
create or replace function rpc_migrations.index_place(old_table oid, kind text, name text) returns oid
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return (
        select i.indexrelid
        from pg_catalog.pg_index as i
        inner join pg_catalog.pg_class as x on x.oid = i.indexrelid
        where
            index_place.kind in ('index', 'unique constraint', 'exclusion constraint')
            and i.indrelid = old_table and x.relname = index_place.name
    );
end;
$function$;


-- Builds on the new table, one in each call, the constraints and indexes of the old table that the step file has not defined. A check
-- that rows no longer hold to is made not valid.
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
    perform rpc_migrations.check_log(copy);
    perform rpc_migrations.check_source(copy);
    perform rpc_migrations.check_conflicts(copy);
    select m.* into next_one
    from rpc_migrations.missing_in_target(copy.source, copy.target, copy.target::regclass::text, 'build') as m
    order by m.kind <> 'primary key', rpc_migrations.index_place(copy.source, m.kind, m.name), m.place
    limit 1;
    if found and next_one.kind in ('row security', 'policy') then
        -- All at once: they take no time, and on hosted projects each takes its locks anew (see describe_security).
        for next_one in
            select m.*
            from rpc_migrations.missing_in_target(copy.source, copy.target, copy.target::regclass::text, 'build') as m
            where m.kind in ('row security', 'policy')
            order by m.place
        loop
            perform rpc_migrations.make_again(next_one.kind, next_one.name, next_one.statement);
        end loop;
        done := false;
        message := 'row level security';
    elsif found then
        done := false;
        message := concat_ws(' ', next_one.kind, next_one.name);
        begin
            perform rpc_migrations.make_again(next_one.kind, next_one.name, next_one.statement);
        exception when check_violation then
            if next_one.kind <> 'check constraint' or not exists (
                select from rpc_migrations.describe_constraints(copy.source, 'x') as o where (o.kind, o.definition) = (next_one.kind, next_one.definition)
            ) then
                raise;
            end if;
            perform rpc_migrations.make_again(next_one.kind, next_one.name, next_one.statement || ' not valid');
            message := message || ' is not valid: rows that held to it when they were written no longer do';
        end;
    elsif copy.alteration is null then
        -- For the person: whoever mentions the old name (on conflict on constraint) has to use the other one.
        select string_agg(format('%s %I is now %I', p.kind, p.old_name, p.new_name), ', ' order by p.kind, p.old_name) into message
        from rpc_migrations.pairs(copy.source, copy.target) as p
        where p.old_name <> p.new_name;
    end if;
end;
$function$;


-- Gathers the planner's statistics on the new table: autovacuum, which would do it, is off there.
create or replace function rpc_migrations.gather_statistics() returns void
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
begin
    perform rpc_migrations.refuse_no_copy(copy);
    perform rpc_migrations.run(format('analyze %s', copy.target::regclass));
end;
$function$;
