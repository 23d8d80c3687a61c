"""An application that uses user_clusters while it is migrated: one process a client, each with its own connection.

`Traffic` starts two writers, a reader and perhaps one who deletes users, and collects what they saw. A writer remembers every write that
the database has acknowledged, and in the end looks whether it is there.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

CLIENTS = ("writer", "writer", "reader")
_SAMPLE = 30_000  # rows of the table, at most, that the clients share among themselves
_PAUSE = 0.002  # seconds between two statements of a client: some hundreds a second, and a core left for the migration
_READ_AT_ONCE = 10
_DELETE_PAUSE = 0.1  # seconds between two deletions of users
_SLOW_DELETION = 0.2  # seconds
_LEAVES = (
    "right(user_id::text, 1) = '0'"  # whose users are deleted: one in ten or so, whose rows no other client touches
)


@dataclass
class Seen:
    """What the clients of one kind, or all, saw. Seconds; a stall lasts until a statement has had its full effect."""

    statements: int = 0
    failed: int = 0  # answered with an error
    longest_read: float = 0.0
    longest_write: float = 0.0
    missing_seconds: float = 0.0  # how long rows that were never deleted could not be read
    lost: int = 0  # rows that are not as the last acknowledged write left them
    deletions: int = 0  # of users, with their rows
    deletions_failed: int = 0
    slow_deletions: int = 0  # those that took over 200 ms
    longest_deletion: float = 0.0

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            self.statements + other.statements,
            self.failed + other.failed,
            max(self.longest_read, other.longest_read),
            max(self.longest_write, other.longest_write),
            max(self.missing_seconds, other.missing_seconds),
            self.lost + other.lost,
            self.deletions + other.deletions,
            self.deletions_failed + other.deletions_failed,
            self.slow_deletions + other.slow_deletions,
            max(self.longest_deletion, other.longest_deletion),
        )


class Traffic:
    """Within it the clients are at work, and, if asked for, one more who deletes users; afterwards `seen` says what they saw."""

    def __init__(self, dsn: str, *, deletes_users: bool = False) -> None:
        self.seen = Seen()
        self._dsn = dsn
        self._kinds = (*CLIENTS, "deleter") if deletes_users else CLIENTS
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        for place, kind in enumerate(self._kinds):
            command = [sys.executable, "-m", "benchmarks.traffic", kind, str(place), self._dsn]
            self._processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"PYTHONPATH": path},
                )
            )
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("A client of the benchmark did not start.")
        # Not before all have their share of the rows.
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("begin\n")
            process.stdin.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            assert process.stdout is not None
            last_line = process.stdout.read()
            process.wait()
            if kind is None:
                self.seen += Seen(**json.loads(last_line))


@dataclass
class _Client:
    """One client: its connection, its share of the rows, and what it has seen so far."""

    connection: psycopg.Connection[Any]
    random: random.Random
    share: list[tuple[uuid.UUID, uuid.UUID]]  # ids of rows that no other client touches, and of their users
    seen: Seen = field(default_factory=Seen)
    written: dict[uuid.UUID, float | None] = field(default_factory=dict)  # score, or None: deleted

    def run(self, kind: str, stop: Any) -> None:
        """Read or write until `stop()`; each statement that fails or finds too little is made good by a later one."""
        in_vain_since: float | None = None
        while not stop():
            time.sleep(_PAUSE)
            began = time.monotonic()
            try:
                succeeded = self._read() if kind == "reader" else self._write()
            except psycopg.Error:
                if self.connection.closed:
                    raise
                succeeded = False
                self.seen.failed += 1
            self.seen.statements += 1
            began_in_vain = began if in_vain_since is None else in_vain_since
            if succeeded or stop():
                self._note_stall(kind, time.monotonic() - began_in_vain, was_missing=in_vain_since is not None)
            in_vain_since = None if succeeded else began_in_vain

    def delete_users(self, stop: Any) -> None:
        """Delete one user after another until `stop()`, or none is left to leave; their rows must have gone with them."""
        gone = []
        for user in dict.fromkeys(user for _, user in self.share):
            time.sleep(_DELETE_PAUSE)
            if stop():
                break
            began = time.monotonic()
            try:
                self.connection.execute("delete from auth.users where id = %s", [user])
                gone.append(user)
            except psycopg.Error:
                self.seen.deletions_failed += 1
            took = time.monotonic() - began
            self.seen.deletions += 1
            self.seen.slow_deletions += took > _SLOW_DELETION
            self.seen.longest_deletion = max(self.seen.longest_deletion, took)
        while not stop():
            time.sleep(_DELETE_PAUSE)
        left = self.connection.execute("select count(*) from public.user_clusters where user_id = any(%s)", [gone])
        self.seen.lost += (left.fetchone() or [0])[0]

    def _note_stall(self, kind: str, seconds: float, *, was_missing: bool) -> None:
        if kind == "writer":
            self.seen.longest_write = max(self.seen.longest_write, seconds)
            return
        self.seen.longest_read = max(self.seen.longest_read, seconds)
        if was_missing:
            self.seen.missing_seconds += seconds

    def _read(self) -> bool:
        """Whether some rows that nobody deletes are there."""
        ids = [row[0] for row in self.random.sample(self.share, min(_READ_AT_ONCE, len(self.share)))]
        found = self.connection.execute("select count(*) from public.user_clusters where id = any(%s)", [ids])
        return (found.fetchone() or [0])[0] == len(ids)

    def _write(self) -> bool:
        """Insert, change or delete one row; whether the database says that it did."""
        chance = self.random.random()
        score: float | None = self.random.random()
        row, user = self.random.choice(self.share)
        table = "public.user_clusters"
        if chance < 0.45 or self.written.get(row, 0.0) is None:
            row = uuid.UUID(int=self.random.getrandbits(128), version=4)
            text = f"insert into {table} (id, user_id, cluster_type, cluster_score) values (%s, %s, 'mixed', %s)"
            done = self.connection.execute(text, [row, user, score])
        elif chance < 0.9:
            done = self.connection.execute(f"update {table} set cluster_score = %s where id = %s", [score, row])
        else:
            score = None
            done = self.connection.execute(f"delete from {table} where id = %s", [row])
        if done.rowcount == 1:
            self.written[row] = score
        return done.rowcount == 1

    def count_losses(self) -> None:
        """Compare what was acknowledged with what is there; the reader's rows must be there as well."""
        expected = self.written or {row: 0.0 for row, _ in self.share}
        found = dict(
            self.connection.execute(
                "select id, cluster_score from public.user_clusters where id = any(%s)", [list(expected)]
            ).fetchall()
        )
        for row, score in expected.items():
            is_right = (row in found) if not self.written else found.get(row) == score
            self.seen.lost += not is_right


def main() -> None:
    """Be one client: say "ready", begin when told to, work until standard input ends, print what was seen as JSON."""
    kind, place, dsn = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        size = (connection.execute("select count(*) from public.user_clusters").fetchone() or [0])[0]
        percent = min(100.0, 100.0 * _SAMPLE / max(size, 1))
        leaves = "" if kind == "deleter" else "not "
        text = (
            "select id, user_id from public.user_clusters tablesample bernoulli (%s) repeatable (1) "
            f"where {leaves}{_LEAVES} order by id"
        )
        share = connection.execute(text, [percent]).fetchall()
        client = _Client(connection, random.Random(place), share if kind == "deleter" else share[place :: len(CLIENTS)])
        print("ready", flush=True)
        sys.stdin.readline()
        if kind == "deleter":
            client.delete_users(_input_ended())
        else:
            client.run(kind, _input_ended())
            client.count_losses()
    print(json.dumps(vars(client.seen)), flush=True)


def _input_ended() -> Any:
    """A function that says whether standard input has ended."""
    import select

    return lambda: bool(select.select([sys.stdin], [], [], 0)[0])


if __name__ == "__main__":
    main()
