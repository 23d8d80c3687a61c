"""Commands that look and change nothing: before a migration, and after it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import Console
from ..places import PROJECT_ROOT
from ..report import Check
from ..settings import Settings
from ..shapes import CHECK
from ..step_file import read_migrations
from .connection import connected, require_credentials

if TYPE_CHECKING:
    from ..client import RpcClient

VERIFY_FILE = PROJECT_ROOT / "db" / "verify_user_clusters.sql"
CLUSTERS = PROJECT_ROOT / "db" / "migrate_user_clusters.sql"
TITLE = "Verification of user_clusters and prompt_refinements"


def doctor(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Look at everything that a migration needs; 1 if something is in the way."""
    migrations = read_migrations(options.file)
    require_credentials(settings)
    with connected(settings, console) as client:
        from ..doctor import examine

        checks = examine(client, settings, migrations)
    return 0 if console.checks("What was found; nothing was changed", checks) else 1


def verify(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Run the checks of verify_user_clusters.sql; 1 if one fails."""
    require_credentials(settings)
    with connected(settings, console) as client:
        from ..deployment import check_deployed

        check_deployed(client)
        checks = run_checks(client, VERIFY_FILE)
    return 0 if console.checks(TITLE, checks) else 1


def checks_of(file: Path) -> Path | None:
    """The file with the checks of a migration file's result; None if it has none."""
    return VERIFY_FILE if file.resolve() == CLUSTERS else None


def run_checks(client: RpcClient, file: Path) -> list[Check]:
    """Run a file of checks."""
    rows = client.rows(file.read_text(encoding="utf-8"), CHECK)
    return [Check(row["check"], row["passed"], row.get("detail")) for row in rows]
