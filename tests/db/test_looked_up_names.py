"""A table whose indexes, checks and columns call functions that look names up where the application's are, as those of earthdistance do."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_supabase import Database
from schema_dump import dump_schema
from step_runner import ONE_AT_A_TIME, ROLLBACK, Connection, calls, deploy, read, rebuild_file, short_way

# In SQL, which PostgreSQL looks into to plan a query, and in PL/pgSQL.
FUNCTIONS = """
create domain public.spot as text;
create function public.cut(text) returns text language sql immutable as 'select left($1, 3)';
create function public.spot_of(integer) returns text language sql immutable as 'select cast($1 as spot)::text';
create function public.short(text) returns text language plpgsql immutable as 'begin return cut($1); end';
create function public.initcap(varchar) returns text language sql immutable as $$ select 'Mx. ' || $1 $$;
create function public.titled(varchar) returns text language plpgsql immutable as 'begin return initcap($1); end';
"""
TABLE = """
create table public.parents (id bigint primary key, place integer);
insert into public.parents select n, n from generate_series(1, 5) as n;
create table public.things (id bigint primary key, name text, amount integer, parent bigint references public.parents);
insert into public.things select n, 'name ' || n, n, 1 + n % 5 from generate_series(1, 300) as n;
"""
# Since PostgreSQL 17 nobody can make such an index.
INDEXED = {
    "index": "create index spots on public.things (spot_of(amount))",
    "unique index": "create unique index spots on public.things (spot_of(amount), short(name))",
    "partial index": "create index spots on public.things (name) where spot_of(amount) <> '3'",
    "index of a table that is referred to": "create index spots on public.parents (spot_of(place))",
    "exclusion constraint": "alter table public.things add constraint apart exclude (spot_of(amount) with =)",
    "index whose function finds another one here": "create index spots on public.things (titled(name))",
    "statistics": "create statistics public.spots on spot_of(amount), name from public.things; analyze public.things",
}
ANYWHERE = {
    "check": "alter table public.things add constraint checked check (spot_of(amount) <> short(name))",
    "generated column": "alter table public.things add brief text generated always as (short(name)) stored",
    "generated column in SQL": "alter table public.things add place text generated always as (spot_of(amount)) stored",
    "default in SQL": "alter table public.things add place text not null default spot_of(5)",
    "generated column in SQL of a table that is referred to": "alter table public.parents add spot text generated always as (spot_of(place)) stored",
    "index, check and column": "alter table public.things add constraint checked check (spot_of(amount) <> short(name)), "
    "add place text generated always as (spot_of(amount) || short(name)) stored, add constraint placed unique (place, id)",
    "default": "alter table public.things add kind text not null default short('abcdef')",
    "check whose function finds another one here": "alter table public.things add constraint checked check (titled(name) like 'Mx. %')",
    "column whose function finds another one here": "alter table public.things add title text generated always as (titled(name)) stored",
    "view that would find another function": "create view public.worded as select id, concat(name, amount) as words from public.things; "
    "create function public.concat(text, integer) returns text language sql as 'select $1'; "
    "alter table public.things add constraint checked check (short(name) <> '')",
    "policy": "alter table public.things enable row level security; create policy own on public.things using (short(name) = 'nam')",
}
WRITES = (
    "insert into public.things (id, name, amount, parent) select coalesce(max(id), 0) + 1, 'new', coalesce(max(id), 0)::integer + 1, 2 from public.things",
    "update public.things set name = name || '!', parent = 3 where id % 97 = 0",
    "delete from public.things where id = (select min(id) from public.things)",
    "truncate public.things; insert into public.things (id, name, amount, parent) select n, 'name ' || n, n, 4 from generate_series(1, 20) as n",
)


LONG = (
    "index",
    "index of a table that is referred to",
    "generated column in SQL",
    "column whose function finds another one here",
)


@pytest.mark.parametrize(
    ("kind", "way"), [*((kind, "short") for kind in (*INDEXED, *ANYWHERE)), *((kind, "long") for kind in LONG)]
)
def test_what_looks_names_up(admin: Connection, database: Database, tmp_path: Path, kind: str, way: str) -> None:
    """It is carried over, and every write of the application, there and back."""
    if kind in INDEXED and admin.info.server_version >= 170000:
        pytest.skip("PostgreSQL makes no such index")
    deploy(admin, ONE_AT_A_TIME)
    admin.execute((FUNCTIONS + TABLE).encode())
    admin.execute({**INDEXED, **ANYWHERE}[kind].encode())
    before = dump_schema(database)
    columns = "like public.things including generated including defaults, more text"
    short = short_way(tmp_path / "short.sql", "public.things", "alter table things add more text;")
    there = short if way == "short" else rebuild_file("things", columns)
    rows = "select jsonb_agg(to_jsonb(t) - 'more' order by id) from public.things as t"
    by_index = "select count(*) from public.things where titled(name) = 'Mx. new'"
    with database.connect() as application:
        for text in (there, read(ROLLBACK)):
            left = application.execute(rows).fetchone()
            for number, call in enumerate(calls(admin, text, shrink=9)):
                assert application.execute(rows).fetchone() == left, call.step
                application.execute(WRITES[number % 4].encode())
                left = application.execute(rows).fetchone()
            count = application.execute("select count(*) from public.things where name = 'new'").fetchone()
            application.execute("set enable_seqscan = off; set jit = off")
            assert application.execute(by_index.encode()).fetchone() == count
            application.execute("reset enable_seqscan")
    assert dump_schema(database) == before
