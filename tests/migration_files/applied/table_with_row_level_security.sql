create table public.notes (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references auth.users (id) on delete cascade,
    body text not null default '',
    created_at timestamptz not null default now()
);

alter table public.notes enable row level security;

create policy "Users see their own notes" on public.notes
    for select using (auth.uid() = user_id);
create policy "Users write their own notes" on public.notes
    for insert with check ((select auth.uid()) = user_id);
