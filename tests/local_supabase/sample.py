"""The table as it is before the migration, with sample rows."""

from __future__ import annotations

from typing import Any, Literal

import psycopg

Variant = Literal["full", "minimal", "extra"]

_COLUMNS = {
    "minimal": """
        id uuid default gen_random_uuid(),
        user_id uuid not null,
        cluster_type varchar(50) not null
    """,
    "full": """
        id uuid default gen_random_uuid(),
        user_id uuid not null,
        cluster_type varchar(50) not null,
        cluster_score double precision not null default 0,
        last_calculated timestamptz default now(),
        created_at timestamptz default now(),
        updated_at timestamptz default now()
    """,
}
_COLUMNS["extra"] = (
    _COLUMNS["full"]
    + """,
        notes text default 'none',
        weight numeric generated always as (round(cluster_score::numeric * 10, 2)) stored,
        constraint user_clusters_notes_check check (length(notes) < 200)
    """
)

# After the rows, which is much quicker; the names are those that PostgreSQL chooses by itself.
_CONSTRAINTS = """
alter table public.user_clusters add constraint user_clusters_pkey primary key (id);
alter table public.user_clusters add constraint user_clusters_user_id_fkey
    foreign key (user_id) references auth.users (id) on delete cascade;
create index user_clusters_user_id_idx on public.user_clusters (user_id);
"""
_EXTRA_INDEX = "create index user_clusters_notes_idx on public.user_clusters (lower(notes)) where notes is not null"

_POLICIES = """
alter table public.user_clusters enable row level security;
create policy "Users can view their own clusters" on public.user_clusters
    for select using (auth.uid() = user_id);
create policy "Users can insert their own clusters" on public.user_clusters
    for insert with check (auth.uid() = user_id);
create policy "Users can update their own clusters" on public.user_clusters
    for update using (auth.uid() = user_id) with check (auth.uid() = user_id);
grant select, insert, update, delete on table public.user_clusters to anon, authenticated, service_role;
"""

_TRIGGER = """
create or replace function public.update_updated_at() returns trigger
    language plpgsql
    set search_path = ''
    as $$ begin new.updated_at := now(); return new; end $$;
create trigger update_user_clusters_updated_at before update on public.user_clusters
    for each row execute function public.update_updated_at();
"""

# Ids that are the same in every run: users are numbered in the last twelve digits.
_USERS = """
insert into auth.users (id, email, created_at)
select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'user' || n || '@example.com', now()
from generate_series(1, %s) as n
on conflict (id) do nothing
"""

_ROWS = """
insert into public.user_clusters (user_id, cluster_type{more_columns})
select
    ('00000000-0000-4000-8000-' || lpad((1 + n %% %s)::text, 12, '0'))::uuid,
    (array['visual', 'auditory', 'reading', 'kinesthetic', 'mixed'])[1 + n %% 5]{more_values}
from generate_series(1, %s) as n
"""
_MORE_COLUMNS = ", cluster_score, last_calculated, created_at, updated_at"
_MORE_VALUES = """,
    (n * 7919::bigint %% 1000) / 1000.0,
    timestamptz '2026-01-01' + n * interval '1 second',
    timestamptz '2025-06-01' + n * interval '1 second',
    timestamptz '2025-12-01' + n * interval '1 second'"""


def create_old_table(connection: psycopg.Connection[Any], rows: int = 0, variant: Variant = "full") -> None:
    """Make the old public.user_clusters, with `rows` rows that belong to a tenth as many users.

    The connection is that of the role `postgres`. Variants: "full" as applications have it; "minimal" has id,
    user_id and cluster_type alone; "extra" has further columns (one of them generated), an index and a check
    besides.
    """
    with connection.transaction():
        connection.execute(f"create table public.user_clusters ({_COLUMNS[variant]})")
        _fill(connection, rows, variant)
        connection.execute(_CONSTRAINTS)
        if variant == "extra":
            connection.execute(_EXTRA_INDEX)
        connection.execute(_POLICIES)
        if variant != "minimal":
            connection.execute(_TRIGGER)
    connection.execute("analyze public.user_clusters")


def _fill(connection: psycopg.Connection[Any], rows: int, variant: Variant) -> None:
    users = max(rows // 10, 1)
    more = ("", "") if variant == "minimal" else (_MORE_COLUMNS, _MORE_VALUES)
    connection.execute(_USERS, [users])
    connection.execute(_ROWS.format(more_columns=more[0], more_values=more[1]), [users, rows])
