-- Foreign keys of a table that is not in use: it keeps only those that delete its rows. One on the new table would lock the
-- rows that it points at while the replay holds others, would refuse deletions that the application may do, and could not
-- be validated once a parent is gone and the replay is behind. One on the table that was moved aside would let its old rows
-- refuse such deletions, for as long as it is kept; only "on delete cascade" stays there, so that what is deleted is also
-- deleted from the backup. Removed keys are remembered here, and made again when the table takes its place (again).
--
-- Foreign keys act in the order in which they were made (see acts_by), so they are made in the order that they had: among a table's own,
-- and among those that point at it. One that is made anew comes after those that other tables have on the same table, which are not
-- ours to make anew. If a deletion may fail because of that, a message says so (deletions_in_words).

-- Drops foreign keys of a table and remembers them: all, or only those that may refuse a deletion.
create or replace function rpc_migrations.take_off_keys(relation oid, and_cascades boolean) returns void
language plpgsql
set search_path = ''
as $function$
declare
    key record;
begin
    for key in
        select c.oid, c.conname, c.confrelid, c.convalidated, pg_get_constraintdef(c.oid) as definition
        from pg_catalog.pg_constraint as c
        where
            c.conrelid = relation and c.contype = 'f' and c.confrelid <> relation and c.conparentid = 0
            and (and_cascades or c.confdeltype <> 'c')
    loop
        delete from rpc_migrations.foreign_keys as k where k.relation = take_off_keys.relation and k.name = key.conname;
        insert into rpc_migrations.foreign_keys (relation, name, refers_to, definition, is_valid, comment)
        values (
            relation, key.conname, key.confrelid, regexp_replace(key.definition, ' NOT VALID$', ''), key.convalidated,
            obj_description(key.oid, 'pg_constraint')
        );
        execute format('alter table %s drop constraint %I', relation::regclass, key.conname);
    end loop;
end;
$function$;


-- Adds a foreign key that was removed, as not valid, so that no row is read.
create or replace function rpc_migrations.add_key(relation oid, name name, definition text, comment text) returns void
language plpgsql
set search_path = ''
as $function$
begin
    execute format('alter table %s add constraint %I %s%s', relation::regclass, name, definition,
        case when definition !~ ' NOT ENFORCED$' then ' not valid' end);
    if comment is not null then
        execute format('comment on constraint %I on %s is %L', name, relation::regclass, comment);
    end if;
end;
$function$;


-- Makes the foreign keys that were removed from a table, or some of them, again as not valid, which takes no time. Returns those that have
-- to be validated: [{relation, name}]. A key that a step has declared is validated, unless the other table has it as not valid. Keys that
-- "key_order" does not name come last, in the order of their declaration.
create or replace function rpc_migrations.make_taken_off_keys(
    relation oid, other_table oid, key_order name[], only_one name default null, only_cascades boolean default false
) returns jsonb
language plpgsql
set search_path = ''
as $function$
declare
    key record;
    made jsonb := '[]';
begin
    for key in
        select k.*
        from rpc_migrations.taken_off_keys(relation) as k
        where (only_one is null or k.name = only_one) and (not only_cascades or k.definition ~ ' ON DELETE CASCADE')
        order by array_position(key_order, k.name), k.place, k.name
    loop
        if key.stand_in is not null then
            execute format('alter table %s drop constraint %I', relation::regclass, key.stand_in);
        end if;
        begin
            perform rpc_migrations.add_key(relation, key.name, key.definition, key.comment);
        exception when invalid_foreign_key then
            -- The key that it needs on the other table was dropped, and with it this one would be gone, too. Validation says so, of one
            -- that was not valid as well.
            if key.stand_in is not null then
                raise;
            end if;
            key.is_valid := true;
        end;
        if key.is_valid and not (key.stand_in is not null and exists (
            select from pg_catalog.pg_constraint as o
            where o.conrelid = other_table and o.contype = 'f' and o.conname = key.name and not o.convalidated
        )) then
            made := made || jsonb_build_object('relation', relation::regclass::text, 'name', key.name);
        end if;
    end loop;
    delete from rpc_migrations.foreign_keys as k
    where
        k.relation = make_taken_off_keys.relation and (only_one is null or k.stand_in = key.place)
        and (not only_cascades or k.definition ~ ' ON DELETE CASCADE');
    return made;
end;
$function$;


-- Whether the table that moves back still has a foreign key that would act before one that was removed and used to come first: a key
-- "on delete cascade", in a rollback that discards the changes. Then those that stayed have to be made anew as well.
create or replace function rpc_migrations.stays_out_of_order(copy rpc_migrations.copies) returns boolean
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
as $function$
begin
    return exists (
        select
        from rpc_migrations.taken_off_keys(copy.target) as k
        inner join unnest(rpc_migrations.keys_in_order(copy.target)) as stays (name)
            on array_position(copy.key_order, k.name) < array_position(copy.key_order, stays.name)
    );
end;
$function$;


-- The tables that foreign keys of both tables of a copy point at, and whether one of these keys will be dropped. Tables of others
-- (auth.users) come last, so that they are locked for the shortest time.
create or replace function rpc_migrations.parents(copy rpc_migrations.copies)
returns table (parent regclass, loses_key boolean, may_lock boolean)
language sql stable
set search_path = ''
as $function$
    select p.parent::regclass, bool_or(p.loses_key), has_table_privilege(p.parent, 'update, delete, truncate')
    from (
        select k.refers_to as parent, false as loses_key from rpc_migrations.taken_off_keys(copy.target) as k
        union all
        select c.confrelid, c.confdeltype <> 'c'
        from pg_catalog.pg_constraint as c where c.conrelid = copy.source and c.contype = 'f'
        union all
        select c.confrelid, true
        from pg_catalog.pg_constraint as c
        where c.conrelid = copy.target and c.contype = 'f' and rpc_migrations.stays_out_of_order(copy)
    ) as p
    inner join pg_catalog.pg_class as c on c.oid = p.parent
    where p.parent not in (copy.source, copy.target)
    group by p.parent, c.relowner
    order by not pg_has_role(c.relowner, 'usage'), p.parent::regclass::text;
$function$;


-- Which deletions may be refused after the swap, for a message; null if none. A deletion cascades step by step, and within a step in the
-- order of the keys. So if rows that are deleted by way of the table refer to rows that are deleted by way of another table one step
-- before, the table's own key has to act first.
create or replace function rpc_migrations.deletions_in_words(relation oid) returns text
language sql stable
set search_path = ''
as $function$
    with recursive
    passed as (  -- keys of other tables that act before the table's own from now on
        select o.oid as key, o.conrelid as relation
        from pg_catalog.pg_constraint as k
        inner join pg_catalog.pg_constraint as o on o.confrelid = k.confrelid and (o.contype, o.confdeltype) = ('f', 'c')
        where
            k.conrelid = deletions_in_words.relation and (k.contype, k.confdeltype) = ('f', 'c')
            and deletions_in_words.relation not in (k.confrelid, o.conrelid) and o.conparentid = 0
            and rpc_migrations.acts_by(o.oid) > rpc_migrations.acts_by(k.oid)
    ),
    own as (  -- what goes with a row of the table, in which step
        select deletions_in_words.relation, 1 as step
        where exists (select from passed)
        union
        select c.conrelid, o.step + 1
        from own as o
        inner join pg_catalog.pg_constraint as c on c.confrelid = o.relation and (c.contype, c.confdeltype) = ('f', 'c')
        where o.step < 6
    ),
    refusing as (  -- what refers to rows that may go in the step before, and by way of what
        select r.oid as key, r.confrelid as relation, o.step - 1 as step
        from own as o
        inner join pg_catalog.pg_constraint as r on r.conrelid = o.relation and r.contype = 'f' and r.conparentid = 0
        where o.step > 1 and (r.confdeltype = 'r' or r.confdeltype = 'a' and not r.condeferred or r.confdeltype = 'n' and exists (
            select from pg_catalog.pg_attribute as a where a.attrelid = r.conrelid and a.attnum = any (r.conkey) and a.attnotnull))
        union
        select r.key, c.confrelid, r.step - 1
        from refusing as r
        inner join pg_catalog.pg_constraint as c on c.conrelid = r.relation and (c.contype, c.confdeltype) = ('f', 'c')
        where r.step > 1
    )
    select string_agg(format(
        'a deletion in %1$s may be refused after the swap, because of %2$I of %3$s, until %4$I is made anew, to act last again: '
        'alter table %5$s drop constraint %4$I, add constraint %4$I %6$s',
        k.confrelid::regclass, r.conname, r.conrelid::regclass, k.conname, k.conrelid::regclass, pg_get_constraintdef(k.oid)), '; ' order by t.rank)
        || coalesce(max(format('; and so for %s more foreign keys', t.number - 3)) filter (where t.number > 3), '')
    from (
        select p.key, min(f.key) as refusing, row_number() over (order by p.key) as rank, count(*) over () as number
        from passed as p
        inner join refusing as f on f.relation = p.relation and f.step = 1
        group by p.key
    ) as t
    inner join pg_catalog.pg_constraint as k on k.oid = t.key
    inner join pg_catalog.pg_constraint as r on r.oid = t.refusing
    where t.rank <= 3;
$function$;


-- The statements that put back the foreign keys and triggers that were removed or disabled on tables that were moved aside: for whoever
-- drops the private schema, which alone knows them. Null if there is nothing.
create or replace function rpc_migrations.putting_back() returns text
language sql volatile
set search_path = ''
as $function$
    select rpc_migrations.find_restored_tables();
    with aside as (
        select t.oid::regclass as relation, c.quieted, c.quieted_rules
        from rpc_migrations.copies as c
        inner join pg_catalog.pg_class as t on t.oid = case c.state when 'rolled back' then c.new_table else c.old_table end
        where c.state in ('swapped', 'rolled back')
    )
    select string_agg(s.statement, e'\n' order by s.statement)
    from (
        select format(
            'alter table %s add constraint %I %s%s;', a.relation, k.name, k.definition, case when not k.is_valid then ' not valid' end
        )
        from aside as a cross join lateral rpc_migrations.taken_off_keys(a.relation) as k
        union all
        select format('alter table %s %s trigger %I;', a.relation, coalesce(rpc_migrations.firing(q.value::"char"), 'enable'), q.key)
        from aside as a cross join lateral jsonb_each_text(a.quieted) as q
        inner join pg_catalog.pg_trigger as t on t.tgrelid = a.relation and t.tgname = q.key
        union all
        select format('alter table %s %s rule %I;', a.relation, coalesce(rpc_migrations.firing(q.value::"char"), 'enable'), q.key)
        from aside as a cross join lateral jsonb_each_text(a.quieted_rules) as q
        inner join pg_catalog.pg_rewrite as r on r.ev_class = a.relation and r.rulename = q.key
    ) as s (statement);
$function$;
