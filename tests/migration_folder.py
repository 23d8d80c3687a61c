"""A folder of migration files for the tests, and run_migration.py on it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from faults.harness import Outcome, settings_for
from local_supabase import Database, LocalSupabase
from rpc_migrations.cli import run_files
from rpc_migrations.console import Console
from rpc_migrations.console.document import document
from rpc_migrations.errors import MigrationError

OPTIONS: dict[str, Any] = {
    "to": None, "include_all": False, "record": False, "accept_edits": False, "rollback": False, "finish": False, "discard_changes": False, "give_up": False,
    "remove_when_done": False, "until": None, "stop_before_swap": False, "dry_run": False, "status": False, "write_sql": False, "online": False,
}  # fmt: skip


class Project:
    """A folder of migration files, and the database that they are for."""

    def __init__(self, supabase: LocalSupabase, database: Database, folder: Path) -> None:
        self.supabase, self.database = supabase, database
        self.folder = folder / "supabase" / "migrations"
        self.folder.mkdir(parents=True)

    def write(self, **files: str) -> None:
        """Write files; their names have no leading underscore and no ending."""
        for name, text in files.items():
            (self.folder / f"{name.removeprefix('_')}.sql").write_text(text)

    def run(self, *names: str, **options: Any) -> Outcome:
        """Run run_migration.py in this process: of the folder, or of files in it."""
        console = Console("test", as_json=True, quiet=True)
        outcome = Outcome(0)
        paths = [self.folder / f"{name}.sql" for name in names] or [self.folder]
        settings = settings_for(self.supabase.url, self.supabase.service_key)
        try:
            outcome.exit_code = run_files(argparse.Namespace(paths=paths, **OPTIONS | options), settings, console)
        except MigrationError as error:
            outcome.exit_code, outcome.error = error.exit_code, error
        outcome.lines, outcome.report = console.report.lines, document(console.report)
        return outcome

    @property
    def tables(self) -> list[str]:
        """Names of the tables in public, in the order in which they were made."""
        with self.database.connect() as connection:
            rows = connection.execute(
                "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by oid"
            )
            return [name for (name,) in rows.fetchall()]


def failure(outcome: Outcome) -> MigrationError:
    """The error that it ended with."""
    assert outcome.error is not None
    return outcome.error
