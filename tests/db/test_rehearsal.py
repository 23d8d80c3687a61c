"""What would stop a copy at its end stops it at its beginning: the rest is rehearsed on the empty new table, and undone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from local_supabase import Database
from projects import one
from rpc_migrations.cli import CLUSTERS
from rpc_migrations.step_file import read_migration
from schema_dump import dump_schema
from step_runner import ROLLBACK, Connection, deploy, read, rebuild_file, run

COLUMNS = "id bigint not null, name text, amount integer"


@pytest.fixture
def things(things: Connection) -> Connection:
    """The same, with time for all of the rehearsal: what takes longer is left out."""
    things.execute("set rpc_migrations.lock_budget = 20000")
    return things


# What stands in the way of the end: what makes it, and what the refusal says.
LAST = {
    "a type of the backup's name": ("create type public.things_backup as enum ('a')", "things_backup"),
    "a publication of another owner": (
        "superuser create publication theirs for table public.things",
        "publication theirs: must be owner of publication theirs (42501)",
    ),
    "a trigger function that may not be executed": (
        "superuser create function public.theirs() returns trigger language plpgsql as 'begin return new; end'; "
        "create trigger theirs before insert on public.things for each row execute function public.theirs(); "
        "revoke all on function public.theirs() from public, anon, authenticated, service_role, postgres",
        "trigger theirs: permission denied for function public.theirs (42501)",
    ),
    "an event trigger that keeps tables from being dropped": (
        "superuser create function public.keep() returns event_trigger language plpgsql as $$ begin if exists (select from "
        "pg_event_trigger_dropped_objects() where object_type = 'table') then raise exception 'tables are protected'; end if; end $$; "
        "create event trigger keep on sql_drop execute function public.keep()",
        "the swap: tables are protected (P0001)",
    ),
    "an owner that may create nothing in the schema": (
        "superuser create schema closed; grant usage on schema closed to postgres; alter table public.things set schema closed",
        "permission denied for schema closed (42501)",
    ),
    "a generated column whose function finds another in a schema of its own": (
        "create schema app; set search_path = app; create function inner_one(integer) returns integer language sql as 'select $1 + 1'; "
        "create function public.outer_one(integer) returns integer language plpgsql immutable as 'begin return inner_one($1); end'; "
        "alter table public.things add next integer generated always as (public.outer_one(amount)) stored; reset search_path",
        "generated column next: function inner_one(integer) does not exist (42883)",
    ),
    "a check whose function finds another in a schema of its own": (
        "create schema app; set search_path = app; create function inner_one(integer) returns boolean language sql as 'select $1 < 9'; "
        "create function public.outer_one(integer) returns boolean language plpgsql as 'begin return inner_one($1); end'; "
        "alter table public.things add constraint found check (public.outer_one(amount)); reset search_path",
        "check constraint found: function inner_one(integer) does not exist (42883)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("obstacle", "told"), LAST.values(), ids=LAST)
def test_refused_at_the_beginning(things: Connection, database: Database, obstacle: str, told: str) -> None:
    with database.connect("supabase_admin") as superuser:
        (superuser if obstacle.startswith("superuser ") else things).execute(
            obstacle.removeprefix("superuser ").encode()
        )
    before = dump_schema(database)
    schema = "closed" if "closed" in obstacle else "public"
    with pytest.raises(psycopg.Error) as caught:
        run(things, rebuild_file("things", COLUMNS, schema=schema), until="begin the copy")
    assert caught.value.sqlstate == "RM001"
    assert told in str(caught.value)
    assert dump_schema(database) == before


def begin(connection: Connection, text: str, folder: Path) -> dict[str, Any]:
    """Send the steps of a file as a client does, from the first one on, until the copy has begun. Returns that step's answer."""
    (folder / "file.sql").write_text(text)
    steps = [
        {
            "query": step.query,
            "separator": step.separator,
            "step": step.name,
            "batch": step.batch,
            "calls": sorted(step.calls),
            "checksum": "checksum",  # as that of step_runner, which goes on
        }
        for step in read_migration(folder / "file.sql").steps
    ]
    for number, first in enumerate(steps):
        row = connection.execute(
            "select public.execute_sql(query => %s, separator => %s, migration => 'test', step => %s, batch => %s, checksum => %s, "
            "following => %s)",
            (
                *(first[key] for key in ("query", "separator", "step", "batch", "checksum")),
                json.dumps(steps[number + 1 :]),
            ),
        ).fetchone()
        assert row is not None
        for answer in (row[0], *row[0]["following"]):
            if "rpc_migrations.begin_" in first["query"] or answer.get("step", "").endswith("begin the copy"):
                return answer
    raise AssertionError("no step begins a copy")


# Texts that name what only a later step calls.
NAMED = {
    "in a comment": "select 1; -- Here the new table is still empty; rpc_migrations.swap() and rpc_migrations.carry_over() come later.",
    "as the name of a table": "create table rpc_migrations.carry_over (a integer); drop table rpc_migrations.carry_over;",
    "in a string": "comment on table rpc_migrations.things is 'until rpc_migrations.swap() is called';",
}


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
def test_what_is_only_named_is_not_taken_for_a_call(things: Connection, tmp_path: Path, named: str) -> None:
    """Nor is a call missed that is written in another way."""
    text = rebuild_file("things", COLUMNS, f"\n-- step: define\n{named}\n")
    text = text.replace("rpc_migrations.carry_over();", '"rpc_migrations".carry_over ();')
    things.execute("create index by_name on public.things (name)")
    answer = begin(things, text, tmp_path)
    assert answer["state"] == "done"
    wrong = text.replace(
        "\n-- step: define\n", "\n-- step: wrong\ncreate index on rpc_migrations.things (nonsense);\n-- step: define\n"
    )
    run(things, read(ROLLBACK))
    with pytest.raises(psycopg.Error, match='step "wrong": column "nonsense" does not exist'):
        begin(things, wrong, tmp_path)


# Steps of the file that will fail on what the database has, and what the refusal says.
STEPS = {
    "an index of a name that the schema has": (
        "create table public.other (id integer); create index taken on public.other (id)",
        "create index taken on rpc_migrations.things (name);",
        'the swap: relation "taken" already exists in schema "public" (42P07)',
    ),
    "an index where the table has a unique constraint": (
        "alter table public.things add constraint one unique (name)",
        "create index one on rpc_migrations.things (name);",
        "unique constraint one is",
    ),
    "a plain index for a unique one": (
        "create unique index one on public.things (name)",
        "create index one on rpc_migrations.things (name);",
        "index one is",
    ),
    "a permissive policy for a restrictive one": (
        "create policy one on public.things as restrictive using (amount > 1)",
        "create policy one on rpc_migrations.things using (amount > 1);",
        "policy one is",
    ),
    "a column that is not there": (
        "select", "-- What is this?\ncreate index one on rpc_migrations.things (nonsense);", 'step "define": column "nonsense" does not exist (42703)'
    ),
    "a policy within a block": (
        "select",
        "do $$ begin execute 'create policy one on rpc_migrations.things to nobody_of_that_name'; end $$;",
        'step "define": role "nobody_of_that_name" does not exist (42704)',
    ),
    "a foreign key to another column under an old one's name": (
        "create table public.names (name text primary key, other text unique); insert into public.names values ('a'), ('b'), ('c'); "
        "alter table public.things add constraint one foreign key (name) references public.names",
        "alter table rpc_migrations.things add constraint one foreign key (name) references public.names (other) not valid;",
        "foreign key one is",
    ),
    "what a crash would empty": (
        "select", "alter table rpc_migrations.things set unlogged;", "public.things and its new version are not both unlogged",
    ),
    "a foreign key to itself": (
        "select", "alter table rpc_migrations.things add foreign key (amount) references rpc_migrations.things (id);",
        'step "define": the new table rpc_migrations.things has a foreign key that points at itself',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("before", "step", "told"), STEPS.values(), ids=STEPS)
def test_later_steps_are_rehearsed(
    things: Connection, database: Database, tmp_path: Path, before: str, step: str, told: str
) -> None:
    """What the file defines later is refused before the copy begins, too; its lines and comments do not matter."""
    things.execute(before)
    dump = dump_schema(database)
    with pytest.raises(psycopg.Error) as caught:
        begin(things, rebuild_file("things", COLUMNS, f"\n-- step: define\n{step}\n"), tmp_path)
    assert caught.value.sqlstate == "RM001"
    assert told in str(caught.value)
    assert dump_schema(database) == dump
    run(things, read(ROLLBACK))
    assert dump_schema(database) == dump


def test_all_reasons_are_told_at_once(things: Connection, database: Database, tmp_path: Path) -> None:
    with database.connect("supabase_admin") as superuser:
        superuser.execute(
            "create publication one for table public.things; create publication two for table public.things; "
            "create function public.theirs() returns trigger language plpgsql as 'begin return new; end'; "
            "create trigger theirs before insert on public.things for each row execute function public.theirs(); "
            "revoke all on function public.theirs() from public, anon, authenticated, service_role, postgres"
        )
    things.execute("create unique index first on public.things (name); create index second on public.things (amount)")
    steps = "\n-- step: define\ncreate index first on rpc_migrations.things (name); create index second on rpc_migrations.things (id);\n"
    with pytest.raises(psycopg.Error) as caught:
        begin(things, rebuild_file("things", COLUMNS, steps), tmp_path)
    for reason in ("index first is", "index second is", "publication one:", "publication two:", "trigger theirs:"):
        assert str(caught.value).count(reason) == 1


def test_what_the_new_table_has_otherwise_is_not_tried(things: Connection) -> None:
    """A column that is generated from something else there does not call what the old one calls."""
    things.execute(LAST["a generated column whose function finds another in a schema of its own"][0])
    columns = f"{COLUMNS}, next integer generated always as (amount + 1) stored"
    made = run(things, rebuild_file("things", columns), until="begin the copy")
    assert made[-1].answer["state"] == "done"


# Steps between the beginning and the swap that depend on rows or reach beyond a transaction: nothing is known of them beforehand.
UNKNOWN = {
    "a check of the copy": "do $$ begin if not exists (select from rpc_migrations.things) then raise 'no rows'; end if; end $$;",
    "a check that calls": "select 1 / count(*) from rpc_migrations.things;",
    "an exception of its own": "do $$ begin raise exception 'not yet (rpc_migrations.things)'; end $$;",
    "data": "insert into public.calls values (nextval('public.numbers'));",
    "a block that works on data": "do $$ begin -- for rpc_migrations.things\n perform nextval('public.numbers'); end $$;",
    "a table": "create table public.made as select nextval('public.numbers');",
    "a function that is called": "select nextval('public.numbers');",
}


@pytest.mark.parametrize("step", UNKNOWN.values(), ids=UNKNOWN)
def test_what_works_on_data_is_not_rehearsed(things: Connection, tmp_path: Path, step: str) -> None:
    """The copy begins, and nothing has been called."""
    things.execute("create sequence public.numbers; create table public.calls (n integer)")
    more = (
        f"\n-- step: work\n{step}\n\n-- step: what needs it\n"
        "create index on rpc_migrations.things (a_column_that_work_may_have_made);\n"
    )
    if step.startswith("insert"):  # it makes nothing, so the rehearsal goes on behind it
        more = more.replace("a_column_that_work_may_have_made", "name")
    answer = begin(things, rebuild_file("things", COLUMNS, more), tmp_path)
    assert answer["state"] == "done"
    assert answer["result"]["message"] == "changes of public.things are being captured"
    assert one(things, "select is_called from public.numbers") is False


def test_nothing_of_the_rehearsal_remains(things: Connection, tmp_path: Path) -> None:
    """The new table is empty and bare, the old one has its triggers alone; sessions and sequences are as they were."""
    things.execute(
        "alter table public.things add number integer generated always as identity, add again serial; "
        "create trigger touched before update on public.things for each row execute function suppress_redundant_updates_trigger()"
    )
    step = "do $$ begin execute 'create policy p on rpc_migrations.things'; set work_mem = '1234kB'; end $$;"
    things.execute("create table public.names (name text primary key)")
    step += (
        "\nalter table rpc_migrations.things add constraint named foreign key (name) references public.names not valid;"
    )
    step += "\ncomment on constraint named on rpc_migrations.things is 'it';"  # fails where the key is made later: no reason
    step += "\ncreate index named on rpc_migrations.things (name); set statement_timeout = '1h';"
    begin(things, rebuild_file("things", COLUMNS, f"\n-- step: define\n{step}\n"), tmp_path)
    left = (
        "select count(*) from pg_policy union all select count(*) from pg_index where indrelid = 'rpc_migrations.things'::regclass "
        "union all select count(*) from pg_trigger where tgrelid = 'rpc_migrations.things'::regclass "
        "union all select count(*) from pg_locks where locktype = 'relation' and relation = 'public.things'::regclass"
    )
    assert things.execute(left).fetchall() == [(0,), (0,), (0,), (0,)]
    assert one(things, "select current_setting('work_mem')") == "4MB"
    assert one(things, "select count(*) from rpc_migrations.foreign_keys") == 0
    triggers = (
        "select array_agg(tgname::text order by tgname) from pg_trigger where tgrelid = 'public.things'::regclass"
    )
    assert one(things, triggers) == ["rpc_migrations_capture", "rpc_migrations_capture_truncate", "touched"]
    run(things, rebuild_file("things", COLUMNS))
    assert things.execute("insert into public.things values (4) returning number, again").fetchone() == (4, 4)


@pytest.mark.parametrize("mode", ["access share", "row exclusive"])
def test_a_lock_of_others_is_no_reason(things: Connection, database: Database, mode: str) -> None:
    """What others read or write is not waited for, and not refused: the rest is left out, and the answer says so."""
    things.execute("create table public.parts (thing bigint references public.things)")
    with database.connect() as other, other.transaction():
        other.execute(f"lock table public.parts in {mode} mode".encode())
        made = run(things, rebuild_file("things", COLUMNS), until="begin the copy")
    assert "could not be rehearsed: other sessions hold locks" in made[-1].answer["result"]["message"]


def test_what_a_foreign_key_points_at_is_free_again(things: Connection, tmp_path: Path) -> None:
    """Where the rehearsal wants the table in use it holds no lock on the parents: an insert that looks there would wait for us,
    holding what we wait for, and so an application that writes would keep every table from being rehearsed.
    """
    things.execute("create table public.names (name text primary key)")
    step = (
        "alter table rpc_migrations.things add constraint named foreign key (name) references public.names not valid;"
    )
    things.execute(
        "create or replace function rpc_migrations.lock_for_swap(copy rpc_migrations.copies, began timestamptz) returns void "
        "language plpgsql as $$ begin raise exception 'holding %', coalesce((select string_agg(l.mode, ', ') from pg_locks as l "
        "where l.pid = pg_backend_pid() and l.relation = 'public.names'::regclass), 'nothing'); end $$"
    )
    with pytest.raises(psycopg.Error, match="the swap: holding nothing"):
        begin(things, rebuild_file("things", COLUMNS, f"\n-- step: define\n{step}\n"), tmp_path)


def test_it_holds_its_locks_no_longer_than_the_swap_may(things: Connection) -> None:
    """With no time for its locks it is left out; undone, it holds none."""
    things.execute("set rpc_migrations.lock_budget = 0")
    made = run(things, rebuild_file("things", COLUMNS), until="begin the copy")
    told = made[-1].answer["result"]["message"]
    assert "could not be rehearsed: that has taken longer than 0 ms (MIGRATION_LOCK_BUDGET" in told
    assert "other sessions" not in told


@pytest.mark.parametrize("sent", ["one by one", "together"])
def test_carry_over_left_out(things: Connection, database: Database, tmp_path: Path, sent: str) -> None:
    """A table without its key is not swapped in; where the steps are known beforehand, no copy is begun."""
    text = rebuild_file("things", COLUMNS).replace(
        "-- step: carry over (batch)\nselect * from rpc_migrations.carry_over();\n", ""
    )
    before = dump_schema(database)
    with pytest.raises(psycopg.Error, match="lacks what the old one has: primary key things_pkey") as caught:
        run(things, text) if sent == "one by one" else begin(things, text, tmp_path)
    assert caught.value.sqlstate == ("RM005" if sent == "one by one" else "RM001")
    run(things, read(ROLLBACK))
    assert dump_schema(database) == before


@pytest.mark.parametrize("step", ["carry over", "swap"])
def test_a_forgotten_batch(things: Connection, step: str) -> None:
    """It says that it is not done, so it is no plain step; nothing of it remains."""
    text = rebuild_file("things", COLUMNS).replace(f"-- step: {step} (batch)", f"-- step: {step}")
    if step == "swap":
        things.execute("set rpc_migrations.lock_budget = 0")
    with pytest.raises(psycopg.Error, match="says that it is not done") as caught:
        run(things, text)
    assert caught.value.sqlstate == "RM005"
    assert f"-- step: {step} (batch)" in (caught.value.diag.message_hint or "")


def test_the_shipped_file_is_rehearsed_whole(admin: Connection) -> None:
    """Every statement between the beginning and the swap is known to define something, to work on data, or to be ours."""
    deploy(admin)
    steps = read_migration(CLUSTERS).steps
    names = [step.name for step in steps]
    for step in steps[names.index("begin the copy") + 1 : names.index("swap the tables")]:
        for statement in step.statements:
            row = admin.execute("select rpc_migrations.rehearsal_of(%s)", [statement.sql]).fetchone()
            assert row in {("defines",), ("data",)} or "carry_over" in statement.sql, statement.sql


@pytest.mark.parametrize("when", ["before the deployment", "after it"])
def test_a_publication_for_all_tables(admin: Connection, database: Database, when: str) -> None:
    """It would take in what is ours, and its subscribers would stop; Realtime's is none of those, and is no hindrance."""
    admin.execute("create table public.things (id bigint primary key, name text, amount integer)")
    with database.connect("supabase_admin") as superuser:
        superuser.execute("drop publication supabase_realtime; create publication supabase_realtime for all tables")
        if when == "after it":
            deploy(admin)
        superuser.execute("create publication everything for all tables")
        with pytest.raises(psycopg.Error, match="publication everything is for all tables") as caught:
            run(admin, rebuild_file("things", COLUMNS)) if when == "after it" else deploy(admin)
        assert caught.value.sqlstate == "RM001"
        assert "for tables in schema" in (caught.value.diag.message_hint or "")
        superuser.execute("drop publication everything; create publication everything for tables in schema public")
    deploy(admin)
    run(admin, rebuild_file("things", COLUMNS))
    run(admin, read(ROLLBACK))
