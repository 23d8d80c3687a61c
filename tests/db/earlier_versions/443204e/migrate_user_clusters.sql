-- Rebuilds public.user_clusters with the four factors of the Supervisor Service, while the application keeps using it;
-- keeps the original table as public.user_clusters_backup; and creates public.prompt_refinements.
--
-- Each step is one request, one transaction, and takes effect exactly once. A batch step is sent again until it says
-- that it is done. Up to the swap the application sees nothing of all this: the new table grows in the private schema
-- rpc_migrations, under the name that it will have.


-- step: check the old table
-- Clusters whose user is gone could not be held by the foreign key of the new table. What else the new table may not
-- be able to hold is checked when the copy begins.
do $step$
declare
    orphans bigint := 0;
begin
    if to_regclass('public.user_clusters_backup') is not null and (
        select count(*) = 4
        from pg_catalog.pg_attribute as a
        where
            a.attrelid = to_regclass('public.user_clusters') and not a.attisdropped
            and a.attname in ('learning_style_factor', 'technical_depth_factor', 'quiz_performance_factor', 'feedback_pattern_factor')
    ) then
        raise exception 'public.user_clusters has its new columns already, and public.user_clusters_backup is there'
        using errcode = 'RM000', hint = 'It was migrated before, and the journal of that was removed. Nothing to do.';
    end if;
    -- Where user_id is no uuid, the beginning of the copy says so.
    if exists (
        select from pg_catalog.pg_attribute as a
        where
            a.attrelid = to_regclass('public.user_clusters') and not a.attisdropped
            and a.attname = 'user_id' and a.atttypid = 'uuid'::regtype
    ) then
        select count(*) into orphans
        from public.user_clusters as c
        where c.user_id is not null and not exists (select from auth.users as u where u.id = c.user_id);
    end if;
    if orphans > 0 then
        raise exception '% row(s) of public.user_clusters belong to a user who is not in auth.users', orphans
        using
            errcode = 'RM001',
            hint = 'Nothing was changed. This finds them: select * from public.user_clusters as c '
                'where c.user_id is not null and not exists (select from auth.users as u where u.id = c.user_id). '
                'Delete them or put their users back, then run the same command again.';
    end if;
end;
$step$;


-- step: create the new table
-- Without indexes and foreign keys: these are far cheaper to build once, after the copy. Nobody but us gets at it before
-- the swap, whatever default privileges grant.
create table rpc_migrations.user_clusters (
    id uuid not null default gen_random_uuid(),
    user_id uuid not null,
    cluster_type varchar(50) not null,
    cluster_score double precision not null default 0,
    last_calculated timestamptz default now(),
    learning_style_factor jsonb default '{}'::jsonb,
    technical_depth_factor jsonb default '{}'::jsonb,
    quiz_performance_factor jsonb default '{}'::jsonb,
    feedback_pattern_factor jsonb default '{}'::jsonb,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);

revoke all on table rpc_migrations.user_clusters from public, anon, authenticated, service_role;


-- step: begin the copy
-- Adds columns that only the old table has, and begins to capture changes of the old table.
select * from rpc_migrations.begin_copy('public.user_clusters', backup => 'public.user_clusters_backup');


-- step: copy the rows (batch)
select * from rpc_migrations.copy_batch();


-- step: build the primary key
alter table rpc_migrations.user_clusters add constraint user_clusters_pkey primary key (id);


-- step: build the index on user_id
create index user_clusters_user_id_idx on rpc_migrations.user_clusters using btree (user_id);


-- step: add the foreign key to auth.users
alter table rpc_migrations.user_clusters
add constraint user_clusters_user_id_fkey foreign key (user_id) references auth.users (id) on delete cascade not valid;


-- step: validate the foreign key
alter table rpc_migrations.user_clusters validate constraint user_clusters_user_id_fkey;


-- step: carry over constraints and indexes (batch)
-- Those of the old table that are not defined above, one a call.
select * from rpc_migrations.carry_over();


-- step: define security and trigger
-- Users see, add and change their own rows, and no others; only the service does everything. What the old table allowed
-- beyond that is carried over in the swap. An old policy that says the same as one of ours in other words is not: ours
-- takes its name instead, because two policies for one thing would both be run for each row. If it was for everything
-- (select, insert, update and delete), so is ours. A policy's condition for rows as they are ("using") holds for them as
-- they become as well, where there is no other for that ("with check").
alter table rpc_migrations.user_clusters enable row level security;

do $step$
declare
    policy record;
begin
    for policy in
        with same_policies as (
            select p.polname as name, p.polcmd::text as command
            from pg_catalog.pg_policy as p
            cross join lateral (values (pg_get_expr(p.polqual, p.polrelid)), (pg_get_expr(p.polwithcheck, p.polrelid))) as c (condition)
            where
                p.polrelid = to_regclass('public.user_clusters') and p.polpermissive and c.condition is not null
                and p.polroles <@ array[0, 'anon'::regrole::oid, 'authenticated'::regrole::oid]
                and p.polroles && array[0, 'authenticated'::regrole::oid]
            group by p.polname, p.polcmd
            -- The condition without blanks, brackets, casts to text, and the words that a subquery adds.
            having bool_and(
                regexp_replace(c.condition, '[() ]|select|as uid|::text', '', 'gi') in ('auth.uid=user_id', 'user_id=auth.uid')
            )
        )
        select coalesce((select min(s.name) from same_policies as s where s.command = w.command), w.name) as name, w.rule
        from (
            values
            ('r', 'Users can view their own clusters', 'for select to authenticated using ((select auth.uid()) = user_id)'),
            ('a', 'Users can insert their own clusters', 'for insert to authenticated with check ((select auth.uid()) = user_id)'),
            ('w', 'Users can update their own clusters', 'for update to authenticated using ((select auth.uid()) = user_id)'),
            ('*', null, 'for all to authenticated using ((select auth.uid()) = user_id)')
        ) as w (command, name, rule)
        where (w.command = '*') = exists (select from same_policies as s where s.command = '*')
    loop
        execute format('create policy %I on rpc_migrations.user_clusters %s', policy.name, policy.rule);
    end loop;
end;
$step$;

create or replace function public.set_user_clusters_updated_at() returns trigger
language plpgsql
set search_path = ''
as $function$
begin
    new.updated_at := now();
    return new;
end;
$function$;

revoke all on function public.set_user_clusters_updated_at() from public, anon, authenticated, service_role;

create trigger set_user_clusters_updated_at before update on rpc_migrations.user_clusters
for each row execute function public.set_user_clusters_updated_at();


-- step: gather statistics
-- A new table has none, and the first queries after the swap would be planned blindly.
analyze rpc_migrations.user_clusters;


-- step: replay what changed (batch)
select * from rpc_migrations.replay();


-- step: compare the old and the new table
select * from rpc_migrations.compare();


-- step: swap the tables (batch)
-- The original table becomes public.user_clusters_backup, closed to the API, and the new one public.user_clusters, in
-- one short transaction.
select * from rpc_migrations.swap();


-- step: grant rights
-- Those that the old table had were carried over in the swap. Until then the new table is open to nobody.
grant select, insert, update on table public.user_clusters to authenticated;
grant select, insert, update, delete on table public.user_clusters to service_role;


-- step: validate foreign keys of other tables (batch)
select * from rpc_migrations.validate_foreign_keys();


-- step: create prompt_refinements
-- A log of the refinements that the Supervisor makes: users see their own rows, only the service writes.
create table if not exists public.prompt_refinements (
    id uuid not null default gen_random_uuid(),
    user_id uuid not null,
    session_id uuid not null,
    original_prompt text not null,
    refined_prompt text not null,
    cluster_type varchar(50) not null,
    created_at timestamptz default now(),
    constraint prompt_refinements_pkey primary key (id),
    constraint prompt_refinements_user_id_fkey foreign key (user_id) references auth.users (id) on delete cascade
);

create index if not exists prompt_refinements_user_id_idx on public.prompt_refinements using btree (user_id);
create index if not exists prompt_refinements_session_id_idx on public.prompt_refinements using btree (session_id);

alter table public.prompt_refinements enable row level security;

drop policy if exists "Users can view their own prompt refinements" on public.prompt_refinements;
create policy "Users can view their own prompt refinements" on public.prompt_refinements
for select to authenticated using ((select auth.uid()) = user_id);

revoke all on table public.prompt_refinements from public, anon, authenticated, service_role;
grant select on table public.prompt_refinements to authenticated;
grant select, insert, update, delete on table public.prompt_refinements to service_role;
