-- The guide's six steps, taken literally: what psql and the other tools are measured with.

-- 1. Back up existing data.
create table public.user_clusters_backup as select * from public.user_clusters;

-- 2. Drop the existing table.
drop table public.user_clusters;

-- 3. Create the new table with the updated schema.
create table public.user_clusters (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references auth.users (id) on delete cascade,
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

-- 4. Transfer the data from the backup.
insert into public.user_clusters (id, user_id, cluster_type, cluster_score, last_calculated, created_at, updated_at)
select id, user_id, cluster_type, cluster_score, last_calculated, created_at, updated_at
from public.user_clusters_backup;

-- 5. Security policies and indexes.
alter table public.user_clusters enable row level security;
create policy "Users can view their own clusters" on public.user_clusters
for select to authenticated using ((select auth.uid()) = user_id);
create policy "Users can insert their own clusters" on public.user_clusters
for insert to authenticated with check ((select auth.uid()) = user_id);
create policy "Users can update their own clusters" on public.user_clusters
for update to authenticated using ((select auth.uid()) = user_id);
create index user_clusters_user_id_idx on public.user_clusters using btree (user_id);
create trigger update_user_clusters_updated_at before update on public.user_clusters
for each row execute function public.update_updated_at();

-- 6. Create prompt_refinements if it doesn't exist.
create table if not exists public.prompt_refinements (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references auth.users (id) on delete cascade,
    session_id uuid not null,
    original_prompt text not null,
    refined_prompt text not null,
    cluster_type varchar(50) not null,
    created_at timestamptz default now()
);
create index if not exists prompt_refinements_user_id_idx on public.prompt_refinements using btree (user_id);
create index if not exists prompt_refinements_session_id_idx on public.prompt_refinements using btree (session_id);
alter table public.prompt_refinements enable row level security;
create policy "Users can view their own prompt refinements" on public.prompt_refinements
for select to authenticated using ((select auth.uid()) = user_id);
