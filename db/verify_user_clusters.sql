-- Checks what the migration has left behind; changes nothing. One statement, to be sent through execute_sql, or pasted
-- into the SQL Editor while execute_sql is there. Answers a row for each check: its name, whether it passed, and a
-- detail that says what was found or, where it failed, what is wrong and what to do.
--
-- Each part below finds what is wrong for one check or a few, as rows (check, problem); a check without a problem has
-- passed. Everything is read from the catalogs, so that a missing table is a failed check and no error.
with

-- The tables that matter; null where there is none of that name.
tables (table_name, relation) as (
    values
    ('user_clusters', to_regclass('public.user_clusters')::oid),
    ('prompt_refinements', to_regclass('public.prompt_refinements')::oid)
),

-- What the journal says of the table.
last_copy (state, old_table, ended_at) as (
    select c.state, c.old_table, c.ended_at
    from rpc_migrations.copies as c
    where c.schema_name = 'public' and c.table_name = 'user_clusters'
    order by c.id desc limit 1
),

-- The original table, and what rollbacks have kept of migrated ones.
backups (relation, name) as (
    select c.oid, c.relname::text
    from pg_catalog.pg_class as c
    where
        c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
        and (c.relname = 'user_clusters_backup' or c.relname ~ '^user_clusters_rolled_back_[0-9]+')
),

-- The roles of the API.
api_roles (role, name) as (
    select r.oid, r.rolname::text
    from pg_catalog.pg_roles as r
    where r.rolname in ('anon', 'authenticated', 'service_role')
),

expected_columns (table_name, column_name, type, not_null, default_value) as (
    values
    ('user_clusters', 'id', 'uuid', true, 'gen_random_uuid()'),
    ('user_clusters', 'user_id', 'uuid', true, null),
    ('user_clusters', 'cluster_type', 'character varying(50)', true, null),
    ('user_clusters', 'cluster_score', 'double precision', true, '0'),
    ('user_clusters', 'last_calculated', 'timestamp with time zone', false, 'now()'),
    ('user_clusters', 'learning_style_factor', 'jsonb', false, '''{}''::jsonb'),
    ('user_clusters', 'technical_depth_factor', 'jsonb', false, '''{}''::jsonb'),
    ('user_clusters', 'quiz_performance_factor', 'jsonb', false, '''{}''::jsonb'),
    ('user_clusters', 'feedback_pattern_factor', 'jsonb', false, '''{}''::jsonb'),
    ('user_clusters', 'created_at', 'timestamp with time zone', false, 'now()'),
    ('user_clusters', 'updated_at', 'timestamp with time zone', false, 'now()'),
    ('prompt_refinements', 'id', 'uuid', true, 'gen_random_uuid()'),
    ('prompt_refinements', 'user_id', 'uuid', true, null),
    ('prompt_refinements', 'session_id', 'uuid', true, null),
    ('prompt_refinements', 'original_prompt', 'text', true, null),
    ('prompt_refinements', 'refined_prompt', 'text', true, null),
    ('prompt_refinements', 'cluster_type', 'character varying(50)', true, null),
    ('prompt_refinements', 'created_at', 'timestamp with time zone', false, 'now()')
),

columns (table_name, column_name, type, not_null, default_value) as (
    select
        t.table_name, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
        pg_get_expr(d.adbin, d.adrelid)
    from tables as t
    inner join pg_catalog.pg_attribute as a on a.attrelid = t.relation and a.attnum > 0 and not a.attisdropped
    left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
),

column_problems (check_name, problem) as (
    select
        format('%s: columns', e.table_name),
        case
            when c.column_name is null then format('%s is missing', e.column_name)
            when c.type <> e.type then format('%s is %s, not %s', e.column_name, c.type, e.type)
            when c.not_null <> e.not_null then format('%s %s NULL', e.column_name, case when c.not_null then 'refuses' else 'allows' end)
            else format('%s has %s', e.column_name, coalesce('the default ' || c.default_value, 'no default'))
        end
    from expected_columns as e
    inner join tables as t on t.table_name = e.table_name and t.relation is not null
    left join columns as c on c.table_name = e.table_name and c.column_name = e.column_name
    where (c.type, c.not_null, c.default_value) is distinct from (e.type, e.not_null, e.default_value)
),

-- How many rows there are. A table that may not exist cannot be named in a statement; a text that is run only where it
-- exists can name it, and execute_sql runs texts.
counts (in_table, in_backup, not_in_table) as (
    select
        case when n.has_table then
            (public.execute_sql('select count(*) as n from public.user_clusters') -> 0 ->> 'n')::bigint
        end,
        case when n.has_backup then
            (public.execute_sql('select count(*) as n from public.user_clusters_backup') -> 0 ->> 'n')::bigint
        end,
        -- The rows of the backup whose id is not in the table.
        case when n.both_have_id then
            (public.execute_sql(
                'select count(*) as n from public.user_clusters_backup as b '
                'where not exists (select from public.user_clusters as c where c.id = b.id)'
            ) -> 0 ->> 'n')::bigint
        end
    -- Only tables of ours are read: a view of that name, or another's table, could have what it calls run with our rights.
    from (
        select
            count(*) filter (where c.oid = to_regclass('public.user_clusters')) = 1 as has_table,
            count(*) filter (where c.oid = to_regclass('public.user_clusters_backup')) = 1 as has_backup,
            count(*) = 2 and exists (
                select
                from pg_catalog.pg_attribute as a
                inner join pg_catalog.pg_attribute as b on b.attname = a.attname and b.atttypid = a.atttypid
                where
                    a.attname = 'id' and a.attrelid = to_regclass('public.user_clusters')
                    and b.attrelid = to_regclass('public.user_clusters_backup')
            ) as both_have_id
        from pg_catalog.pg_class as c
        where
            c.oid in (to_regclass('public.user_clusters'), to_regclass('public.user_clusters_backup'))
            and c.relkind in ('r', 'p') and c.relowner = current_user::regrole
    ) as n
),

data_problems (check_name, problem) as (
    select
        'user_clusters: data',
        format('of the %s of public.user_clusters_backup none is in public.user_clusters', rpc_migrations.rows_in_words(c.in_backup))
    from counts as c
    where c.in_backup > 0 and (c.in_table = 0 or c.not_in_table = c.in_backup)
),

key_problems (check_name, problem) as (
    select format('%s: primary key', t.table_name), format('(id) is not the primary key of public.%s', t.table_name)
    from tables as t
    where
        t.relation is not null
        and not exists (
            select
            from pg_catalog.pg_constraint as c
            where c.conrelid = t.relation and c.contype = 'p' and pg_get_constraintdef(c.oid) = 'PRIMARY KEY (id)'
        )
    union all
    select format('%s: foreign keys', t.table_name), format('user_id of public.%s does not refer to auth.users (id) with on delete cascade', t.table_name)
    from tables as t
    where
        t.relation is not null
        and not exists (
            select
            from pg_catalog.pg_constraint as c
            where
                c.conrelid = t.relation and c.contype = 'f' and c.confrelid = to_regclass('auth.users') and c.confdeltype = 'c'
                and pg_get_constraintdef(c.oid) like 'FOREIGN KEY (user_id) REFERENCES %(id) %'
        )
    union all
    select
        format('%s: foreign keys', t.table_name),
        format('%I of %s is not validated: alter table %s validate constraint %I', c.conname, c.conrelid::regclass, c.conrelid::regclass, c.conname)
    from tables as t
    inner join pg_catalog.pg_constraint as c on t.relation in (c.conrelid, c.confrelid) and c.contype = 'f' and not c.convalidated
),

index_problems (check_name, problem) as (
    select
        format('%s: indexes', e.table_name),
        format('there is none on %I: create index on public.%I (%I)', e.column_name, e.table_name, e.column_name)
    from (values ('user_clusters', 'user_id'), ('prompt_refinements', 'user_id'), ('prompt_refinements', 'session_id'))
        as e (table_name, column_name)
    inner join tables as t on t.table_name = e.table_name and t.relation is not null
    where
        not exists (
            select
            from pg_catalog.pg_index as i
            inner join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
            where i.indrelid = t.relation and a.attname = e.column_name and i.indpred is null
        )
    union all
    select format('%s: indexes', t.table_name), format('%s is not valid: reindex index %s', i.indexrelid::regclass, i.indexrelid::regclass)
    from tables as t
    inner join pg_catalog.pg_index as i on i.indrelid = t.relation and not (i.indisvalid and i.indisready)
),

security_problems (check_name, problem) as (
    select
        format('%s: row level security', t.table_name),
        format('it is off, so that everyone may see everyone''s rows: alter table public.%s enable row level security', t.table_name)
    from tables as t
    inner join pg_catalog.pg_class as c on c.oid = t.relation and not c.relrowsecurity
    union all
    -- Own rows are those that a policy finds by auth.uid().
    select
        format('%s: policies', e.table_name),
        format('none lets users %s their own rows', e.verb)
    from (
        values ('user_clusters', 'r', 'see'), ('user_clusters', 'a', 'add'), ('user_clusters', 'w', 'change'), ('prompt_refinements', 'r', 'see')
    ) as e (table_name, command, verb)
    inner join tables as t on t.table_name = e.table_name and t.relation is not null
    where
        not exists (
            select
            from pg_catalog.pg_policy as p
            where
                p.polrelid = t.relation and p.polpermissive and p.polcmd in (e.command::"char", '*')
                and p.polroles && (select array_agg(r.role) || 0::oid from api_roles as r where r.name = 'authenticated')
                and concat(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) ~ '\muid\(\)'
        )
),

trigger_problems (check_name, problem) as (
    select 'user_clusters: trigger', 'set_user_clusters_updated_at, which keeps updated_at, is missing or disabled'
    from tables as t
    where
        t.table_name = 'user_clusters' and t.relation is not null
        and not exists (
            select
            from pg_catalog.pg_trigger as g
            where g.tgrelid = t.relation and g.tgname ~ '^set_user_clusters_updated_at(_[0-9]+)?$' and g.tgenabled in ('O', 'A')
        )
),

-- What the service and the users need; and that users only read what the Supervisor writes.
grant_problems (check_name, problem) as (
    select
        format('%s: grants', e.table_name),
        format('%s may not %s: grant %s on public.%s to %s', r.name, w.privilege, w.privilege, e.table_name, r.name)
    from (
        values
        ('user_clusters', 'authenticated', 'select, insert, update'),
        ('user_clusters', 'service_role', 'select, insert, update, delete'),
        ('prompt_refinements', 'authenticated', 'select'),
        ('prompt_refinements', 'service_role', 'select, insert, update, delete')
    ) as e (table_name, role_name, privileges)
    inner join tables as t on t.table_name = e.table_name and t.relation is not null
    inner join api_roles as r on r.name = e.role_name
    cross join lateral string_to_table(e.privileges, ', ') as w (privilege)
    where not has_table_privilege(r.role, t.relation, w.privilege)
    union all
    select
        format('%s: grants', t.table_name),
        format('%s may %s: revoke %s on public.%s from public, %s', r.name, w.privilege, w.privilege, t.table_name, r.name)
    from tables as t
    inner join api_roles as r on r.name in ('anon', 'authenticated')
    cross join (values ('insert'), ('update'), ('delete'), ('truncate')) as w (privilege)
    where
        t.table_name = 'prompt_refinements' and t.relation is not null
        and has_table_privilege(r.role, t.relation, w.privilege)
),

missing_table_problems (check_name, problem) as (
    select c.check_name, format('there is no table public.%s', t.table_name)
    from tables as t
    cross join lateral (
        select format('%s: %s', t.table_name, part.name) as check_name
        from (
            values ('columns'), ('data'), ('primary key'), ('indexes'), ('foreign keys'), ('row level security'), ('policies'), ('trigger'), ('grants')
        ) as part (name)
    ) as c
    where t.relation is null
),

backup_problems (check_name, problem) as (
    select distinct
        'backup: closed to the API',
        format('%1$s has rights on public.%2$I: revoke all on public.%2$I from %1$s', g.name, b.name)
    from backups as b
    cross join lateral (
        select c.relacl, c.relowner from pg_catalog.pg_class as c where c.oid = b.relation
        union all
        select a.attacl, c.relowner
        from pg_catalog.pg_class as c inner join pg_catalog.pg_attribute as a on a.attrelid = c.oid
        where c.oid = b.relation
    ) as source (acl, owner)
    cross join lateral aclexplode(source.acl) as acl
    cross join lateral (select case acl.grantee when 0 then 'public' else acl.grantee::regrole::text end) as g (name)
    where acl.grantee <> source.owner
    union all
    select
        'backup: closed to the API',
        format('row level security of public.%I is off: alter table public.%I enable row level security', b.name, b.name)
    from backups as b
    inner join pg_catalog.pg_class as c on c.oid = b.relation and not c.relrowsecurity
),

execute_sql (function, signature) as (
    select p.oid, format('public.%s', p.oid::regprocedure)
    from pg_catalog.pg_proc as p
    where
        p.pronamespace = 'public'::regnamespace and p.proname = 'execute_sql'
        and coalesce(obj_description(p.oid, 'pg_proc'), '') like 'rpc_migrations %'
),

function_problems (check_name, problem) as (
    select
        'no other function runs SQL for users',
        format('%s may execute %s: revoke execute on function %s from public, %s', f.caller, f.signature, f.signature, f.caller)
    from rpc_migrations.open_functions() as f
    union all
    select
        'execute_sql: only for the service',
        case
            when o.by_membership then format('%s may execute it as a member of service_role: revoke service_role from %s', o.role, o.role)
            else format('%s may execute it: revoke execute on function %s from public, %s', o.role, f.signature, o.role)
        end
    from execute_sql as f
    cross join rpc_migrations.other_callers() as o
    union all
    select
        'execute_sql: only for the service',
        format('service_role may not execute %s: grant execute on function %s to service_role', f.signature, f.signature)
    from execute_sql as f
    inner join api_roles as r on r.name = 'service_role' and not has_function_privilege(r.role, f.function, 'execute')
),

private_problems (check_name, problem) as (
    select 'rpc_migrations: closed to the API', format('%s has rights on %s: %s', r.grantee, r.object, r.statement)
    from rpc_migrations.rights_of_others() as r
    where r.object not like 'routine public.%'
    union all
    select
        'rpc_migrations: closed to the API',
        'the API exposes the schema (setting pgrst.db_schemas): take it out under Settings, API, exposed schemas'
    from pg_catalog.pg_db_role_setting as s
    cross join lateral unnest(s.setconfig) as setting (text)
    where setting.text ~ '^pgrst\.db_schemas=.*\mrpc_migrations\M'
),

-- What is there only while a table is being copied.
leftover_problems (check_name, problem) as (
    select 'no migration is under way', format('%s is being captured (trigger %s)', g.tgrelid::regclass, g.tgname)
    from pg_catalog.pg_trigger as g
    where g.tgname in ('rpc_migrations_capture', 'rpc_migrations_capture_truncate')
    union all
    select 'no migration is under way', format('table %s is there', c.oid::regclass)
    from pg_catalog.pg_class as c
    where
        c.relnamespace = to_regnamespace('rpc_migrations') and c.relkind = 'r'
        and c.relname <> all (rpc_migrations.journal_tables())
    union all
    select 'no migration is under way', format('function %s is there', p.oid::regprocedure)
    from pg_catalog.pg_proc as p
    where p.pronamespace = to_regnamespace('rpc_migrations') and p.proname ~ '^capture_[0-9]+$'
),

problems (check_name, problem) as (
    select * from missing_table_problems
    union all select * from column_problems
    union all select * from data_problems
    union all select * from key_problems
    union all select * from index_problems
    union all select * from security_problems
    union all select * from trigger_problems
    union all select * from grant_problems
    union all select * from backup_problems
    union all select * from function_problems
    union all select * from private_problems
    union all select * from leftover_problems
),

-- What the details of passed checks say.
found (check_name, detail) as (
    select format('%s: columns', e.table_name), format('all %s, with the right types and defaults', count(*))
    from expected_columns as e group by e.table_name
    union all
    select 'user_clusters: data', concat_ws(
        '; ',
        rpc_migrations.rows_in_words(c.in_table),
        coalesce(
            rpc_migrations.rows_in_words(c.in_backup) || ' in public.user_clusters_backup',
            (select 'there was no public.user_clusters before the migration' from last_copy as l where l.state = 'swapped' and l.old_table is null),
            (
                select 'public.user_clusters_backup was dropped when the migration was finished, on '
                    || to_char(l.ended_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"')
                from last_copy as l
                where l.state = 'finished'
            ),
            'there is no public.user_clusters_backup to compare with'
        ),
        case
            when c.in_backup = 0 then null
            when c.not_in_table = 0 then 'every one of these is in the table'
            when c.not_in_table > 0 then format(
                '%s of these are not in the table any more: deleted since the migration, which compares both tables before it '
                'exchanges them. This finds them: select * from public.user_clusters_backup as b '
                'where not exists (select from public.user_clusters as c where c.id = b.id)', c.not_in_table)
            when c.in_backup > 0 then 'they have no column id in common to compare them by'
        end
    )
    from counts as c
    union all
    select 'backup: closed to the API', 'nobody but the owner may use ' || string_agg('public.' || b.name, ', ' order by b.name)
    from backups as b
    having count(*) > 0
    union all
    select 'execute_sql: only for the service', string_agg(f.signature, ', ') || ': no role but its owner and service_role may execute it'
    from execute_sql as f
    having count(*) > 0
),

remedies (remedy_name, remedy) as (
    values
    ('migrate', coalesce(
        (
            select
                format('It was rolled back at %s. To migrate again: make migrate-clusters',
                    to_char(l.ended_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'))
            from last_copy as l
            where l.state = 'rolled back'
        ),
        (
            select 'The migration is under way: make migrate-clusters goes on' from last_copy as l where l.state in ('copying', 'copied')
        ),
        'Run "make migrate-clusters"; if it says that all is done already, put this back by hand: db/migrate_user_clusters.sql has the statements'
    )),
    ('data', 'If the application did not delete them, go back to the original table: make rollback-clusters'),
    ('statement', 'Run the statement in the SQL Editor'),
    ('deploy', 'Run the statement in the SQL Editor, or deploy again: make deploy-function'),
    ('finish', 'Finish the migration that is under way (for this table: make migrate-clusters) or take it back (make rollback-clusters)')
),

checks (place, check_name, remedy_name, detail) as (
    values
    (1, 'user_clusters: columns', 'migrate', null),
    (2, 'user_clusters: data', 'data', null),
    (3, 'prompt_refinements: columns', 'migrate', null),
    (4, 'user_clusters: primary key', 'migrate', '(id)'),
    (5, 'user_clusters: indexes', 'migrate', 'on user_id; all of them are valid'),
    (6, 'user_clusters: foreign keys', 'migrate', 'user_id refers to auth.users; all of them are validated'),
    (7, 'user_clusters: row level security', 'statement', 'on'),
    (8, 'user_clusters: policies', 'migrate', 'users see, add and change their own rows'),
    (9, 'user_clusters: trigger', 'migrate', 'updated_at is kept'),
    (10, 'user_clusters: grants', 'statement', 'users and the service have what they need'),
    (11, 'prompt_refinements: primary key', 'migrate', '(id)'),
    (12, 'prompt_refinements: indexes', 'migrate', 'on user_id and session_id; all of them are valid'),
    (13, 'prompt_refinements: foreign keys', 'migrate', 'user_id refers to auth.users; all of them are validated'),
    (14, 'prompt_refinements: row level security', 'statement', 'on'),
    (15, 'prompt_refinements: policies', 'migrate', 'users see their own rows'),
    (16, 'prompt_refinements: grants', 'statement', 'users read, only the service writes'),
    (17, 'backup: closed to the API', 'statement', 'there is none'),
    (18, 'execute_sql: only for the service', 'deploy', 'it is not there any more'),
    (19, 'no other function runs SQL for users', 'statement', 'none in public that anon or authenticated may execute'),
    (20, 'rpc_migrations: closed to the API', 'deploy', 'none of its tables and functions can be reached'),
    (21, 'no migration is under way', 'finish', 'nothing is left of the copy')
)

select
    c.check_name as "check",
    p.problems is null as passed,
    case
        when p.problems is null then coalesce(f.detail, c.detail)
        when p.problems like 'there is no table %' then concat_ws('. ', p.problems, (
            select coalesce(max(m.remedy) filter (where m.remedy like 'It was rolled back %'), 'Run: make migrate-clusters')
            from remedies as m
        ))
        else concat_ws('. ', p.problems, r.remedy)
    end as detail
from checks as c
inner join remedies as r on r.remedy_name = c.remedy_name
left join found as f on f.check_name = c.check_name
left join (
    select q.check_name, string_agg(q.problem, '; ' order by q.problem) as problems
    from problems as q
    group by q.check_name
) as p on p.check_name = c.check_name
order by c.place
