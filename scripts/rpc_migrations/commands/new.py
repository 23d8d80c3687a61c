"""A new migration file, to be edited."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime

from ..console import Console
from ..errors import MigrationError, SettingsError
from ..settings import Settings

TEMPLATE = """\
-- {name}
--
-- One transaction: all of it takes effect, or nothing. To have it commit in between, put a line `-- step: NAME` above each part.
-- Where a table is in use, each statement waits for its lock for 100 ms and is tried again.

-- create table public.example (id bigint generated always as identity primary key);

/* rollback:
-- What takes it back (run_migration.py FILE --rollback). For psql and the Supabase CLI this is a comment.
-- drop table public.example;
*/
"""


def new_migration(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Write an empty migration file, with the time in its name, as the Supabase CLI names them. Never replaces a file."""
    name = re.sub(r"[^a-z0-9]+", "_", options.name.lower()).strip("_")
    if not name:
        raise SettingsError(
            f"{options.name!r} needs a letter or a digit.", hint="Name what the migration does: add_order_status."
        )
    path = options.folder / f"{datetime.now(UTC):%Y%m%d%H%M%S}_{name}.sql"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=options.name.strip()))
    except OSError as error:
        raise MigrationError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="Check the folder's permissions, or name another one with --folder.",
        ) from error
    console.report.files.append(str(path))
    console.say(f"Written: {path}")
    console.say(f"Edit it, then: python scripts/run_migration.py {path}")
    return 0
