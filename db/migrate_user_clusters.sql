-- Rebuilds public.user_clusters with the four factors of the Supervisor Service, while the application keeps using it;
-- keeps the original table as public.user_clusters_backup; and creates public.prompt_refinements.
--
-- Each step takes effect exactly once. A batch step is sent again until it says that it is done. Quick steps share a
-- request; one that locks a table in use is the last of its request, so that the lock is held for a moment only.
-- Up to the swap the application sees nothing of all this: the new table grows in the private schema rpc_migrations,
-- under the name that it will have. Its foreign key is declared below and made in the swap: before, it would be in the way
-- of the application, which may delete users at any time.


-- step: check the old table
-- formerly: 344a6f98d2b5c947b82266ae9834a5aa80d12982f229c5d287e2abc6761ab0ba
-- formerly: 5913302e2cdf76830ae36214eb760d37dcead8b4ba28a5e1dccd962ff5d1d757
-- formerly: 843c308c511b8087da2ed03562a8481f2478fab0e2fce678ef23ca9e6f61ce9d
-- formerly: d2365ab6e166ffcefd429a1961f6eec687e50aaccdc887d4913ff4f90b641bc4
-- formerly: 6c40b32d6c008bafcdeb4ecb8995d4cbfc4cf6e6994b1b2b68a5d3cbfd447e4e
-- formerly: 509b07e5be674e2692123b69449e39cb9b234c231551e3a7a8d345d454a6ba0d
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
        -- What the swap has moved aside is closed, and has its indexes; what was made by hand may be all that is left of the rows.
        if exists (
            select from pg_catalog.pg_class as c
            where c.oid = to_regclass('public.user_clusters_backup') and c.relrowsecurity and c.relhasindex
        ) then
            raise exception 'public.user_clusters has its new columns already, and public.user_clusters_backup is there'
            using errcode = 'RM000', hint = 'It was migrated before, and the journal of that was removed.';
        end if;
        raise exception 'public.user_clusters has its new columns already, and public.user_clusters_backup was made by hand'
        using
            errcode = 'RM001',
            hint = 'Nothing was changed. See whether public.user_clusters has all rows of the backup, and put those back that are '
                'missing. Then rename or drop the backup, and run the same command again: it does the rest.';
    end if;
    if exists (
        select from pg_catalog.pg_class as c
        where c.oid = to_regclass('public.prompt_refinements') and (c.relkind <> 'r' or c.relowner <> current_user::regrole)
    ) then
        raise exception 'public.prompt_refinements is there, and is not a table of %', current_user
        using
            errcode = 'RM001',
            hint = 'Nothing was changed. See who made it and why. Rename it or give it to that role, then run the same command again.';
    end if;
    -- Where it is no table of ours or user_id no uuid, the beginning of the copy says so. Where the old table has this foreign key, there are none.
    if exists (
        select from pg_catalog.pg_attribute as a
        -- A view would run what it calls, and another's table what its indexes call.
        inner join pg_catalog.pg_class as t on t.oid = a.attrelid and t.relkind = 'r' and t.relowner = current_user::regrole
        where
            a.attrelid = to_regclass('public.user_clusters') and not a.attisdropped
            and a.attname = 'user_id' and a.atttypid = 'uuid'::regtype
    ) and not exists (
        select from pg_catalog.pg_constraint as c
        inner join pg_catalog.pg_attribute as a on a.attrelid = c.conrelid and c.conkey = array[a.attnum]
        inner join pg_catalog.pg_attribute as u on u.attrelid = c.confrelid and c.confkey = array[u.attnum]
        where
            c.conrelid = to_regclass('public.user_clusters') and c.confrelid = to_regclass('auth.users')
            and c.contype = 'f' and c.convalidated and a.attname = 'user_id' and u.attname = 'id'
    ) then
        select count(*) into orphans
        from public.user_clusters as c
        where c.user_id is not null and not exists (select from auth.users as u where u.id = c.user_id);
    end if;
    if orphans > 0 then
        raise exception 'rows of public.user_clusters that belong to a user who is not in auth.users: %', orphans
        using
            errcode = 'RM001',
            hint = 'Nothing was changed. This finds them: select * from public.user_clusters as c '
                'where c.user_id is not null and not exists (select from auth.users as u where u.id = c.user_id). '
                'Delete them or put their users back, then run the same command again.';
    end if;
end;
$step$;


-- step: create the new table
-- formerly: 2444822dfedd23b23261e4d02b7c998ade427204721fccbec2965ce0d10fae61
-- formerly: 8e154ed610b1d60db8ccb885162c41aeb71dd08ef60eef3881e8b1a9d18cb9f4
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

select rpc_migrations.revoke_all(to_regclass('rpc_migrations.user_clusters'));


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


-- step: carry over constraints and indexes (batch)
-- Those of the old table that are not defined above, one a call.
select * from rpc_migrations.carry_over();


-- step: define security and trigger
-- formerly: 8c40f6485802f2ac3add156ad087737d951b92b64d8caf9c620b22c013bd6c2a
-- formerly: f761b3d22ca85af345128f47de65421392f42562727c56066956ba8b28ebb66c
-- formerly: 7a719d699a8e56e5d7b8e8ae75e2822b6f82870b1b43d131923a782d952e54c9
-- Users see, add and change their own rows, and no others. Where the old table has a policy of its own that lets users do
-- one of these, it is carried over in the swap instead, as it is: what its owner decided stays so, and nothing is doubled.
alter table rpc_migrations.user_clusters enable row level security;

do $step$
declare
    policy record;
begin
    for policy in
        select p.name, p.rule
        from (
            values
            ('r', 'Users can view their own clusters', 'for select to authenticated using ((select auth.uid()) = user_id)'),
            ('a', 'Users can insert their own clusters', 'for insert to authenticated with check ((select auth.uid()) = user_id)'),
            ('w', 'Users can update their own clusters',
                'for update to authenticated using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id)')
        ) as p (command, name, rule)
        where not exists (
            select from pg_catalog.pg_policy as o
            where
                o.polrelid = to_regclass('public.user_clusters') and o.polpermissive and o.polcmd in (p.command, '*')
                and o.polroles && array[0, 'authenticated'::regrole::oid]
        )
    loop
        execute format('create policy %I on rpc_migrations.user_clusters %s', policy.name, policy.rule);
    end loop;
end;
$step$;

-- The trigger and its function are called set_user_clusters_updated_at, with a number behind it where the application has
-- another function or trigger of that name: that stays as it is.
do $step$
declare
    own_name text := 'set_user_clusters_updated_at';
    number integer := 1;
begin
    while exists (
        select from pg_catalog.pg_proc as f
        where
            f.pronamespace = 'public'::regnamespace and f.proname = own_name
            and (
                f.pronargs > 0 or f.prorettype <> 'trigger'::regtype or f.proowner <> current_user::regrole
                or regexp_replace(f.prosrc, '\s+', ' ', 'g') <> ' begin new.updated_at := now(); return new; end; '
            )
    ) or exists (
        select from pg_catalog.pg_trigger as t
        inner join pg_catalog.pg_proc as f on f.oid = t.tgfoid
        where
            t.tgrelid = to_regclass('public.user_clusters') and t.tgname = own_name
            and (f.pronamespace <> 'public'::regnamespace or f.proname <> own_name or t.tgtype <> 19)  -- 19: before update, for each row
    ) loop
        number := number + 1;
        own_name := 'set_user_clusters_updated_at_' || number;
    end loop;
    if to_regprocedure(format('public.%I()', own_name)) is null then
        execute format(
            $format$
            create function public.%I() returns trigger
            language plpgsql
            set search_path = ''
            as $function$
            begin
                new.updated_at := now();
                return new;
            end;
            $function$
            $format$, own_name);
        execute format('revoke all on function public.%I() from public, anon, authenticated, service_role', own_name);
    end if;
    execute format(
        'create trigger %1$I before update on rpc_migrations.user_clusters for each row execute function public.%1$I()', own_name);
end;
$step$;


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


-- step: create prompt_refinements
-- formerly: b4c8691f65bdc8354cb0091c9afcb4d73ee1f25ee0de17609e37ad717aff547a
-- formerly: 18a1bc500735928a679382fff987bdfec436feb9c73107df2d05aa09cd50a3d0
-- A log of the refinements that the Supervisor makes: users see their own rows, only the service writes.
-- One that is there stays as it is; verify_clusters.py tells how it differs from this.
do $step$
begin
    if to_regclass('public.prompt_refinements') is not null then
        return;
    end if;
    create table public.prompt_refinements (
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

    create index prompt_refinements_user_id_idx on public.prompt_refinements using btree (user_id);
    create index prompt_refinements_session_id_idx on public.prompt_refinements using btree (session_id);

    alter table public.prompt_refinements enable row level security;
    create policy "Users can view their own prompt refinements" on public.prompt_refinements
    for select to authenticated using ((select auth.uid()) = user_id);

    perform rpc_migrations.revoke_all(to_regclass('public.prompt_refinements'));
    grant select on table public.prompt_refinements to authenticated;
    grant select, insert, update, delete on table public.prompt_refinements to service_role;
end;
$step$;


-- step: validate the foreign keys (batch)
-- That of the new table, and those of other tables that point at it: the swap has made them anew.
select * from rpc_migrations.validate_foreign_keys();
