"""Commands on one migration file: run it, roll it back, finish it, or report on it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import output_files
from ..access import read_calls
from ..console import Console
from ..errors import MigrationError, NotDeployed, NothingToDo, StepFileError
from ..file_checks import check
from ..file_names import name_of
from ..finishing import close_way_back, finishing_of, refuse_unfinished, what_is_dropped, with_checks
from ..journal import Status, read_status
from ..migration import Migration
from ..places import DEPLOY_COMMAND, PROJECT_ROOT
from ..settings import Settings
from ..step_file import read_migration, read_migrations
from .checks import TITLE, checks_of, run_checks
from .connection import connected, file_as_way_out, require_credentials, write_instead
from .execute_sql import send_removal
from .question import before_finishing, before_migrating, before_rolling_back, warn_of_missing
from .stops import check_stops, up_to

if TYPE_CHECKING:
    from ..client import RpcClient

ROLLBACK_FILE = PROJECT_ROOT / "db" / "rollback.sql"
GIVING_UP_FILE = PROJECT_ROOT / "db" / "rollback_giving_up.sql"
ROLLBACK_DISCARDING_FILE = PROJECT_ROOT / "db" / "rollback_discarding_changes.sql"


def run(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Run what is left of a migration; without credentials, or if execute_sql cannot be reached, write the file."""
    if not settings.has_credentials:
        return write(options, settings, console)
    migrations = read_migrations(options.file)
    _check(options, migrations)
    with write_as_way_out(options, settings, console), connected(settings, console) as client:
        from .. import runner

        statuses = {one.name: read_status(client, one) for one in migrations} if len(migrations) > 1 else {}
        *others, last = up_to(migrations, options.until, before_swap=options.stop_before_swap, statuses=statuses)
        left = [*(one for one in others if _has_work(one, statuses[one.name])), last]

        def warn(status: Status) -> None:
            warn_of_missing(status, console)

        def ask(status: Status) -> None:
            if not before_migrating(client, left, settings, console):
                warn(status)

        for place, migration in enumerate(left):
            runner.migrate(client, migration, settings, console, warn if place else ask)
        remove_when_done(options, client, console)
    return 0


def _has_work(migration: Migration, status: Status) -> bool:
    """Whether something of it is left to be done, or to be complained about."""
    return not status.has_done(migration) or bool(status.edited_steps(migration))


def roll_back(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Roll a migration back; without credentials, or if execute_sql cannot be reached, write the file."""
    if not settings.has_credentials:
        return write(options, settings, console)
    migrations = tuple(reversed(read_migrations(options.file)))
    rollbacks = _read_steps(options)
    with write_as_way_out(options, settings, console), connected(settings, console) as client:
        from .. import runner

        def before(status: Status, migration: Migration) -> None:
            _refuse_finished(migration, status)
            if not options.give_up:
                before_rolling_back(client, status, settings, console, discards=options.discard_changes)

        first, *others = migrations
        for migration in others:  # before anything is changed
            before(read_status(client, migration), migration)
        for migration, rollback in zip(migrations, rollbacks, strict=True):
            ask = (lambda status: before(status, first)) if migration is first else (lambda _: None)
            runner.roll_back(client, migration, rollback, settings, console, ask, giving_up=options.give_up)
        remove_when_done(options, client, console)
    return 0


def _refuse_finished(migration: Migration, status: Status) -> None:
    if status.finished_at:
        raise MigrationError(
            f"The way back of {migration.name} was closed on {status.finished_at}.",
            hint="Nothing was changed. The original table was dropped then. To undo the migration, write another one.",
        )


def finish(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Close the way back of a migration; without credentials, or if execute_sql cannot be reached, write the file."""
    if not settings.has_credentials:
        return write(options, settings, console)
    migrations, finishings = read_migrations(options.file), _read_steps(options)
    with write_as_way_out(options, settings, console), connected(settings, console) as client:
        for migration in migrations[1:]:  # before anything is dropped; close_way_back does it for the first one
            with suppress(NothingToDo):
                what_is_dropped(client, migration)
            refuse_unfinished(read_status(client, migration), migration)
        for migration, finishing in zip(migrations, finishings, strict=True):

            def before(dropped: list[str], migration: Migration = migration) -> None:
                _verify(client, options.file, console)
                before_finishing(migration, dropped, settings, console)

            close_way_back(client, migration, finishing, settings, console, before)
        remove_when_done(options, client, console)
    return 0


def _verify(client: RpcClient, file: Path, console: Console) -> None:
    """Run the checks of a migration file, if it has any. Raises MigrationError if one fails."""
    if (checks_file := checks_of(file)) is None:
        return
    checks = run_checks(client, checks_file)
    if failed := [check.check for check in checks if not check.passed]:
        console.checks(TITLE, checks)
        raise MigrationError(
            f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}.",
            hint="Nothing was changed. Fix what is named, or roll the migration back.",
        )
    console.say(f"Verified: {len(checks)} checks passed.")


def plan(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Print each step and its SQL, and run nothing; with credentials, also whether it is done."""
    migrations = _read_steps(options)
    done: list[set[str] | None] = [None] * len(migrations)
    if settings.has_credentials:
        with connected(settings, console) as client:
            from ..rebuilt_table import size_warning

            try:
                for place, migration in enumerate(migrations):
                    status = read_status(client, migration)
                    done[place] = {step.name for step in migration.steps if status.is_done(step)}
                    if warning := size_warning(client, migration):
                        console.warn(warning)
            except NotDeployed as reason:
                console.warn(reason.in_a_line)
    else:
        console.say(f"No credentials: {settings.missing()}. So this does not tell what has been done before.")
    action = "finish" if options.finish else "roll back" if options.rollback else "migrate"
    for migration, steps_done in zip(migrations, done, strict=True):
        console.plan(migration, action, steps_done)
    return 0


def write(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Write the SQL file and run nothing."""
    return write_instead(console, settings, lambda: _write(options), is_wanted=options.write_sql, online=options.online)


def status(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Print what the journal says of a migration."""
    migrations = read_migrations(options.file)
    require_credentials(settings)
    with connected(settings, console) as client:
        for migration in migrations:
            is_last = migration is migrations[-1]
            calls = read_calls(client) if options.verbose and is_last else None
            console.status(migration, read_status(client, migration), calls)
    return 0


def remove_when_done(options: argparse.Namespace, client: RpcClient, console: Console) -> None:
    """Remove execute_sql if the options ask for it, and keep the journal."""
    if options.remove_when_done:
        send_removal(client, keep_journal=True)
        later = "To verify" if options.finish else "To verify or to roll back"
        console.say(f"execute_sql was removed; the journal is kept. {later}: {DEPLOY_COMMAND} --for 1h")


def _read_steps(options: argparse.Namespace) -> tuple[Migration, ...]:
    """The steps that the options ask for, for each migration of the file, in the order in which they run: its own; those of its
    rollback, with the last migration first; or those that close its way back. Raises StepFileError where they cannot run.
    """
    migrations = read_migrations(options.file)
    if options.finish:
        return tuple(finishing_of(migration) for migration in migrations)
    if options.rollback:
        return tuple(_rollback_of(options, migration) for migration in reversed(migrations))
    _check(options, migrations)
    return up_to(migrations, options.until, before_swap=options.stop_before_swap)


def _rollback_of(options: argparse.Namespace, migration: Migration) -> Migration:
    if migration.rollback:
        if options.discard_changes or options.give_up:
            raise StepFileError(
                f"{migration.file} has its own way back, which says itself what becomes of the data.",
                hint=f"Leave {'--give-up' if options.give_up else '--discard-changes'} out.",
            )
        rollback = replace(migration, steps=migration.rollback)
        check([rollback])
        return rollback
    file = ROLLBACK_DISCARDING_FILE if options.discard_changes else ROLLBACK_FILE
    rollback = read_migration(GIVING_UP_FILE if options.give_up else file, name=migration.name)
    return rollback if options.give_up else replace(rollback, steps=migration.end_of(rollback.steps))


def _check(options: argparse.Namespace, migrations: Sequence[Migration]) -> None:
    """Raise StepFileError if the steps cannot run as they are, or the options name one that does not exist."""
    check(migrations)
    check_stops(migrations, options.until, before_swap=options.stop_before_swap)


def _write(options: argparse.Namespace) -> Path:
    prefix = "finish_" if options.finish else "rollback_" if options.rollback else ""
    if options.give_up:
        prefix = "give_up_rollback_"
    migrations = _read_steps(options)
    if options.finish and (checks := checks_of(options.file)):
        migrations = tuple(with_checks(migration, checks) for migration in migrations)
    return output_files.write_migration(name_of(options.file), migrations, prefix=prefix, online=options.online)


def write_as_way_out(options: argparse.Namespace, settings: Settings, console: Console) -> AbstractContextManager[None]:
    """A context in which, if execute_sql cannot be reached, the SQL file is written before giving up."""
    return file_as_way_out(console, settings, lambda: _write(options), online=options.online)
