"""Large migration files by `psql -1` and by this project: seconds, and what the session in the database takes for them."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from local_supabase import Cluster, Database, LocalSupabase

from benchmarks.contenders import psql, run_command, script

_POLL_SECONDS = 0.002
_TABLE = "create table public.items (id integer primary key, name text);\n"


def _inserts(number: int, length: int) -> str:
    """So many INSERTs of one row each."""
    return _TABLE + "".join(f"insert into public.items values ({n}, '{'x' * length}');\n" for n in range(number))


def _one_insert(number: int, length: int) -> str:
    """One INSERT of so many rows."""
    rows = ",\n".join(f"({n}, '{'x' * length}')" for n in range(number))
    return f"{_TABLE}insert into public.items values\n{rows};\n"


FILES = {
    "4,000 inserts": lambda: _inserts(4_000, 60),
    "2,000 inserts of longer rows": lambda: _inserts(2_000, 600),
    "one insert of 50,000 rows": lambda: _one_insert(50_000, 90),
    "60,000 inserts": lambda: _inserts(60_000, 55),
}


@dataclass
class FileMeasurement:
    """One file, both ways. Seconds; sizes in MB: of the text, and by how much the session's address space grew."""

    title: str
    size: float
    psql_seconds: float
    psql_memory: float
    our_seconds: float
    our_memory: float

    def to_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        return asdict(self)


def measure_files(cluster: Cluster, titles: Sequence[str] = tuple(FILES)) -> Iterator[FileMeasurement]:
    """Each file, both ways, in a fresh database."""
    for title in titles:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "20260101000000_large.sql"
            file.write_text(FILES[title](), encoding="utf-8")
            size = file.stat().st_size / 1e6
            yield FileMeasurement(title, size, *_by_psql(cluster, file), *_by_us(cluster, file))


def _by_psql(cluster: Cluster, file: Path) -> tuple[float, float]:
    with _database(cluster) as database, _watch(database, "application_name = 'psql'") as watch:
        seconds = run_command(psql(database, file, "--single-transaction"), {}).seconds
        return seconds, watch.grown()


def _by_us(cluster: Cluster, file: Path) -> tuple[float, float]:
    with (
        _database(cluster) as database,
        LocalSupabase(database, subprocess=True, pool_size=1, safeupdate=False) as supabase,
    ):
        run_command(script("deploy_sql_function.py"), supabase.environment())
        with _watch(database, "usename = 'authenticator' and backend_type = 'client backend'") as watch:
            seconds = run_command(script("run_migration.py", str(file)), supabase.environment()).seconds
            return seconds, watch.grown()


@contextmanager
def _database(cluster: Cluster) -> Iterator[Database]:
    database = cluster.create_database()
    try:
        yield database
    finally:
        database.drop()


@contextmanager
def _watch(database: Database, condition: str) -> Iterator[_Watch]:
    with database.connect("supabase_admin") as watcher, _Watch(watcher, condition) as watch:
        yield watch


class _Watch:
    """Looks at the sessions of a database that fulfil a condition, again and again, for as long as they are there."""

    def __init__(self, watcher: psycopg.Connection[Any], condition: str) -> None:
        self._watcher = watcher
        self._condition = condition
        self._first: dict[int, int] = {}
        self._peak: dict[int, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def grown(self) -> float:
        """By how much the one that grew most has grown, in MB."""
        self._over.set()
        self._thread.join()
        return max((peak - self._first[pid]) / 1000 for pid, peak in self._peak.items())

    def _look_on(self) -> None:
        query = f"select pid from pg_stat_activity where datname = current_database() and {self._condition}"
        pids: list[int] = []
        while True:
            is_last = self._over.is_set()
            if not pids or is_last:
                pids = [pid for (pid,) in self._watcher.execute(query.encode()).fetchall()]
            for pid in pids:
                if size := _address_space(pid):
                    self._first.setdefault(pid, size)
                    self._peak[pid] = size
            if is_last:
                return
            time.sleep(_POLL_SECONDS)


def _address_space(pid: int) -> int | None:
    """The most that a process has ever asked the kernel for, in kB; None where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmPeak:\s+(\d+) kB", status)
    return int(found[1]) if found else None
