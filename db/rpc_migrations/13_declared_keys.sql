-- Foreign keys that a step declares on a new table: they are removed before the step ends, and remembered until the swap (see
-- 13_foreign_keys.sql). A check stands in for each meanwhile.

-- Drops the foreign keys that the step which ends here has put on new tables, before anyone else sees them, and remembers them.
-- What they point at is locked until the commit, which follows at once; the lock timeout is short.
create or replace function rpc_migrations.defer_foreign_keys() returns void
language plpgsql
set search_path = ''
set lock_timeout = '20ms'
as $function$
declare
    new_table regclass;
    key_order name[];
    key rpc_migrations.foreign_keys;
begin
    for new_table in
        select distinct c.conrelid
        from pg_catalog.pg_constraint as c
        inner join pg_catalog.pg_class as t on t.oid = c.conrelid
        where c.contype = 'f' and t.relnamespace = 'rpc_migrations'::regnamespace
    loop
        if exists (select from pg_catalog.pg_constraint as c where c.conrelid = new_table and c.confrelid = new_table) then
            raise exception 'the new table % has a foreign key that points at itself', new_table
            using errcode = 'RM005', hint = 'Leave it out: the old table''s is carried over; add a new one in a step after the swap.';
        end if;
        key_order := rpc_migrations.keys_in_order(new_table);
        perform rpc_migrations.take_off_keys(new_table, and_cascades => true);
        for key in
            select k.*
            from rpc_migrations.foreign_keys as k
            where k.relation = new_table and k.stand_in is null
            order by array_position(key_order, k.name)
        loop
            perform rpc_migrations.hold_place(key);
        end loop;
    end loop;
end;
$function$;


-- Whether a text is one statement that only adds one foreign key to a new table, for declare_key, which undoes everything else. Without
-- quoted names, comments and what is in parentheses there must be no comma, hence no second action, and nothing after a semicolon.
create or replace function rpc_migrations.adds_a_key(statement text) returns boolean
language sql immutable
set search_path = ''
as $function$
    select case when length(statement) < 10000 then (
        select
            w.text ~* '^alter\s+table\s+(only\s+)?"?rpc_migrations"?\.'
            and b.text ~* '^alter\s+table\s+(only\s+)?\S+\s+add\s+(constraint\s+\S+\s+)?foreign\s+key\M'
            and b.text !~ '[(),]|;\s*[^\s"]'
        from (select rpc_migrations.without_comments_before(statement)) as w (text)
        cross join lateral (
            select regexp_replace(
                regexp_replace(w.text, '"([^"]|"")*"|' || rpc_migrations.comment_pattern(), '""', 'g'), '\([^()]*\)', '', 'g')
        ) as b (text)
    ) else false end;
$function$;


-- Runs a statement that only adds a foreign key to a new table, as run_text does, and remembers the key. Everything else that it has done
-- is undone, its locks as well: what the key points at is free again at once, not only at the commit. If the statement wants rows to be
-- valid, they are read after these locks. Raises RM001 if one has no parent and is not to be replayed.
create or replace function rpc_migrations.declare_key(statement text) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    reads_rows boolean := statement !~* '\mnot\s+(valid|enforced)\M';
    answer jsonb;
    orphans text;
    key rpc_migrations.foreign_keys;
begin
    perform rpc_migrations.defer_foreign_keys();  -- an earlier version has left them; now there is none but the statement's
    begin
        answer := rpc_migrations.run_text(case
            when reads_rows then regexp_replace(statement, '(\s|;|' || rpc_migrations.comment_pattern() || ')*$', e'\nnot valid')
            else statement end);
        select c.conrelid, c.conname, rpc_migrations.orphans_query(c.conrelid, c.conname) into key.relation, key.name, orphans
        from pg_catalog.pg_constraint as c
        inner join pg_catalog.pg_class as t on t.oid = c.conrelid
        where c.contype = 'f' and c.conparentid = 0 and t.relnamespace = 'rpc_migrations'::regnamespace;
        perform rpc_migrations.defer_foreign_keys();
        select k.* into key from rpc_migrations.foreign_keys as k where k.relation = key.relation and k.name = key.name;
        raise exception using errcode = 'RM099';
    exception
        when sqlstate 'RM099' then
            null;
        when syntax_error then  -- told for the text as it was written
            answer := rpc_migrations.run_text(statement);
            perform rpc_migrations.defer_foreign_keys();
            return answer;
    end;
    delete from rpc_migrations.foreign_keys as k where k.relation = key.relation and k.name = key.name;
    insert into rpc_migrations.foreign_keys select key.*;
    perform rpc_migrations.hold_place(key);
    if reads_rows then
        perform rpc_migrations.refuse_orphans(key, orphans);
    end if;
    return answer;
end;
$function$;


-- Raises RM001 if a query, in which rows have the alias "c", finds rows without a parent. Rows with an entry in the log do not count: they
-- will be replayed. If we may not read the parents, or not all of them, validation in the last step finds such rows.
create or replace function rpc_migrations.refuse_orphans(key rpc_migrations.foreign_keys, query text) returns void
language plpgsql
set search_path = ''
set row_security = off
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.current_copy();
    orphans bigint;
begin
    if copy.target = key.relation and copy.source is not null then
        query := query || ' and ' || rpc_migrations.not_logged(copy, 'c');
    end if;
    begin
        orphans := rpc_migrations.run(query || ' limit 1');
    exception when insufficient_privilege or undefined_function or ambiguous_function then
        return;
    end;
    if orphans > 0 then
        raise exception 'foreign key %: rows of % have no parent, and this query finds them: %', quote_ident(key.name), key.relation, query
        using errcode = 'RM001', hint = 'No table in use was changed. Delete these rows of the table in use or put their parents back, then run '
            'the same command again.';
    end if;
end;
$function$;


-- Puts a check in the place of a foreign key that was removed from a new table, so that later statements find something of that name.
create or replace function rpc_migrations.hold_place(key rpc_migrations.foreign_keys) returns void
language plpgsql
set search_path = ''
as $function$
begin
    execute format('alter table %s add constraint %I check (true) not valid', key.relation, key.name);  -- reads no row
    execute format('comment on constraint %I on %s is %L', key.name, key.relation, key.comment);
    update rpc_migrations.foreign_keys as k
    set is_valid = k.definition !~ ' NOT ENFORCED$', stand_in = (
        select c.oid from pg_catalog.pg_constraint as c where c.conrelid = key.relation and c.conname = key.name
    )
    where k.relation = key.relation and k.name = key.name;
end;
$function$;
