-- Validation, the last step of a migration and of a rollback: foreign keys that were made anew as not valid, and checks that rows may no
-- longer hold to.

-- The foreign keys in a list of carried statements that have to be validated, now that they are made anew: those that were
-- valid, or whose validation after an earlier swap is "pending". "relation": the table that is in place now.
create or replace function rpc_migrations.unvalidated_keys(relation oid, carried jsonb, pending jsonb) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(jsonb_build_object('relation', c.conrelid::regclass::text, 'name', c.conname)), '[]')
    from jsonb_to_recordset(coalesce(carried, '[]')) as e (kind text, name text, statement text)
    inner join pg_catalog.pg_constraint as c
        on e.kind = 'foreign key' and c.conrelid = relation and c.conname = e.name
        or e.kind = 'foreign key to the table' and format('%s %I', c.conrelid::regclass, c.conname) = e.name
    where
        c.contype = 'f' and not c.convalidated
        and (
            e.statement ~ ' not valid(; comment on .*)?$'
            or pending @> jsonb_build_array(jsonb_build_object('relation', c.conrelid::regclass::text, 'name', c.conname))
        );
$function$;


-- The checks of a table that are not valid because rows no longer held to them (see replay_past_checks), although they are to be
-- valid by "parts", which are as describe_table returns them.
create or replace function rpc_migrations.unvalidated_checks(relation oid, parts jsonb) returns jsonb
language sql stable
set search_path = ''
as $function$
    select coalesce(jsonb_agg(jsonb_build_object('relation', c.conrelid::regclass::text, 'name', c.conname)), '[]')
    from jsonb_to_recordset(parts) as p (kind text, name text, statement text)
    inner join pg_catalog.pg_constraint as c on c.conrelid = relation and c.contype = 'c' and c.conname = p.name and not c.convalidated
    where p.kind = 'check constraint' and p.statement !~ ' NOT (VALID|ENFORCED)$';
$function$;


-- Validates, one in each call, the foreign keys that the swap has made anew, and checks that rows may no longer hold to. Blocks neither
-- reads nor writes. Rows without a parent stop a migration, with the query that finds them; after a rollback, which may have brought
-- them back, the key stays not valid. So does a check, in a migration and in a rollback: nobody has to fix what was right when it was written.
create or replace function rpc_migrations.validate_foreign_keys(out done boolean, out rows bigint, out message text)
language plpgsql
set search_path = ''
as $function$
declare
    copy rpc_migrations.copies := rpc_migrations.last_copy(current_setting('rpc_migrations.migration', true));
    key record;
begin
    select c.conrelid::regclass as relation, k.relation as said, k.name into key
    from jsonb_to_record(copy.unvalidated -> 0) as k (relation text, name name)
    left join pg_catalog.pg_constraint as c on c.conname = k.name and (
        c.conrelid = to_regclass(k.relation)
        -- Its table may have been renamed.
        or not c.convalidated and (c.conrelid in (copy.old_table, copy.new_table) or c.confrelid in (copy.old_table, copy.new_table))
    )
    order by c.conrelid = to_regclass(k.relation) desc nulls last
    limit 1;
    done := key.name is null;
    rows := 0;
    if done then
        return;
    end if;
    if key.relation is null then
        message := format('%I of %s is gone (dropped or renamed since), and was not validated', key.name, key.said);
        update rpc_migrations.copies as c set unvalidated = c.unvalidated - 0 where c.id = copy.id;
        return;
    end if;
    if key.relation = copy.old_table and copy.state = 'swapped' then  -- the rollback was given up
        perform rpc_migrations.delete_orphans(key.relation, key.name);
    end if;
    begin
        perform rpc_migrations.run(format('alter table %s validate constraint %I', key.relation, key.name));
        message := format('%I of %s', key.name, key.relation);
    exception when check_violation then
        message := format('check constraint %I of %s is not valid now: rows that held to it when they were written no longer do', key.name, key.relation);
    when foreign_key_violation then
        message := format('%I of %s stays not valid because of rows without a parent, which this query finds: %s',
            key.name, key.relation, rpc_migrations.orphans_query(key.relation, key.name));
        if copy.state <> 'rolled back' then
            raise exception 'foreign key %', message
            using errcode = 'RM001', hint = 'Delete these rows or put their parents back, then run the same command again. New rows are checked already.';
        end if;
    end;
    update rpc_migrations.copies as c set unvalidated = c.unvalidated - 0 where c.id = copy.id;
end;
$function$;


-- The query that finds the rows which a foreign key does not allow.
create or replace function rpc_migrations.orphans_query(relation regclass, key_name name) returns text
language sql stable
set search_path = ''
as $function$
    select format('select * from %s as c where %s', k.conrelid::regclass, rpc_migrations.orphan_condition(k.oid, 'c'))
    from pg_catalog.pg_constraint as k
    where k.conrelid = relation and k.conname = key_name and k.contype = 'f';
$function$;
