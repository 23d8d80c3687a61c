"""A copy of the project without .env and without written files, so that a test may add and change what it likes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from conftest import ROOT, script_environment

FUNCTION_FILE = "db/create_execute_sql_function_output.sql"
MIGRATION_FILE = "db/migrate_user_clusters_output.sql"

# The names that SUPABASE_ variables may have; a script under test sees none of ours.
Environment = Mapping[str, str | None]
Completed = subprocess.CompletedProcess[str]


class Checkout:
    """The scripts and SQL files of the project in a directory of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # With the compiled modules, which stay valid because times are kept: a script then starts as fast as ours.
        for folder in ("scripts", "db"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("*_output.sql"))

    def run(
        self, script: str, *arguments: str, env: Environment | None = None, timeout: float = 60, **options: Any
    ) -> Completed:
        """Run a script as a user would, in the copy."""
        options = {"cwd": self.root, "capture_output": True, "text": True} | options
        return subprocess.run(
            [sys.executable, str(self.root / "scripts" / script), *arguments],
            env=script_environment(dict(env or {})),
            timeout=timeout,
            check=False,
            **options,
        )

    def written(self) -> set[str]:
        """Names of the SQL files that were written, as they are told to the user."""
        return {str(path.relative_to(self.root)) for path in (self.root / "db").glob("*_output.sql")}

    def read(self, name: str) -> str:
        """The text of a file."""
        return (self.root / name).read_text(encoding="utf-8")

    def step_file(self, name: str, text: str) -> str:
        """Write a step file into db/; returns its name for run_migration.py."""
        (self.root / "db" / name).write_text(text, encoding="utf-8")
        return f"db/{name}"


Run = Callable[..., Completed]


def said(completed: Completed, *texts: str, code: int = 0) -> None:
    """Assert the exit code, that each text was printed, and that no traceback was."""
    output = completed.stdout + completed.stderr
    assert "Traceback" not in output, output
    missing = [text for text in texts if text not in output]
    assert (completed.returncode, missing) == (code, []), output
