"""The whole job on a local Supabase, while an application writes to the table: migrate, verify, and back again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
from psycopg import sql

from local_supabase import Cluster, Database, LocalSupabase, create_old_table
from local_supabase.application import Application

ROOT = Path(__file__).resolve().parents[2]
ROWS = 100_000
_ENDING_SECONDS = 10.0


class CommandFailed(Exception):
    """A command of the demo ended with this exit code."""


class Interruptions:
    """Signals that end the demo. One that comes while something is being started waits until that can be ended as well."""

    def __init__(self) -> None:
        self._are_held_back = False
        self._received = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self._received = True
        if not self._are_held_back:
            raise KeyboardInterrupt

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Nothing is raised within, but at its end."""
        self._are_held_back = True
        try:
            yield
        finally:
            self._are_held_back = False
        if self._received:
            raise KeyboardInterrupt


_INTERRUPTIONS = Interruptions()


def main() -> int:
    """Run the demo. Returns 0, the exit code of the first command that fails, 1 for a lost write, 130 for Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _INTERRUPTIONS.receive)
    try:
        with ExitStack() as stack:
            with _INTERRUPTIONS.held_back():
                database = stack.enter_context(Cluster()).create_database("demo", default_grants="none")
                supabase = stack.enter_context(LocalSupabase(database, subprocess=True))
            with database.connect() as connection:
                create_old_table(connection, ROWS)
            lost = _demonstrate(database, supabase)
    except CommandFailed as failure:
        return int(failure.args[0])
    except KeyboardInterrupt:
        print("\nInterrupted. The local Supabase is stopped, and nothing is left of it.", file=sys.stderr)
        return 130
    print("\nThe local Supabase is stopped, and nothing is left of it.")
    return 1 if lost else 0


def _demonstrate(database: Database, supabase: LocalSupabase) -> int:
    """The commands, as a user runs them. Returns how many writes were lost."""
    print(f"A local Supabase runs at {supabase.url}.\nIts user_clusters is an old one, with {ROWS:,} rows.")
    _run("deploy_sql_function.py", supabase)
    with database.connect() as connection:
        print("\nFrom here on an application writes to user_clusters over HTTP.")
        with Application(supabase) as before:
            _run("migrate_clusters.py", supabase)
        lost = _report("migration", before, before.count_lost(connection))
        _show_tables(connection, ("user_clusters", "user_clusters_backup", "prompt_refinements"))
        _run("verify_clusters.py", supabase)
        print("\nThe application writes again.")
        with Application(supabase) as after:
            _run("rollback_clusters.py", supabase)
        lost += _report("rollback", after, before.count_lost(connection) + after.count_lost(connection))
        print(f"The original table is back, with all {before.writes + after.writes:,} writes made since the beginning.")
        _show_tables(connection, ("user_clusters",))
    return lost


def _run(script: str, supabase: LocalSupabase) -> None:
    """Run a command; raises CommandFailed."""
    print(f"\n$ python scripts/{script}", flush=True)
    command = [sys.executable, str(ROOT / "scripts" / script)]
    environment = os.environ | supabase.environment()
    process = None
    try:
        with _INTERRUPTIONS.held_back():
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
        code = process.wait()
    except KeyboardInterrupt:
        if process is not None:
            _let_end(process)
        raise
    if code == 130:
        raise KeyboardInterrupt
    if code != 0:
        raise CommandFailed(code)


def _let_end(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C in a terminal is for the command as well, which says how far it came; a signal for us alone is not."""
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(_ENDING_SECONDS)


def _report(what: str, application: Application, lost: int) -> int:
    """What the application noticed. Returns `lost`."""
    print(
        f"\nDuring the {what} the application made {application.writes:,} writes:\n"
        f"{application.refused} refused, {lost} lost; the longest took {application.longest * 1000:.0f} ms.",
        flush=True,
    )
    return lost


def _show_tables(connection: psycopg.Connection[Any], tables: tuple[str, ...]) -> None:
    """Their rows and columns."""
    for table in tables:
        rows = connection.execute(sql.SQL("select * from public.{}").format(sql.Identifier(table)))
        print(f"  public.{table:<22} {rows.rowcount:>8,} rows, {len(rows.description or ()):>2} columns", flush=True)


if __name__ == "__main__":
    sys.exit(main())
