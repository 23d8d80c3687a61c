"""Runs the files of db/ over a plain connection, step by step, so that a test can look at every moment in between."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from conftest import ROOT

DB = ROOT / "db"
MIGRATION = "migrate_user_clusters.sql"
ROLLBACK = "rollback.sql"
VERIFY = "verify_user_clusters.sql"

_STEP = re.compile(r"^-- step: (?P<name>.*?)(?P<batch> \(batch\))?$", re.MULTILINE)
_DEADLINE_SECONDS = 20.0


@dataclass(frozen=True)
class Step:
    """One step of a step file; a batch step is sent until it is done."""

    name: str
    batch: bool
    text: str


def deploy(connection: psycopg.Connection[Any]) -> None:
    """Make public.execute_sql and the private schema."""
    parts = [path.read_text() for path in sorted((DB / "execute_sql").glob("*.sql"))]
    parts.append("comment on function public.execute_sql is 'rpc_migrations test';")
    connection.execute("\n".join(parts).encode())


def read_steps(file: str) -> list[Step]:
    """The steps of a step file in db/, in order."""
    text = (DB / file).read_text()
    marks = list(_STEP.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        Step(mark["name"], mark["batch"] is not None, text[mark.end() : end])
        for mark, end in zip(marks, ends, strict=True)
    ]


def run_steps(connection: psycopg.Connection[Any], file: str) -> Iterator[str]:
    """Run a file's steps as parts of the migration of user_clusters; yields each step's name when it is done."""
    for step in read_steps(file):
        _run(connection, step)
        yield step.name


def run_file(connection: psycopg.Connection[Any], file: str, until: str = "") -> None:
    """Run a file's steps; `until`: up to and with the step of that name."""
    for name in run_steps(connection, file):
        if name == until:
            return
    assert not until, f"{file} has no step {until}"


def _run(connection: psycopg.Connection[Any], step: Step) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while time.monotonic() < deadline:
        row = connection.execute(
            "select public.execute_sql(%s, %s, %s, 'checksum', %s)", (step.text, MIGRATION, step.name, step.batch)
        ).fetchone()
        assert row is not None
        if row[0]["state"] == "done":
            return
        if row[0]["state"] != "more":
            time.sleep(0.05)
    raise AssertionError(f"{step.name} is not done: {row}")
