"""No acknowledged write is lost and no row is ever missing, whatever others do while a table is rebuilt and put back.

Every write goes, in one transaction, to the table that is being rebuilt and to a model of it: a table of the same form that
nobody rebuilds. In every snapshot the two must be the same; a reader that compares them is asked between any two calls.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_supabase import Database
from step_runner import ONE_AT_A_TIME, ROLLBACK, Connection, calls, deploy, read, rebuild_file

WRITERS = 2
KEYS = 14
ROWS = 33  # at the beginning, five to a block, with room in the last one
SMALLEST = 9  # shrinks every batch to one block or nine entries of the log

Operation = tuple[Any, ...]


@dataclass(frozen=True)
class Kind:
    """A table with one kind of key. `key` says how the key with a number is written."""

    columns: str
    key_columns: str
    key: str

    def match(self, number: str) -> str:
        """The condition that finds the row whose key has this number, an expression."""
        return f"({self.key_columns}) = ({self.key.format(n=number)})"


KINDS = {
    "plain": Kind("id uuid not null", "id", "lpad(({n})::text, 32, '0')::uuid"),
    "composite": Kind(
        "tenant bigint not null, code text not null", "tenant, code", "(({n}) %% 3)::bigint, 'c' || ({n})::text"
    ),
}
# Wide rows, so that a few of them fill a block; a second unique index, so that the replay meets conflicts.
COLUMNS = "{key}, slot integer, value integer not null default 0, pad text default repeat('x', 1500)"


class Writer:
    """A session of the application, with or without an open transaction. What fails is not acknowledged."""

    def __init__(self, database: Database, kind: Kind, lock_timeout: str = "10ms") -> None:
        self.kind = kind
        self.connection = database.connect(options=f"-c lock_timeout={lock_timeout}")
        self.is_open = False

    def do(self, name: str, *arguments: int) -> None:
        """Do one thing; an error ends the transaction and undoes it."""
        try:
            getattr(self, f"_{name}")(*arguments)
        except (psycopg.errors.UniqueViolation, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            self.connection.execute("rollback")
            self.is_open = False

    def close(self) -> None:
        """Commit what is open, and go."""
        self.do("commit")
        self.connection.close()

    def _write(self, statement: str, **arguments: Any) -> None:
        """The same statement for table and model, as one transaction; both must find the same number of rows."""
        with contextlib.nullcontext() if self.is_open else self.connection.transaction():
            # The table first: what waits for a lock there has not touched the model.
            found = [
                self.connection.execute(f"/* {name} */ " + statement.format(table=f"public.{name}"), arguments).rowcount
                for name in ("things", "model")
            ]
        assert found[0] == found[1], f"{statement} {arguments} found {found[0]} row(s), not {found[1]}"

    def _insert(self, key: int, slot: int) -> None:
        self._write(
            f"insert into {{table}} ({self.kind.key_columns}, slot) values ({self.kind.key.format(n='%(key)s::int')}, %(slot)s) "
            f"on conflict do nothing",
            key=key, slot=slot,
        )  # fmt: skip

    def _update(self, key: int, value: int) -> None:
        self._write(f"update {{table}} set value = %(value)s where {self._at('key')}", key=key, value=value)

    def _take_slot(self, key: int, slot: int) -> None:
        # Another row may have it: then it gets none.
        self._write(
            f"update {{table}} set slot = null where slot = %(slot)s and not {self._at('key')}", key=key, slot=slot
        )
        self._write(f"update {{table}} set slot = %(slot)s where {self._at('key')}", key=key, slot=slot)

    def _delete(self, key: int) -> None:
        self._write(f"delete from {{table}} where {self._at('key')}", key=key)

    def _rekey(self, key: int, other: int) -> None:
        columns = f"({self.kind.key_columns}) = row({self.kind.key.format(n='%(other)s::int')})"
        self._write(f"update {{table}} set {columns} where {self._at('key')}", key=key, other=other)

    def _truncate(self) -> None:
        self._write("truncate {table}")

    def _begin(self) -> None:
        if not self.is_open:
            self.connection.execute("begin")
            self.is_open = True

    def _commit(self) -> None:
        if self.is_open:
            self.is_open = False
            self.connection.execute("commit")

    def _roll_back(self) -> None:
        if self.is_open:
            self.is_open = False
            self.connection.execute("rollback")

    def _undone(self, key: int, slot: int) -> None:
        """Work that is rolled back to a savepoint inside a transaction that may be committed."""
        was_open = self.is_open
        self._begin()
        self.connection.execute("savepoint here")
        self._insert(key, slot)
        self._update(key, slot)
        self._delete(slot)
        self.connection.execute("rollback to savepoint here")
        self._update(slot, key)
        if not was_open:
            self._commit()

    def _rewrite(self) -> None:
        if not self.is_open:
            self.connection.execute("vacuum full public.things")

    def _at(self, name: str) -> str:
        return self.kind.match(f"%({name})s::int")


@dataclass
class World:
    """The table, its model, and who uses them."""

    database: Database
    admin: Connection
    kind: Kind
    writers: list[Writer] = field(default_factory=list)

    def begin(self) -> None:
        """Fresh tables with rows; nothing known of earlier migrations."""
        self.admin.execute("delete from rpc_migrations.copies; delete from rpc_migrations.journal")
        for (leftover,) in self.admin.execute(
            "select c.oid::regclass::text from pg_class as c where c.relkind = 'r' and ("
            "c.relnamespace = 'public'::regnamespace "
            "or c.relnamespace = 'rpc_migrations'::regnamespace and c.relname ~ '^(things|log_)')"
        ).fetchall():
            self.admin.execute(f"drop table {leftover}")
        for name in ("things", "model"):
            columns = COLUMNS.format(key=self.kind.columns)
            self.admin.execute(
                f"create table public.{name} ({columns}, primary key ({self.kind.key_columns}), unique (slot)) "
                "with (autovacuum_enabled = false)"
            )
            self.admin.execute(
                f"insert into public.{name} ({self.kind.key_columns}, slot) select {self.kind.key.format(n='n')}, 100 + n "
                "from generate_series(1, %s) as n", [ROWS],
            )  # fmt: skip
        self.writers = [Writer(self.database, self.kind) for _ in range(WRITERS)]

    def end(self) -> None:
        """Everyone goes."""
        for writer in self.writers:
            writer.connection.close()

    def check(self, reader: Connection, patient: bool = False) -> None:
        """Table and model are the same, in one snapshot. Passed over while somebody truncates, unless patient."""
        difference = (
            "select (select count(*) from ({one} except all {other}) as d), (select count(*) from ({other} except all {one}) as d)"
        ).format(
            one=f"(select {self.kind.key_columns}, slot, value, pad from public.things)",
            other=f"(select {self.kind.key_columns}, slot, value, pad from public.model)",
        )
        try:
            found = reader.execute(difference).fetchone()
        except psycopg.errors.LockNotAvailable:
            assert not patient
            return
        assert found is not None
        assert found == (0, 0), f"{found[0]} row(s) too many or wrong, {found[1]} missing or wrong"

    def new_columns(self) -> str:
        """The new table's columns."""
        return COLUMNS.format(key=self.kind.columns) + ", extra jsonb not null default '{}'"


def drive(world: World, text: str, turns: Iterator[list[Operation]], reader: Connection) -> None:
    """Run a step file; before each call its writers have a turn, and after it the reader looks."""
    for call in calls(world.admin, text, shrink=SMALLEST):
        if call.answer["state"] == "waiting":
            result = call.answer["result"] or {}
            assert call.answer["holders"] or result.get("message"), "it says who or what is in the way"
        turn = next(turns, None)
        for writer, name, *arguments in turn or []:
            world.writers[writer].do(name, *arguments)
        if turn is None:
            for one in world.writers:
                one.do("commit")
        world.check(reader)


def play(world: World, turns: list[list[Operation]], between: list[Operation] | None = None) -> None:
    """The migration, and then the rollback, with the writers' turns between the calls."""
    world.begin()
    with world.database.connect(options="-c lock_timeout=10ms") as reader:
        try:
            script = iter(turns)
            drive(world, rebuild_file("things", world.new_columns()), script, reader)
            for writer, name, *arguments in between or []:
                world.writers[writer].do(name, *arguments)
            drive(world, read(ROLLBACK), script, reader)
            for writer in world.writers:
                writer.close()
            world.check(reader, patient=True)
        finally:
            world.end()


key = st.integers(1, KEYS)
operation = st.one_of(
    st.tuples(st.just("insert"), key, key),
    st.tuples(st.just("update"), key, key),
    st.tuples(st.just("take_slot"), key, st.integers(100, 100 + KEYS)),
    st.tuples(st.just("delete"), key),
    st.tuples(st.just("rekey"), key, st.integers(1, 2 * KEYS)),
    st.tuples(st.just("undone"), key, key),
    st.tuples(st.sampled_from(["begin", "begin", "commit", "roll_back", "truncate", "rewrite"])),
)
turn = st.lists(st.tuples(st.integers(0, WRITERS - 1), operation).map(lambda pair: (pair[0], *pair[1])), max_size=4)


@pytest.fixture
def world(database: Database, admin: Connection, request: pytest.FixtureRequest) -> World:
    """A world with the functions in it; parametrized indirectly with the kind of key and changes of their text."""
    kind, *changes = request.param
    deploy(admin, (*ONE_AT_A_TIME, *changes))
    return World(database, admin, KINDS[kind])


@pytest.mark.parametrize("world", [("plain",), ("composite",)], indirect=True, ids=str)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(turn, min_size=10, max_size=50))
def test_no_write_is_lost_in_any_interleaving(world: World, turns: list[list[Operation]]) -> None:
    play(world, turns)


def busy_turns(truncating: bool = True) -> list[list[Operation]]:
    """Something of everything between every two calls: rows that come, change, get other keys, and go after a while."""
    turns: list[list[Operation]] = [[], [], []]  # a part of the table is copied first
    for n in range(300):
        last = (1, "rekey", 100 + n - 7, 1000 + n) if n % 2 else (1, "delete", 100 + n - 12)
        turns.append([(0, "update", 1 + n % 8, n), (0, "insert", 100 + n, 200 + n), last])
        if n % 20 == 9 and truncating:
            turns[-1].append((1, "truncate"))
    turns[7] += [(0, "delete", n) for n in range(20, 30, 2)]
    return turns


# Changes that nobody makes again once the rollback has begun.
BETWEEN: list[Operation] = [(0, "update", 31, 77), (0, "delete", 32), (0, "insert", 99, 99)]


@pytest.mark.parametrize(
    ("world", "truncating"),
    [(("plain",), False), (("plain",), True), (("composite",), True)],
    indirect=["world"],
    ids=str,
)
def test_no_write_is_lost_among_busy_writers(world: World, truncating: bool) -> None:
    play(world, busy_turns(truncating), BETWEEN)


# Each takes one clause away. What is then lost must be noticed: by the comparison, by a key, or at the latest by the reader.
BROKEN = {
    "capture: deletes": [("if tg_op in ('UPDATE', 'DELETE') then", "if tg_op = 'UPDATE' then")],
    "capture: inserts": [("if tg_op = 'INSERT' or (tg_op", "if (tg_op")],
    "capture: updates": [("if tg_op in ('UPDATE', 'DELETE') then", "if tg_op = 'DELETE' then")],
    "capture: new keys": [("if tg_op = 'INSERT' or (tg_op = 'UPDATE' and not (%5$s)) then", "if tg_op = 'INSERT' then")],
    "capture: truncations": [("values (true);", "select true where false;")],
    "copy: rows in the log": [("s.ctid < ($1)[2]::tid and %5$s',", "s.ctid < ($1)[2]::tid',")],
    "copy: the last block": [
        ("end_block = pg_relation_size(scanned) /", "end_block = pg_relation_size(scanned) * 3 / 4 /")
    ],
    "copy: another file": [
        ("if copy.filenode is distinct from pg_relation_filenode(scanned) then", "if copy.filenode is null then")
    ],
    "replay: rows that are gone": [("using keys as k where %2$s returning 1\n", "using keys as k where %2$s and false returning 1\n")],
    "replay: rows that are there": [("as s on %6$s\n            where (select count(*) from gone) is not null", "as s on %6$s\n            where false")],
    "replay: truncations": [("if was_truncated then", "if false then")],
    "swap: what is left": [
        ("perform rpc_migrations.check_source(copy);\n            perform rpc_migrations.replay_rest(copy);",
         "perform rpc_migrations.check_source(copy);"),
    ],
    "rollback: changed rows": [("(t.ctid is null or row(%8$s)", "(t.ctid is null and row(%8$s)")],
    "rollback: deleted rows": [("and not exists (select from only %5$s as s where %7$s)'", "and false'")],
}  # fmt: skip
NOTICED = {"RM001", "RM004", "RM005", "23505"}


def rewriting_turns() -> list[list[Operation]]:
    """The table moves together in the middle of the copy."""
    turns: list[list[Operation]] = [[] for _ in range(20)]
    turns[0] = [(0, "delete", n) for n in range(1, 8)]
    turns[4] = [(0, "rewrite")]
    return turns


@pytest.mark.parametrize(
    "world", [pytest.param(("plain", *changes), id=name) for name, changes in BROKEN.items()], indirect=True
)
def test_a_copy_that_is_broken_on_purpose_is_noticed(world: World, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    turns = rewriting_turns() if "another file" in name else busy_turns("truncations" in name)
    with pytest.raises((AssertionError, psycopg.Error)) as caught:
        play(world, turns, BETWEEN)
    if isinstance(caught.value, psycopg.Error):
        assert caught.value.sqlstate in NOTICED, caught.value


def spoil(world: World, statement: str) -> None:
    """Change the new table behind everyone's back, just before the comparison."""
    world.begin()
    with world.database.connect(options="-c lock_timeout=10ms") as reader:
        try:
            for call in calls(world.admin, rebuild_file("things", world.new_columns())):
                if call.step == "replay" and call.answer["state"] == "done":
                    world.admin.execute(statement)
            world.check(reader, patient=True)
        finally:
            world.end()


SPOILED = {
    "a value": "update rpc_migrations.things set value = 7 where slot = 103",
    "a row too few": "delete from rpc_migrations.things where slot = 103",
}


@pytest.mark.parametrize("world", [("plain",)], indirect=True, ids=str)
@pytest.mark.parametrize("statement", SPOILED.values(), ids=SPOILED)
def test_comparison_finds_a_difference(world: World, statement: str) -> None:
    with pytest.raises(psycopg.Error, match="differ in 1 row") as caught:
        spoil(world, statement)
    assert caught.value.sqlstate == "RM004"
    assert "00000000-0000-0000-0000-000000000003" in (caught.value.diag.message_detail or "")


@pytest.mark.parametrize(
    "world",
    [("plain", ("if result.source_rows <> result.target_rows or result.source_hash is distinct from result.target_hash then", "if false then"))],
    indirect=True, ids=["compare: nothing"],
)  # fmt: skip
@pytest.mark.parametrize("statement", SPOILED.values(), ids=SPOILED)
def test_a_comparison_that_is_broken_on_purpose_is_noticed(world: World, statement: str) -> None:
    with pytest.raises(AssertionError, match="missing or wrong"):
        spoil(world, statement)


class Crowd:
    """Writers and a reader, each in a thread of its own, until `stop`; `problems` is what went wrong for any of them."""

    CHOICES = (
        ("insert", 2), ("update", 2), ("update", 2), ("take_slot", 2), ("delete", 1), ("rekey", 2), ("undone", 2),
        ("begin", 0), ("commit", 0), ("roll_back", 0),
    )  # fmt: skip

    def __init__(self, world: World) -> None:
        self.world = world
        self.stopped = threading.Event()
        self.problems: list[BaseException] = []
        self.writes = [0] * WRITERS
        works = [lambda number=number: self._write(number) for number in range(WRITERS)]
        self._threads = [threading.Thread(target=self._guard, args=(work,)) for work in (*works, self._watch)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as problem:  # reported by the test, in the main thread
            self.problems.append(problem)
            self.stopped.set()

    def _write(self, number: int) -> None:
        writer, dice = Writer(self.world.database, self.world.kind, "5s"), random.Random(number)
        while not self.stopped.is_set():
            name, arguments = dice.choice(self.CHOICES) if dice.random() > 0.002 else ("truncate", 0)
            # Keys and slots of its own: table and model are written by two statements, that is in two snapshots.
            writer.do(name, *(WRITERS * dice.randint(1, KEYS) + number for _ in range(arguments)))
            self.writes[number] += 1
        writer.close()

    def _watch(self) -> None:
        with self.world.database.connect() as reader:
            while not self.stopped.is_set():
                self.world.check(reader, patient=True)


@pytest.mark.parametrize("kind", KINDS)
def test_no_write_is_lost_and_no_row_missing_where_threads_run_at_once(
    database: Database, admin: Connection, kind: str
) -> None:
    """Writers and a reader that truly run at the same time, while tables are swapped back and forth."""
    deploy(admin)
    world = World(database, admin, KINDS[kind])
    world.begin()
    world.end()
    with Crowd(world) as crowd:
        for text in (rebuild_file("things", world.new_columns()), read(ROLLBACK)) * 3:
            for call in calls(admin, text):
                if crowd.stopped.is_set():
                    break
                if call.answer["state"] == "waiting":
                    time.sleep(0.02)
    assert not crowd.problems, crowd.problems
    assert min(crowd.writes) > 20
    world.check(admin, patient=True)
