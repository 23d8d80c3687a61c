"""Runs step files call by call over a plain connection, so that a test can do something between any two calls.

Unlike the real runner it never sleeps: it hands every answer to the test, "waiting" included.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from local_supabase import Database
from rpc_migrations.deployment import deployment_sql
from rpc_migrations.step_file import read_migration

DB = Path(__file__).parent.parent / "db"
MIGRATION = "migrate_user_clusters.sql"
ROLLBACK = "rollback.sql"
DISCARD = "rollback_discarding_changes.sql"
GIVE_UP = "rollback_giving_up.sql"

# One chunk or one batch a call, instead of about a second's worth of them.
ONE_AT_A_TIME = (
    ("next_block < copy.end_block and clock_timestamp() < began + interval '1 second'", "next_block < copy.end_block and rows is null"),
    ("while not done and clock_timestamp() < began + interval '1 second' loop", "while not done and taken is null loop"),
)  # fmt: skip

_STEP = re.compile(r"^-- step: (?P<name>.*?)(?P<batch> \(batch\))?$", re.MULTILINE)
_MAX_CALLS = 1000

Connection = psycopg.Connection[Any]
Changes = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Call:
    """One request and its answer."""

    step: str
    answer: dict[str, Any]


def deploy(connection: Connection, changes: Changes = ()) -> None:
    """Make execute_sql as deploy_sql_function.py makes it, with some of their text replaced; each old text must be there, exactly once."""
    text = deployment_sql()
    for old, new in changes:
        assert text.count(old) == 1, f"{text.count(old)} times in db/rpc_migrations: {old}"
        text = text.replace(old, new)
    # Half of the time goes into checking bodies, which the tests of the commands do as often as anybody could want.
    connection.execute(b"set check_function_bodies = off")
    connection.execute(text.encode())
    connection.execute(b"reset check_function_bodies")


def wait_until_blocked(watcher: Connection, pid: int) -> None:
    """Until a session waits for another one."""
    while not is_blocked(watcher, pid):
        pass


def is_blocked(watcher: Connection, pid: int) -> bool:
    """Whether a session waits for another one."""
    return watcher.execute("select pg_blocking_pids(%s) <> '{}'", (pid,)).fetchone() == (True,)


def wait_until_it_waits(database: Database, other: Connection) -> None:
    """Wait until a connection waits for a lock, or pauses before it tries again."""
    query = "select from pg_stat_activity where pid = %s and wait_event_type in ('Lock', 'Timeout')"
    deadline = time.monotonic() + 20
    with database.connect("supabase_admin") as observer:
        while not observer.execute(query, [other.info.backend_pid]).fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def read(file: str) -> str:
    """The text of a step file in db/."""
    return (DB / file).read_text()


def calls(connection: Connection, text: str, migration: str = "test", shrink: int = 0) -> Iterator[Call]:
    """Run a step file's text; yields after every call. Errors of the database are raised as they are."""
    marks = list(_STEP.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        for _ in range(_MAX_CALLS):
            row = connection.execute(
                "select public.execute_sql(%s, %s, %s, 'checksum', %s, null, %s)",
                (text[mark.end() : end], migration, mark["name"], mark["batch"] is not None, shrink),
            ).fetchone()
            assert row is not None
            yield Call(mark["name"], row[0])
            if row[0]["state"] == "done":
                break
        else:
            raise AssertionError(f"{mark['name']} is still not done: {row}")


def run(connection: Connection, text: str, migration: str = "test", until: str = "") -> list[Call]:
    """Run a step file's text to its end, or up to and with the step named `until`."""
    made = []
    for call in calls(connection, text, migration):
        made.append(call)
        if call.step == until and call.answer["state"] == "done":
            return made
    assert not until, f"there is no step {until}"
    return made


def steps_of(file: Path) -> str:
    """The text of a migration file with every step that it becomes, as `calls` takes it."""
    steps = read_migration(file).steps
    return "".join(f"-- step: {step.name}{' (batch)' if step.batch else ''}\n{step.sql}\n" for step in steps)


def short_way(file: Path, table: str, statements: str) -> str:
    """The steps of the rebuild that a line of that file begins: `table` has its schema, `statements` are ALTER TABLE."""
    file.write_text(f"-- rebuild: {table}\n{statements}\n")
    return steps_of(file)


def run_steps(connection: Connection, file: str) -> Iterator[str]:
    """Run a file of db/ as part of the migration of user_clusters; yields each step's name when it is done."""
    for call in calls(connection, read(file), MIGRATION):
        if call.answer["state"] == "done":
            yield call.step


def run_file(connection: Connection, file: str, until: str = "") -> None:
    """Run a file of db/ as part of the migration of user_clusters, whole or up to and with one step."""
    run(connection, read(file), MIGRATION, until)


def step_names(text: str) -> list[str]:
    """The names of a step file's steps, in order."""
    return [mark["name"] for mark in _STEP.finditer(text)]


def rebuild_file(table: str, columns: str, more_steps: str = "", schema: str = "public") -> str:
    """A step file that rebuilds a table: `table` is its name as an SQL identifier, `columns` the new table's columns."""
    backup = f"{table}_backup"
    if table.startswith('"'):  # a name has at most 63 bytes
        backup = '"' + table[1:-1].encode()[:50].decode(errors="ignore") + '_backup"'
    old_name, backup_name = (f"{schema}.{name}".replace("'", "''") for name in (table, backup))
    return f"""
-- step: create the new table
create table rpc_migrations.{table} ({columns});

-- step: begin the copy
select * from rpc_migrations.begin_copy('{old_name}', '{backup_name}');

-- step: copy the rows (batch)
select * from rpc_migrations.copy_batch();
{more_steps}
-- step: carry over (batch)
select * from rpc_migrations.carry_over();

-- step: replay (batch)
select * from rpc_migrations.replay();

-- step: compare
select * from rpc_migrations.compare();

-- step: swap (batch)
select * from rpc_migrations.swap();

-- step: validate (batch)
select * from rpc_migrations.validate_foreign_keys();
"""
