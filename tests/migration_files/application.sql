-- What the migration files here find in the database: a small application's tables. Run by the superuser,
-- behind local_supabase/supabase_services.sql.

insert into auth.users (id, email, raw_user_meta_data) values
    ('00000000-0000-0000-0000-000000000001', 'ann@example.com', '{"full_name": "Ann"}'),
    ('00000000-0000-0000-0000-000000000002', 'bob@example.com', '{"full_name": "Bob"}');

set role postgres;

create table public.profiles (id uuid primary key references auth.users (id) on delete cascade, name text);
insert into public.profiles select id, raw_user_meta_data ->> 'full_name' from auth.users;
alter table public.profiles enable row level security;

create table public.teams (id uuid primary key, name text not null);
create table public.team_members (
    team_id uuid references public.teams (id), user_id uuid references public.profiles (id), primary key (team_id, user_id)
);
alter table public.teams enable row level security;

create type public.order_kind as enum ('online', 'shop');
create table public.orders (
    id bigint generated always as identity primary key,
    user_id uuid not null references public.profiles (id),
    status text not null default 'open' constraint orders_status_check check (status <> ''),
    kind public.order_kind not null default 'online',
    total numeric not null,
    tags jsonb not null default '[]',
    updated_at timestamptz
);
insert into public.orders (user_id, total, status) values
    ('00000000-0000-0000-0000-000000000001', 12.34, 'open'),
    ('00000000-0000-0000-0000-000000000002', 5, 'sent'),
    ('00000000-0000-0000-0000-000000000001', 99, 'open');

create table public.audit (id bigint generated always as identity primary key, what text);
insert into public.audit (what) values ('the beginning');

create function public.no_op() returns trigger language plpgsql as $$ begin return new; end $$;
