"""Measures the contenders, one after the other, each in a fresh copy of the same database."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from local_supabase import Cluster, Database, create_old_table
from local_supabase.server import listen
from psycopg import sql

from benchmarks.contenders import NO_CREDENTIALS, ROOT, Contender, Finished, script
from benchmarks.traffic import Seen, Traffic

_SETTLE = 0.5  # seconds of traffic before and after
_START_REPETITIONS = 9


@dataclass
class Measurement:
    """One contender at one size: medians over its repetitions, but the worst of what must not happen. Seconds, MB."""

    contender: str
    title: str
    rows: int
    seconds: float
    all_seconds: list[float]
    memory: float
    seen: Seen
    requests: int | None = None
    longest_request: float | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        return asdict(self)


@contextmanager
def server() -> Iterator[Cluster]:
    """A PostgreSQL on disk, also at a TCP port, which not every tool can do without; with buffers for a large table."""
    os.environ.setdefault("LOCAL_SUPABASE_DATA", "/tmp")
    with listen() as free:
        port = free.getsockname()[1]
    with Cluster(tcp_port=port, shared_buffers="2GB") as cluster:
        yield cluster


@contextmanager
def filled_template(cluster: Cluster, rows: int) -> Iterator[Database]:
    """A database with the old table, to be copied."""
    template = cluster.create_database(default_grants="none")
    with template.connect() as connection:
        create_old_table(connection, rows)
    with template.connect("supabase_admin") as connection:
        connection.execute("vacuum (analyze) public.user_clusters")
    try:
        yield template
    finally:
        template.drop()


@contextmanager
def _copied(template: Database) -> Iterator[Database]:
    """A fresh copy of the template."""
    cluster = template.cluster
    copy = Database(cluster, f"{template.name}_copy")
    with cluster.connect() as connection:
        text = sql.SQL("create database {} owner postgres template {} strategy file_copy")
        connection.execute(text.format(sql.Identifier(copy.name), sql.Identifier(template.name)))
        connection.execute("checkpoint")
    try:
        yield copy
    finally:
        copy.drop()


def measure(template: Database, contenders: Sequence[Contender], rows: int, repetitions: int) -> list[Measurement]:
    """Run each contender so many times under traffic; in turn, so that a machine that gets slower does so for all."""
    finished: dict[str, list[Finished]] = {one.name: [] for one in contenders}
    seen: dict[str, list[Seen]] = {one.name: [] for one in contenders}
    for _ in range(repetitions):
        for one in contenders:
            with (
                _copied(template) as database,
                tempfile.TemporaryDirectory() as folder,
                one.prepare(database, Path(folder)) as migrate,
            ):
                # The others fail as soon as a user with clusters is deleted: the copied row violates the new foreign key.
                with Traffic(database.dsn(), deletes_users=one.name.startswith("ours")) as traffic:
                    time.sleep(_SETTLE)
                    finished[one.name].append(migrate())
                    time.sleep(_SETTLE)
                seen[one.name].append(traffic.seen)
    return [_summary(one, rows, finished[one.name], seen[one.name]) for one in contenders]


def _summary(contender: Contender, rows: int, finished: list[Finished], seen: list[Seen]) -> Measurement:
    """What came of a contender's repetitions."""
    middle = sorted(finished, key=lambda run: run.seconds)[len(finished) // 2]
    worst = Seen(*(max(values) for values in zip(*(vars(one).values() for one in seen), strict=True)))
    return Measurement(
        contender.name,
        contender.title,
        rows,
        statistics.median(run.seconds for run in finished),
        [round(run.seconds, 3) for run in finished],
        max(run.memory for run in finished),
        worst,
        middle.report.get("requests"),
        middle.report.get("longest_request"),
        middle.report.get("steps", []),
    )


def measure_calm(template: Database, seconds: float = 3.0) -> Seen:
    """What the traffic sees when nothing is migrated: the machine's own share in every stall."""
    with _copied(template) as database:
        with Traffic(database.dsn()) as traffic:
            time.sleep(seconds)
        return traffic.seen


def measure_start() -> dict[str, float]:
    """Medians, in seconds, of the command without credentials, and of its first line with and without them."""
    # Nobody listens there; what is measured is over by then. Not a real key: it only has the form of one.
    key = "sb_" + "secret_" + "x" * 22 + "_" + "x" * 8
    with_credentials = NO_CREDENTIALS | {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SERVICE_KEY": key}
    whole, first, first_with = [], [], []
    for _ in range(_START_REPETITIONS):
        first_line, all_lines = _time_lines(NO_CREDENTIALS)
        first.append(first_line)
        whole.append(all_lines)
        first_with.append(_time_lines(with_credentials, only_first=True)[0])
    return {
        "without credentials": statistics.median(whole),
        "without credentials, first line": statistics.median(first),
        "with credentials, first line": statistics.median(first_with),
    }


def _time_lines(environment: dict[str, str], *, only_first: bool = False) -> tuple[float, float]:
    """Seconds until migrate_clusters.py has written its first line, and until it has ended."""
    began = time.monotonic()
    process = subprocess.Popen(
        script("migrate_clusters.py"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    process.stdout.readline()
    first = time.monotonic() - began
    if only_first:
        process.kill()
    process.stdout.read()
    process.wait()
    process.stdout.close()
    return first, time.monotonic() - began
