-- Realtime knows the table of a subscription by its OID (realtime.subscription.entity), and checks once a minute whether the
-- published tables are still the same. Until then no subscriber would hear of changes in the table that was swapped in. So the
-- swap gives the subscriptions the new OID, if it may. It never waits for them, and never fails because of them.

-- Whether what belongs to a role may be Realtime's own: what is another's would run with our rights.
create or replace function rpc_migrations.may_be_realtimes(owner oid) returns boolean
language sql stable
set search_path = ''
as $function$
    select r.rolsuper or r.rolname in ('supabase_admin', 'supabase_realtime_admin', current_user)
    from pg_catalog.pg_roles as r
    where r.oid = owner;
$function$;


-- Realtime's table of subscriptions; null if there is none, or it is not Realtime's own. As its schema is not somebody else's either, nobody
-- can put another one in its place before it is read.
create or replace function rpc_migrations.subscriptions() returns regclass
language sql stable
set search_path = ''
as $function$
    select c.oid::regclass
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    inner join pg_catalog.pg_attribute as a
        on a.attrelid = c.oid and a.attname = 'entity' and a.atttypid = 'pg_catalog.regclass'::regtype and not a.attisdropped
    where
        n.nspname = 'realtime' and c.relname = 'subscription' and c.relkind = 'r'
        and rpc_migrations.may_be_realtimes(n.nspowner) and rpc_migrations.may_be_realtimes(c.relowner);
$function$;


-- The same, if we may write to it and nobody else's triggers are on it; else null.
create or replace function rpc_migrations.subscriptions_in_reach() returns regclass
language sql stable
set search_path = ''
as $function$
    select s
    from rpc_migrations.subscriptions() as s
    where
        has_schema_privilege(to_regnamespace('realtime'), 'usage') and has_table_privilege(s, 'select') and has_table_privilege(s, 'update')
        and not exists (
            select from pg_catalog.pg_trigger as t
            inner join pg_catalog.pg_proc as p on p.oid = t.tgfoid
            where t.tgrelid = s and not t.tgisinternal and not rpc_migrations.may_be_realtimes(p.proowner)
        );
$function$;


-- Gives subscriptions to one table the other's OID, for at most 50 ms, since the application waits. A locked one is skipped, and so is
-- one that Realtime's own check refuses; these follow within a minute.
create or replace function rpc_migrations.move_subscriptions(old_table oid, new_table oid) returns void
language plpgsql
set search_path = ''
as $function$
declare
    deadline timestamptz := clock_timestamp() + interval '50 ms';
    subscription record;
begin
    if rpc_migrations.subscriptions_in_reach() is null then
        return;
    end if;
    for subscription in select s.ctid as place from realtime.subscription as s where s.entity = old_table for update skip locked loop
        exit when clock_timestamp() > deadline;
        begin
            update realtime.subscription as s set entity = new_table where s.ctid = subscription.place;
        exception when others then
            null;
        end;
    end loop;
exception when others then
    return;  -- somebody alters that table at this moment
end;
$function$;


-- A remark about subscriptions that have stayed with a table that was moved aside; empty if there are none, or we may not see them.
create or replace function rpc_migrations.subscriptions_left(old_table oid) returns text
language plpgsql
set search_path = ''
as $function$
declare
    how_many bigint;
begin
    if rpc_migrations.subscriptions() is null or old_table is null then
        return '';
    end if;
    select count(*) into how_many from realtime.subscription as s where s.entity = old_table;
    return case when how_many > 0 then format('; Realtime subscriptions that follow within a minute: %s', how_many) else '' end;
exception when others then
    return '';  -- not ours to read, or locked
end;
$function$;


-- A warning before a table is rebuilt that Realtime publishes, if the subscriptions are out of reach; else empty.
create or replace function rpc_migrations.realtime_warning(old_table oid) returns text
language sql stable
set search_path = ''
as $function$
    select case when exists (
        select from pg_catalog.pg_publication_rel as r
        inner join pg_catalog.pg_publication as p on p.oid = r.prpubid
        where r.prrelid = old_table and p.pubname = 'supabase_realtime'
    ) and exists (
        select from pg_catalog.pg_class as c where c.relnamespace = to_regnamespace('realtime') and c.relname = 'subscription'
    ) and rpc_migrations.subscriptions_in_reach() is null
        then '; after the swap its Realtime subscribers may hear nothing for up to a minute' else '' end;
$function$;


-- A warning where the schema is published as a whole, or null: what is written to the table that moves aside (by a rollback, or by deletions
-- that cascade) is sent to subscribers too, which stop if they lack a table of that name. Realtime does not need one.
create or replace function rpc_migrations.subscribers_in_words(schema_name name, table_name name, aside name) returns text
language sql stable
set search_path = ''
as $function$
    select format(
        'publication %1$s covers all of schema %2$I: without a table %4$I its subscribers would stop; run there: create table %2$I.%4$I (like %2$I.%3$I)',
        string_agg(quote_ident(p.pubname), ', ' order by p.pubname), schema_name, table_name, aside)
    from pg_catalog.pg_publication_namespace as n
    inner join pg_catalog.pg_publication as p on p.oid = n.pnpubid
    where
        n.pnnspid = (select s.oid from pg_catalog.pg_namespace as s where s.nspname = subscribers_in_words.schema_name)
        and p.pubname !~ '^supabase_realtime'
    having count(*) > 0;
$function$;
