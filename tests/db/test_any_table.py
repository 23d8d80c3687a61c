"""Any table, with any of what a table can have, is the same after it was rebuilt under writers and after the way back."""

from __future__ import annotations

import itertools
import os
import threading
from contextlib import nullcontext
from types import TracebackType
from typing import Self

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from local_supabase import Cluster, Database
from schema_dump import dump_schema
from step_runner import ROLLBACK, Connection, deploy, read, run
from tables import CARRIED, NUMBERED, SINCE, TEMPLATES, Table, carried, tables

EXAMPLES = int(os.environ.get("TABLES", "2"))  # for each kind of thing; tests/README.md says how to try more
# Looking for a smaller table that fails as well takes minutes, and is done by hand only.
PHASES = [Phase.generate] if EXAMPLES <= 2 else [Phase.generate, Phase.shrink]
KINDS = [*CARRIED, *(kind for kinds in SINCE.values() for kind in kinds)]


class Writer:
    """An application that goes on adding, changing and deleting rows, and remembers what was acknowledged."""

    def __init__(self, database: Database, table: Table, first: int) -> None:
        self.rows: dict[int, tuple[str, int]] = {}
        self._first = first  # the number of the first row that it adds
        self._connection = database.connect()
        self._numbered = table.key in NUMBERED
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work)
        for number, name, amount in self._connection.execute("select id, name, amount from public.things"):
            self.rows[number] = (name, amount)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()
        if self._failure and not error:
            raise self._failure

    def _work(self) -> None:
        try:
            for turn in itertools.count(self._first):
                if self._stop.wait(0.002):
                    return
                self._insert(turn)
                if turn % 3 == 0:
                    self._update(min(self.rows), turn + 500_000)
                    self._update(turn, turn + 600_000)
                if turn % 5 == 0:
                    self._delete(sorted(self.rows)[len(self.rows) // 2])
        except BaseException as error:  # raised again where the writer ends
            self._failure = error

    def _insert(self, turn: int) -> None:
        columns, values = ("name, amount", [f"n{turn}", turn])
        if not self._numbered:
            columns, values = (f"id, {columns}", [turn, *values])
        marks = ", ".join(["%s"] * len(values))
        row = self._connection.execute(
            f"insert into public.things ({columns}) values ({marks}) returning id", values
        ).fetchone()
        assert row is not None
        self.rows[row[0]] = (f"n{turn}", turn)

    def _update(self, number: int, amount: int) -> None:
        try:
            done = self._connection.execute("update public.things set amount = %s where id = %s", [amount, number])
        except psycopg.errors.IntegrityError:
            return  # a row that a constraint which is not valid does not let anyone change
        if done.rowcount:
            self.rows[number] = (self.rows[number][0], amount)

    def _delete(self, number: int) -> None:
        done = self._connection.execute("delete from public.things where id = %s", [number])
        assert done.rowcount == 1, f"row {number} is not there"
        del self.rows[number]


def contents(connection: Connection) -> list[str]:
    """All rows, whatever columns they have."""
    rows = connection.execute("select to_jsonb(t)::text from public.things as t order by 1")
    return [row[0] for row in rows.fetchall()]


def rows_of(connection: Connection) -> dict[int, tuple[str, int]]:
    """What the table holds of what the application writes."""
    return {
        number: (name, amount)
        for number, name, amount in connection.execute("select id, name, amount from public.things")
    }


def rebuild_and_return(database: Database, table: Table, writers: bool) -> None:
    """Rebuild the table and roll back, under a writer if so asked, and compare everything each time."""
    with database.connect() as connection:
        deploy(connection)
        connection.execute(table.statements())
        before, rows = dump_schema(database), contents(connection)
        for turn, text in enumerate((table.step_file(), read(ROLLBACK)), 1):
            with Writer(database, table, 10_000 * turn) if writers else nullcontext() as writer:
                run(connection, text)
            if writer:
                assert rows_of(connection) == writer.rows
            if table.template != "more columns" or text == read(ROLLBACK):
                assert dump_schema(database) == before
                assert writer or contents(connection) == rows


@pytest.fixture
def version(cluster: Cluster, kind: str) -> int:
    """The server's major version, which must have such a kind of thing."""
    with cluster.connect() as connection:
        number = connection.info.server_version // 10000
    if kind not in carried(number):
        pytest.skip(f"PostgreSQL {number} does not have it")
    return number


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(database: Database, keeper: None, version: int, kind: str, template: str) -> None:
    """Alone, in each way to write the new table; rows that nobody changes stay as they are."""
    rebuild_and_return(database, Table("plain", False, (kind,), template, version), writers=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS if EXAMPLES > 2 else KINDS[::3])  # the others are drawn beside these
def test_any_table(cluster: Cluster, keeper: None, version: int, kind: str) -> None:
    """The kind, and others with it, on any kind of key, under a writer; a failure shows the table that was found."""

    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, phases=PHASES,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(tables(version, always=[kind]))
    def try_it(table: Table) -> None:
        database = cluster.create_database()
        try:
            rebuild_and_return(database, table, writers=True)
        finally:
            database.drop()

    try_it()
