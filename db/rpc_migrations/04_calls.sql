-- Calls of execute_sql: until when it takes any, and what the owner can see of them afterwards. The record is no audit: whoever
-- may run any SQL may also delete it.

-- Opens execute_sql from now on, for a time or (null) until it is removed. "keep_texts": the record keeps the whole SQL of calls.
create or replace function rpc_migrations.open_access(duration interval, keep_texts boolean) returns void
language plpgsql
set search_path = ''
as $function$
begin
    delete from rpc_migrations.access as a where a.opened_at is not null;
    insert into rpc_migrations.access (open_until, keep_texts)
    values (clock_timestamp() + open_access.duration, open_access.keep_texts);
end;
$function$;


-- Since when execute_sql is open, and until when (null: until it is removed). A migration's runs keep it open until a quarter of
-- an hour after their last sign of life, so that none of them is stopped half way by this.
create or replace function rpc_migrations.access_times(out opened_at timestamptz, out open_until timestamptz)
language sql stable
set search_path = ''
as $function$
    select
        a.opened_at,
        case when a.open_until is not null then greatest(a.open_until, (
            select max(greatest(r.last_seen_at, r.ended_at)) + interval '15 minutes'
            from rpc_migrations.runs as r
            where r.last_seen_at >= a.opened_at
        )) end
    from rpc_migrations.access as a;
$function$;


-- A time, for a message.
create or replace function rpc_migrations.moment(at timestamptz) returns text
language sql stable
set search_path = ''
as $function$
    select to_char(moment.at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"');
$function$;


-- Raises RM007 when the time is over.
create or replace function rpc_migrations.check_open() returns void
language plpgsql
set search_path = ''
as $function$
declare
    open_until timestamptz := (select t.open_until from rpc_migrations.access_times() as t);
begin
    if open_until <= clock_timestamp() then
        raise exception 'execute_sql has been closed since %', rpc_migrations.moment(open_until)
        using errcode = 'RM007', hint = 'Open it again: python scripts/deploy_sql_function.py --for 2h';
    end if;
end;
$function$;


-- Who calls: the role in the database, what the key says of itself, and the address as the gateway saw it.
create or replace function rpc_migrations.caller() returns jsonb
language plpgsql stable
set search_path = ''
as $function$
declare
    claims jsonb;
    headers jsonb;
begin
    begin
        claims := nullif(current_setting('request.jwt.claims', true), '');
        headers := nullif(current_setting('request.headers', true), '');
    exception when invalid_text_representation then
        null;  -- not PostgREST's: somebody has set them in a session of their own
    end;
    return jsonb_build_object(
        'role', coalesce(nullif(current_setting('role'), 'none'), session_user),
        'jwt_role', claims ->> 'role', 'sub', claims ->> 'sub', 'forwarded_for', headers ->> 'x-forwarded-for'
    );
end;
$function$;


-- SHA-256 of a text, as sha256sum prints it.
create or replace function rpc_migrations.hash_of(query text) returns text
language sql immutable
set search_path = ''
as $function$
    select encode(sha256(convert_to(query, 'UTF8')), 'hex');
$function$;


-- The kinds of statement in a text, as far as its words tell: each one's first word, and of create, alter and drop the kind of
-- thing as well. Of a long text its beginning.
create or replace function rpc_migrations.kinds_of(query text) returns text[]
language sql immutable
set search_path = ''
as $function$
    with bare (text) as (
        select regexp_replace(
            regexp_replace(left(query, 100000), '(\$[[:alpha:]_]??\w*?\$).*?\1', '', 'g'),
            rpc_migrations.comment_pattern() || $re$|'([^']|'')*'|"([^"]|"")*"$re$, '', 'g')
    )
    select array_agg(distinct upper(concat_ws(' ', word[1], case when upper(word[1]) in ('CREATE', 'ALTER', 'DROP') then word[2] end)))
    from bare
    cross join string_to_table(bare.text, ';') as statement
    cross join regexp_matches(
        statement,
        '^\W*(\w+)(?:\s+(?:or\s+replace|unique|temporary|temp|unlogged|materialized|recursive|constraint|event))*(?:\s+(\w+))?', 'i'
    ) as word;
$function$;


-- Notes in the server's log who calls with what, before it runs: that stays also where the call fails.
create or replace function rpc_migrations.log_call(query text, migration text, step text, following jsonb) returns void
language plpgsql
set search_path = ''
as $function$
begin
    raise log 'rpc_migrations: %', rpc_migrations.caller() || jsonb_strip_nulls(jsonb_build_object(
        'migration', log_call.migration, 'step', log_call.step, 'sha256', rpc_migrations.hash_of(log_call.query),
        'kinds', rpc_migrations.kinds_of(log_call.query),
        'following', (select jsonb_agg(f ->> 'step') from jsonb_array_elements(log_call.following) as f)
    ));
end;
$function$;


-- Records what a call answered: a row for its text and for each of the steps that followed it. The transaction of a call that
-- failed is undone, and its row with it. Rows are kept for 90 days.
create or replace function rpc_migrations.record_call(
    query text, migration text, step text, following jsonb, answer jsonb, changed boolean
) returns void
language plpgsql
set search_path = ''
as $function$
declare
    caller jsonb := rpc_migrations.caller();
    keep_texts boolean := (select a.keep_texts from rpc_migrations.access as a);
begin
    if current_setting('transaction_read_only')::boolean then
        return;
    end if;
    insert into rpc_migrations.calls (
        role, jwt_role, sub, forwarded_for, migration, step, sha256, kinds, outcome, rows, changed, query
    )
    select
        caller ->> 'role', caller ->> 'jwt_role', caller ->> 'sub', caller ->> 'forwarded_for', c.migration, c.step,
        rpc_migrations.hash_of(c.query), rpc_migrations.kinds_of(c.query), coalesce(c.answer ->> 'state', 'done'),
        case jsonb_typeof(c.answer)
            when 'number' then c.answer::bigint
            when 'array' then jsonb_array_length(c.answer)
            else (c.answer ->> 'rows')::bigint
        end,
        record_call.changed, case when keep_texts then c.query end
    from (
        select record_call.migration, record_call.step, record_call.query, record_call.answer
        union all
        -- Further batches of the first step are among them.
        select a ->> 'migration', a ->> 'step', coalesce(f ->> 'query', record_call.query), a
        from jsonb_array_elements(record_call.answer -> 'following') as a
        left join jsonb_array_elements(record_call.following) as f
            on f ->> 'step' = a ->> 'step' and coalesce(f ->> 'migration', record_call.migration) = a ->> 'migration'
        where record_call.step is not null
    ) as c (migration, step, query, answer)
    where c.query is not null;
    delete from rpc_migrations.calls as c
    where
        c.called_at < clock_timestamp() - interval '90 days'
        and c.id in (select o.id from rpc_migrations.calls as o order by o.id limit 100 for update skip locked);
end;
$function$;


-- The last calls that changed something, the newest first, and how many there are in all.
create or replace function rpc_migrations.last_calls(number integer) returns jsonb
language sql stable
set search_path = ''
as $function$
    select jsonb_build_object(
        'calls', (
            select coalesce(jsonb_agg(to_jsonb(c) - 'query' order by c.id desc), '[]')
            from (
                select r.* from rpc_migrations.calls as r where r.changed order by r.id desc limit last_calls.number
            ) as c
        ),
        'total', (select count(*) from rpc_migrations.calls)
    );
$function$;
