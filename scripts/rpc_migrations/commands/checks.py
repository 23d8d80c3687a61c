"""Commands that look and change nothing: before a migration, and after it."""

from __future__ import annotations

import argparse

from ..console import Console
from ..report import Check
from ..settings import PROJECT_ROOT, Settings
from ..shapes import CHECK
from ..step_file import read_migration
from .connection import connected, require_credentials

VERIFY_FILE = PROJECT_ROOT / "db" / "verify_user_clusters.sql"


def doctor(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Look at everything that a migration needs; 1 if something is in the way."""
    migration = read_migration(options.file)
    require_credentials(settings)
    with connected(settings, console) as client:
        from ..doctor import examine

        checks = examine(client, settings, migration)
    return 0 if console.checks("What was found; nothing was changed", checks) else 1


def verify(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Run the checks of verify_user_clusters.sql; 1 if one fails."""
    require_credentials(settings)
    with connected(settings, console) as client:
        from ..deployment import check_deployed

        check_deployed(client)
        rows = client.rows(VERIFY_FILE.read_text(encoding="utf-8"), CHECK)
    checks = [Check(row["check"], row["passed"], row.get("detail")) for row in rows]
    return 0 if console.checks("Verification of user_clusters and prompt_refinements", checks) else 1
