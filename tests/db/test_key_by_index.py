"""Rows of a table without a primary key are told apart by a unique index of columns that may not be null."""

from __future__ import annotations

import psycopg
import pytest
from step_runner import ROLLBACK, Connection, deploy, read, rebuild_file, run

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
