"""A table without any key: its rows are told apart by all of their columns, and there may be several that are the same."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import psycopg
import pytest
from local_supabase import Database
from projects import one
from schema_dump import dump_schema
from step_runner import DISCARD, ONE_AT_A_TIME, ROLLBACK, Connection, calls, deploy, read, rebuild_file, run, steps_of

COLUMNS = "kind text, amount numeric, at timestamptz, extra text default 'new'"
ROWS = "select kind, amount::text, at from public.things order by 1, 2, 3"


@pytest.fixture
def things(admin: Connection) -> Connection:
    """A connection to a database with the functions and a table without a key, that has rows twice and NULLs."""
    deploy(admin)
    admin.execute(
        "create table public.things (kind text, amount numeric, at timestamptz); "
        "insert into public.things values ('a', 1, null), ('a', 1, null), (null, null, null), ('b', 2.50, now())"
    )
    return admin


def rows(connection: Connection) -> list[Any]:
    """The rows, in the columns that both tables have."""
    return connection.execute(ROWS).fetchall()


# Each is one write of the application.
WRITES = (
    "insert into public.things values ('a', 1.0, null), ('c', 3, now())",
    "delete from public.things where ctid = (select max(ctid) from public.things where kind = 'a')",
    "update public.things set amount = amount + 1 where kind = 'b'",
    "insert into public.things values (null, null, null)",
    "update public.things set kind = 'd' where ctid = (select min(ctid) from public.things where kind = 'a')",
    "delete from public.things where kind is null and ctid = (select min(ctid) from public.things where kind is null)",
    "truncate public.things",
    "insert into public.things select 'e', n % 3, null from generate_series(1, 30) as n",
    "delete from public.things where ctid in (select ctid from public.things where amount = 1 limit 4)",
)


def test_writes_meanwhile(things: Connection, database: Database) -> None:
    """Between any two calls the application writes, also to one of several rows that are the same. Nothing is lost, nothing is there too often,
    and no call changes what it reads, at the swap and on the way back.
    """
    deploy(things, ONE_AT_A_TIME)
    writes = itertools.cycle(WRITES)
    with database.connect() as application:
        for text in (rebuild_file("things", COLUMNS), read(ROLLBACK)):
            left = rows(application)
            for call in calls(things, text, shrink=9):
                assert rows(application) == left, call.step
                application.execute(next(writes).encode())
                left = rows(application)
            for write in (*WRITES[:6], *WRITES[7:]):  # since the swap, for the rollback to find
                application.execute(write.encode())
    assert one(things, "select count(*) from information_schema.columns where table_name = 'things'") == 3


@pytest.mark.parametrize(
    "write",
    [
        "update public.things set amount = 1.000 where amount = 1",
        "insert into public.things values ('a', 1, null)",
        "delete from public.things where ctid = (select max(ctid) from public.things where kind = 'a')",
    ],
    ids=["written otherwise", "one more", "one less"],
)
def test_a_change_since_the_swap_is_found(things: Connection, write: str) -> None:
    """Also where an equal row is there on the other side."""
    run(things, rebuild_file("things", COLUMNS))
    things.execute(write.encode())
    left = rows(things)
    run(things, read(ROLLBACK))
    assert rows(things) == left


def test_the_comparison_counts_rows_that_are_the_same(things: Connection) -> None:
    """Two rows too many of one kind and two too few of another are a difference, which XOR would not see."""
    run(things, rebuild_file("things", COLUMNS), until="replay")
    things.execute("insert into public.things values ('z', 1, null), ('z', 1, null)")
    things.execute("truncate rpc_migrations.log_1")
    things.execute("insert into rpc_migrations.things values ('y', 1, null), ('y', 1, null)")
    with pytest.raises(psycopg.Error, match="differ in 4 rows"):
        run(things, rebuild_file("things", COLUMNS))


@pytest.mark.parametrize("columns", [COLUMNS, f"id bigint generated always as identity primary key, {COLUMNS}"])
def test_back_to_what_it_was(things: Connection, database: Database, columns: str) -> None:
    """Also where the new table gets a key."""
    before, left = dump_schema(database), rows(things)
    run(things, rebuild_file("things", columns))
    assert rows(things) == left
    run(things, read(ROLLBACK))
    things.execute(f"drop table {one(things, 'select kept_as from rpc_migrations.copies')}".encode())
    assert (dump_schema(database), rows(things)) == (before, left)


# What is refused: what makes it, the new table's columns, and what is said.
REFUSED = {
    "many rows": ("insert into public.things select 'a' from generate_series(1, 10000)", COLUMNS, "more than 10,000 rows"),
    "a type without equality": ("alter table public.things add doc json", COLUMNS, "values of a type that cannot be compared.*: doc"),
    "no column but a generated one": (
        "alter table public.things drop kind, drop at, drop amount, add one integer generated always as (1) stored", "one integer generated always as (1) stored",
        "no column by which",
    ),
    "another type": ("select", COLUMNS.replace("numeric", "text"), "column amount tells the rows apart.* and would change"),
    "a default for NULL": (
        "select", COLUMNS.replace("kind text", "kind text not null default 'x'"), "column kind tells the rows apart.* and would change",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("before", "columns", "told"), REFUSED.values(), ids=REFUSED)
def test_refused(things: Connection, database: Database, before: str, columns: str, told: str) -> None:
    """Before anything changes, with what to do."""
    things.execute(before.encode())
    looks = dump_schema(database)
    with pytest.raises(psycopg.Error, match=told) as caught:
        run(things, rebuild_file("things", columns), until="begin the copy")
    assert caught.value.sqlstate == "RM001"
    run(things, read(ROLLBACK))
    assert dump_schema(database) == looks


@pytest.mark.parametrize("others", ["", "kind text default 'a', "], ids=["alone", "beside others"])
def test_values_that_have_an_order_and_no_hash(things: Connection, database: Database, others: str) -> None:
    """They tell rows apart as well, there and back: what is written at any time is in the table as in one that is not rebuilt."""
    columns = f"{others}price money, flags bit varying(8), words tsvector"
    fill = "insert into {} (price, flags, words) values (1, b'1', 'a b'), (1, b'1', 'a b'), (null, null, null), (2, b'01', 'c:2')"
    writes = (
        "insert into {} (price, flags, words) values (3, b'1', 'd'), (1, b'1', 'a b')",
        "update {} set flags = flags || b'1' where words = 'c:2'",
        "delete from {0} where ctid = (select min(ctid) from {0} where price = '1')",
        "update {} set price = 4 where words is null",
    )
    both = ("public.valued", "public.control")
    for table in both:
        things.execute(f"create table {table} ({columns}); {fill.format(table)}".encode())
    before = dump_schema(database)
    for text in (rebuild_file("valued", columns), read(ROLLBACK)):
        for call, write in zip(calls(things, text), itertools.cycle(writes), strict=False):
            found, expected = (
                things.execute(f"select t::text from {table} as t order by 1".encode()).fetchall() for table in both
            )
            assert found == expected, call.step
            for table in both:
                things.execute(write.format(table).encode())
    assert dump_schema(database) == before


def test_after_a_table_with_a_key(things: Connection) -> None:
    """In one session: what it has prepared for a table with a key fits one without as well."""
    things.execute(
        "create table public.keyed (id bigint primary key, kind text); insert into public.keyed values (1, 'a')"
    )
    run(things, rebuild_file("keyed", "id bigint not null, kind text"), "keyed")
    run(things, rebuild_file("things", COLUMNS))
    run(things, read(ROLLBACK), "keyed")
    run(things, read(ROLLBACK))
    assert len(rows(things)) == 4


@pytest.mark.parametrize("table", ["keyed", "keyed_backup"])
def test_a_key_that_was_dropped_since(things: Connection, database: Database, table: str) -> None:
    """The rows were told apart by it: not rolled back without it, unless what was written is discarded."""
    things.execute(
        "create table public.keyed (id bigint primary key, doc jsonb); insert into public.keyed values (1, '{}')"
    )
    run(things, rebuild_file("keyed", "id bigint not null, doc jsonb, note text"))
    constraint = (
        f"select conname::text from pg_constraint where conrelid = 'public.{table}'::regclass and contype = 'p'"
    )
    things.execute(f"alter table public.{table} drop constraint {one(things, constraint)}".encode())
    before = dump_schema(database)
    with pytest.raises(psycopg.Error, match=f"there is no primary key any more on public.{table}\n") as caught:
        run(things, read(ROLLBACK))
    assert caught.value.sqlstate == "RM001"
    assert dump_schema(database) == before
    run(things, read(DISCARD))
    assert one(things, "select count(*) from public.keyed") == 1


def test_a_long_row_can_be_written(things: Connection) -> None:
    """The log has no index that it would not fit into."""
    run(things, rebuild_file("things", COLUMNS), until="begin the copy")
    things.execute("insert into public.things select string_agg(md5(n::text), '') from generate_series(1, 2000) as n")
    left = rows(things)
    run(things, rebuild_file("things", COLUMNS))
    assert rows(things) == left


def test_told_in_alter_tables_words(things: Connection, tmp_path: Path) -> None:
    """It may get a primary key; a column by which rows are told apart may not change."""
    file = tmp_path / "rebuild.sql"
    file.write_text(
        "-- rebuild: public.things\nalter table public.things add id bigint generated always as identity primary key;\n"
    )
    left = rows(things)
    run(things, steps_of(file))
    assert rows(things) == left
    run(things, read(ROLLBACK))
    file.write_text("-- rebuild: public.things\nalter table public.things rename kind to sort;\n")
    with pytest.raises(
        psycopg.Error, match="column kind tells the rows apart, as the table has no primary key, and is renamed"
    ):
        run(things, steps_of(file), "other")


def test_keys_that_are_equal_in_one_way_only(things: Connection) -> None:
    """citext takes 'a' and 'A' for the same; the rows are told apart by their letters, so neither may pass for the other in the log."""
    things.execute(
        "create extension citext with schema extensions; create table public.tags (name extensions.citext, n int); "
        "insert into public.tags select 'tag' || n, n from generate_series(1, 20) as n"
    )
    run(things, rebuild_file("tags", "name extensions.citext, n int, extra text"), until="compare")
    things.execute(
        "update public.tags set name = 'TAG5' where n = 5; insert into public.tags values ('new', 21), ('NEW', 22), ('tag6', 6), ('TAG6', 6)"
    )
    query = 'select name::text, n from public.tags order by n, name::text collate "C"'
    left = things.execute(query).fetchall()
    run(things, rebuild_file("tags", "name extensions.citext, n int, extra text"))
    assert things.execute(query).fetchall() == left
    things.execute("update public.tags set name = 'Tag7' where n = 7; delete from public.tags where name::text = 'NEW'")
    left = things.execute(query).fetchall()
    run(things, read(ROLLBACK))
    assert things.execute(query).fetchall() == left


def test_a_key_whose_equality_is_not_its_type_s_own(things: Connection) -> None:
    """A unique index by letters on a type that does not tell them apart."""
    things.execute(
        "create extension citext with schema extensions; create table public.tags (name extensions.citext not null, n int); "
        "create unique index on public.tags (name text_ops); "
        "insert into public.tags select unnest(array['tag' || n, 'TAG' || n]), n from generate_series(1, 20) as n"
    )
    run(things, rebuild_file("tags", "name extensions.citext not null, n int, extra text"), until="compare")
    things.execute("update public.tags set n = n + 100")
    run(things, rebuild_file("tags", "name extensions.citext not null, n int, extra text"))
    assert one(things, "select count(*) from public.tags where n > 100") == 40
    things.execute("update public.tags set n = n + 100")
    run(things, read(ROLLBACK))
    assert one(things, "select count(*) from public.tags where n > 200") == 40


def test_rows_that_are_larger_together_than_one_value_may_be(things: Connection) -> None:
    """What is noted of the keys of a batch is their rows; those of a batch may be more than a value of jsonb holds."""
    things.execute(
        "create table public.long (n int, body text); "
        "insert into public.long select n, repeat(md5(n::text), 2500) from generate_series(1, 3500) as n"
    )
    columns = "n int, body text, extra text"
    run(things, rebuild_file("long", columns), until="carry over")
    things.execute("update public.long set n = n + 10000")
    run(things, rebuild_file("long", columns))
    assert things.execute("select count(*), min(n) from public.long").fetchall() == [(3500, 10001)]
