"""Closes the way back of a migration that rebuilt a table: its steps, what they drop, and a run of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .console import Console
from .errors import MigrationError, NothingToDo, SqlError
from .journal import Status, read_status
from .migration import FINISH_PREFIX, Migration, Step
from .places import PROJECT_ROOT
from .rebuilt_table import rows_in_words
from .settings import Settings
from .shapes import Maybe
from .sql import dollar_quote, quote_literal
from .step_file import read_migration

if TYPE_CHECKING:
    from .client import RpcClient

FINISH_FILE = PROJECT_ROOT / "db" / "finish.sql"

_DROPPED_QUERY = "select * from rpc_migrations.what_finishing_drops({migration})"
_DROPPED = {"relation": str, "is_original": bool, "rows": Maybe(int), "is_counted": bool, "size": str}


def finishing_of(migration: Migration) -> Migration:
    """The steps that close its way back. Raises MigrationError where it has none."""
    if not migration.rebuilds:
        raise MigrationError(
            f"{migration.file} makes no online copy of a table, so there is no way back to close.",
            hint="Nothing was changed. Name the file of a rebuild.",
        )
    return read_migration(FINISH_FILE, name=migration.name)


def with_checks(finishing: Migration, checks: Path) -> Migration:
    """The steps for a file that the user runs by hand: the first one makes the checks of the file `checks`, and fails if one does."""
    sql = f"select * from rpc_migrations.refuse_failed_checks({dollar_quote(checks.read_text(encoding='utf-8'))});\n"
    verify = Step(f"{FINISH_PREFIX}verify", sql, False, checks, 1, 1)
    return replace(finishing, steps=(verify, *finishing.steps))


def what_is_dropped(client: RpcClient, migration: Migration) -> list[str]:
    """What closing the way back drops, one line for each table. Raises NothingToDo if it is closed, MigrationError if it cannot be."""
    try:
        rows = client.rows(_DROPPED_QUERY.format(migration=quote_literal(migration.name)), _DROPPED)
    except SqlError as error:
        error.details = None  # a position in our query, of no use to a person
        raise
    return [
        f"{row['relation']}, {rows_in_words(row['rows'], counted=row['is_counted'])}, {row['size']} "
        + ("(the original table)" if row["is_original"] else "(kept by a rollback)")
        for row in rows
    ]


def refuse_unfinished(status: Status, migration: Migration) -> None:
    """Raise MigrationError if steps of the migration are left."""
    if left := [step.name for step in migration.steps if not status.is_done(step)]:
        raise MigrationError(
            f"{len(left)} of {len(migration.steps)} steps of {migration.name} are not done: {', '.join(left)}.",
            hint="Nothing was changed. Run the migration to its end first.",
        )


def close_way_back(
    client: RpcClient,
    migration: Migration,
    finishing: Migration,
    settings: Settings,
    console: Console,
    before: Callable[[list[str]], None],
) -> None:
    """Close the way back with the steps of `finishing`. Raises MigrationError where it has to stop.

    `before` is called with what will be dropped, before anything is done.
    """
    from .runner import Run  # imports supabase, which writing files does without

    status = read_status(client, migration)
    try:
        dropped = what_is_dropped(client, migration)
        refuse_unfinished(status, migration)
        before(dropped)
        Run(client, finishing, "finish", settings, console).carry_out(status)
    except NothingToDo as reason:
        console.nothing_to_do(reason.in_a_line)
