"""A migration file, a local Supabase with execute_sql, and a proxy between them: what tests of runs work on."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from conftest import ROOT, script_environment
from faults.proxy import Fault, FaultProxy, Request
from local_supabase import Database, LocalSupabase
from rest_calls import rpc, wait_until
from rpc_migrations.cli import CLUSTERS, run_file
from rpc_migrations.console import Console
from rpc_migrations.console.document import document
from rpc_migrations.errors import MigrationError
from rpc_migrations.keys import read_key
from rpc_migrations.settings import Settings


@dataclass
class Outcome:
    """How a run in this process ended."""

    exit_code: int
    notes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    error: MigrationError | None = None
    report: dict[str, Any] = field(default_factory=dict)


def settings_for(
    url: str, key: str, *, request_timeout: float = 30.0, retry_pause: float = 0.01, patience: float = 30.0
) -> Settings:
    """Settings with short pauses, for runs in this process."""
    service_key = read_key(key, "SUPABASE_SERVICE_KEY")
    return Settings(
        url=url, key=service_key, project=None, access_token=None, management_url="",
        patience=patience, request_timeout=request_timeout, retry_pause=retry_pause,
    )  # fmt: skip


def run_here(
    settings: Settings, file: Path = CLUSTERS, *, rollback: bool = False, finish: bool = False, dry_run: bool = False
) -> Outcome:
    """Run a command in this process: the same code, without the start of an interpreter, and with short pauses."""
    options = argparse.Namespace(
        file=file,
        rollback=rollback,
        finish=finish,
        discard_changes=False,
        give_up=False,
        remove_when_done=False,
        dry_run=dry_run,
        status=False,
        write_sql=False,
        online=False,
        until=None,
        stop_before_swap=False,
    )
    console = Console("test", as_json=True, quiet=True)
    outcome = Outcome(0)
    try:
        outcome.exit_code = run_file(options, settings, console)
    except MigrationError as error:
        outcome.exit_code, outcome.error = error.exit_code, error
    outcome.notes, outcome.lines, outcome.report = console.report.notes, console.report.lines, document(console.report)
    return outcome


def start_script(
    name: str, *arguments: str | Path, env: dict[str, str | None], **options: Any
) -> subprocess.Popen[str]:
    """Start a script as a user would, and do not wait for it."""
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=script_environment(env),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


class Bench:
    """Runs of one migration file through a proxy. Faults strike the requests that send a step."""

    def __init__(self, database: Database, supabase: LocalSupabase, folder: Path) -> None:
        self.database, self.supabase = database, supabase
        self.file = folder / "migration.sql"
        self.heading = ""  # what stands above the first step
        self.proxy = FaultProxy(supabase.url, self._choose)
        self.faults: list[Fault] = []  # for the next requests that send a step, in order
        self.forever: Fault | None = None  # for those after them
        self.attempts: list[float] = []  # when a step was sent, on the monotonic clock
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        self.proxy.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.stop()
        for process in self._started:
            process.kill()
            process.communicate()

    def _choose(self, request: Request) -> Fault | None:
        if request.step is None:
            return None
        self.attempts.append(time.monotonic())
        return self.faults.pop(0) if self.faults else self.forever

    # --- runs

    def write(self, steps: dict[str, str]) -> None:
        """Write the migration file, of SQL texts by step; "NAME (batch)" is a batch step."""
        texts = "\n".join(f"-- step: {name}\n{text}\n" for name, text in steps.items())
        self.file.write_text(self.heading + texts)

    def run(self, steps: dict[str, str] | None = None, *, dry_run: bool = False, **settings: float) -> Outcome:
        """Run the file in this process; where there are steps, write it first. `settings` are those of settings_for."""
        if steps is not None:
            self.write(steps)
            self.proxy.requests.clear()
        return run_here(settings_for(self.proxy.url, self.supabase.service_key, **settings), self.file, dry_run=dry_run)

    def run_back(self, **settings: float) -> Outcome:
        """Roll the file back in this process, through the proxy."""
        return run_here(settings_for(self.proxy.url, self.supabase.service_key, **settings), self.file, rollback=True)

    def run_past_the_proxy(self, **settings: float) -> Outcome:
        """Run the file in this process, without the proxy."""
        return run_here(settings_for(self.supabase.url, self.supabase.service_key, **settings), self.file)

    def start(self, url: str | None = None) -> subprocess.Popen[str]:
        """Start the script in a process of its own, through the proxy or another address. It is ended with the test."""
        env: dict[str, str | None] = {
            "SUPABASE_URL": url or self.proxy.url,
            "SUPABASE_SERVICE_KEY": self.supabase.service_key,
        }
        self._started.append(start_script("run_migration.py", self.file, env=env))
        return self._started[-1]

    def when(self, step: str, fault: Fault) -> threading.Event:
        """Let a fault strike the request that first sends a step, and no other; the event says that it has come."""
        came = threading.Event()

        def choose(request: Request) -> Fault | None:
            if request.step == step and not came.is_set():
                came.set()
                return fault
            return None

        self.proxy.choose = choose
        return came

    @property
    def sent(self) -> list[str]:
        """The steps that requests began with."""
        return [request.step for request in self.proxy.requests if request.step]

    @property
    def asked_to_start(self) -> int:
        """How often a run has asked whether it may begin."""
        return sum("start_run" in request.query for request in self.proxy.requests)

    # --- what the database has of them

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with self.database.connect("supabase_admin") as connection:
            return connection.execute(query, values or None).fetchall()

    def wait_for(self, query: str) -> None:
        """Wait until a query has a row."""
        assert wait_until(lambda: bool(self.ask(query)), 20), query

    def wait_until_inside(self) -> None:
        """Wait until the database is in the middle of a step that sleeps."""
        self.wait_for("select from pg_stat_activity where wait_event = 'PgSleep'")

    def wait_until_heard_of(self) -> None:
        """Wait until the REST layer knows execute_sql."""
        assert wait_until(lambda: rpc(self.supabase, "execute_sql", query="select 1 as one").is_success)

    @property
    def journal(self) -> dict[str, int]:
        """How many calls of each step took effect, of those that are done."""
        done = "select step, calls from rpc_migrations.journal where finished_at is not null order by id"
        return dict(self.ask(done))
