"""Rows of a table without a primary key are told apart by a unique index of columns that may not be null."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from step_runner import ONE_AT_A_TIME, ROLLBACK, Connection, calls, deploy, read, rebuild_file, run, short_way

TABLE = """
create table public.pairs (a bigint not null, b text not null, note text, unique (note));
create unique index pairs_once on public.pairs (a, b);
insert into public.pairs values (1, 'a', 'one'), (1, 'b', null), (2, 'a', null);
"""


@pytest.fixture
def pairs(admin: Connection) -> Connection:
    """A connection to a database with the functions and the table."""
    deploy(admin)
    admin.execute(TABLE)
    return admin


def test_a_new_table_that_may_lack_it(pairs: Connection) -> None:
    """Rows without it could not be told apart on the way back."""
    with pytest.raises(
        psycopg.Error, match="column b tells the rows apart, as the table has no primary key, and may be null"
    ):
        run(pairs, rebuild_file("pairs", "a bigint not null, b text"))
    assert pairs.execute("select count(*) from public.pairs").fetchone() == (3,)


def test_what_the_index_includes_may_be_null(pairs: Connection) -> None:
    """Nothing is told apart by it."""
    pairs.execute("drop index public.pairs_once; create unique index pairs_once on public.pairs (a, b) include (note)")
    run(pairs, rebuild_file("pairs", "a bigint not null, b text not null, note text"))
    pairs.execute("insert into public.pairs values (4, 'c')")
    run(pairs, read(ROLLBACK))
    assert pairs.execute("select count(*) from public.pairs").fetchone() == (4,)


def test_one_that_came_to_lack_it(pairs: Connection) -> None:
    """The rollback refuses rather than lose the rows; mended, it keeps all that was written."""
    run(pairs, rebuild_file("pairs", "a bigint not null, b text not null"))
    pairs.execute(
        "alter table public.pairs alter b drop not null, add id integer generated always as identity primary key"
    )
    pairs.execute("insert into public.pairs values (3, null), (4, 'c')")
    with pytest.raises(psycopg.Error, match="a column by which rows are told apart may be null now: b"):
        run(pairs, read(ROLLBACK))
    assert pairs.execute("select count(*) from public.pairs").fetchone() == (5,)
    pairs.execute("update public.pairs set b = 'x' where b is null; alter table public.pairs alter b set not null")
    run(pairs, read(ROLLBACK))
    assert pairs.execute("select a, b from public.pairs order by a, b").fetchall() == [
        (1, "a"), (1, "b"), (2, "a"), (3, "x"), (4, "c"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "add id bigint generated always as identity primary key",
        "add id uuid default gen_random_uuid() primary key",
        "add id bigint generated always as identity unique",
        "add constraint pairs_pkey primary key (a, b)",
    ],
)
def test_a_better_key_is_added(admin: Connection, tmp_path: Path, text: str) -> None:
    """The rows are still told apart by the index, which the new table has too, on the way there and back."""
    deploy(admin, ONE_AT_A_TIME)
    admin.execute(TABLE)
    rows = "select a, b, note from public.pairs order by a, b"
    expected = [(1, "z", "one"), (2, "a", "two")]
    for call in calls(admin, short_way(tmp_path / "rebuild.sql", "public.pairs", f"alter table public.pairs {text};")):
        if call.step == "begin the copy":
            admin.execute(
                "update public.pairs set b = 'z' where b = 'a' and a = 1; delete from public.pairs where b = 'b'"
            )
        elif call.step == "copy the rows" and call.answer["state"] == "done":
            admin.execute("update public.pairs set note = 'two' where a = 2")
    assert admin.execute(rows).fetchall() == expected
    admin.execute("insert into public.pairs (a, b) values (3, 'c'); update public.pairs set b = 'y' where b = 'z'")
    run(admin, read(ROLLBACK))
    assert admin.execute(rows).fetchall() == [(1, "y", "one"), (2, "a", "two"), (3, "c", None)]


def test_one_of_two_that_look_alike(pairs: Connection, tmp_path: Path) -> None:
    """Which of them it is may depend on the numbers of their columns, and the new table has others where columns were dropped."""
    columns = ", ".join(f"c{number} integer" for number in range(7))
    pairs.execute(
        f"create table public.twice (gone integer, {columns}, one integer not null unique, two integer not null unique)"
    )
    pairs.execute("alter table public.twice drop gone; insert into public.twice (one, two) values (1, 2)")
    run(
        pairs,
        short_way(tmp_path / "rebuild.sql", "public.twice", "alter table public.twice add more text default 'x';"),
    )
    assert pairs.execute("select one, two, more from public.twice").fetchall() == [(1, 2, "x")]


def test_the_index_would_be_gone(pairs: Connection, tmp_path: Path) -> None:
    """It is named, as the table has no primary key."""
    steps = short_way(tmp_path / "rebuild.sql", "public.pairs", "alter table public.pairs alter b drop not null;")
    with pytest.raises(psycopg.Error, match="the index pairs_once would have other columns or be gone"):
        run(pairs, steps)
