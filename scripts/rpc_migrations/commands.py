"""What each command does, one function a command. Each returns an exit code or raises MigrationError."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from . import output_files
from .console import Console
from .errors import AccessRefused, MigrationError, NotDeployed, NotSupabase, SettingsError, Unreachable
from .journal import read_status
from .report import Check
from .settings import PROJECT_ROOT, Settings
from .step_file import Migration, read_migration

if TYPE_CHECKING:
    from .client import RpcClient

VERIFY_FILE = PROJECT_ROOT / "db" / "verify_user_clusters.sql"
ROLLBACK_FILE = PROJECT_ROOT / "db" / "rollback.sql"
ROLLBACK_DISCARDING_FILE = PROJECT_ROOT / "db" / "rollback_discarding_changes.sql"


def deploy(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Deploy execute_sql; without credentials, or where nobody lets us in, write the file."""
    if not settings.has_credentials:
        _say_written(console, settings, output_files.write_deployment())
        return 0
    with _file_as_way_out(console, settings, output_files.write_deployment), _connected(settings, console) as client:
        from .ways_in import deploy as deploy_by_first_open_way

        deploy_by_first_open_way(client, settings, console, options.via)
    return 0


def migrate(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Run a step file, take it back, or tell about it, as the options say."""
    migration = read_migration(options.file)
    rollback = read_migration(
        ROLLBACK_DISCARDING_FILE if options.discard_changes else ROLLBACK_FILE, name=migration.name
    )
    plan = rollback if options.rollback else migration

    def write() -> Path:
        return output_files.write_migration(plan, prefix="rollback_" if options.rollback else "", online=options.online)

    if options.dry_run:
        return _dry_run(plan, "roll back" if options.rollback else "migrate", settings, console)
    if options.write_sql or not (settings.has_credentials or options.status):
        _say_written(console, settings, write(), is_wanted=options.write_sql)
        return 0
    if options.status:
        return _status(migration, settings, console)
    with _file_as_way_out(console, settings, write), _connected(settings, console) as client:
        from . import runner

        if options.rollback:
            runner.roll_back(client, migration, rollback, settings, console)
        else:
            runner.migrate(client, migration, settings, console)
    return 0


def verify(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Run the checks of verify_user_clusters.sql; 1 if one fails."""
    _require_credentials(settings)
    with _connected(settings, console) as client:
        from .deployment import check_deployed

        check_deployed(client)
        rows = client.rows(VERIFY_FILE.read_text(encoding="utf-8"))
    checks = [Check(row["check"], row["passed"], row["detail"]) for row in rows]
    return 0 if console.checks("Verification of user_clusters and prompt_refinements", checks) else 1


def doctor(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Look at everything that the migration of user_clusters needs; 1 if something is in the way."""
    _require_credentials(settings)
    with _connected(settings, console) as client:
        from .doctor import examine

        checks = examine(client, settings, read_migration(options.file))
    return 0 if console.checks("What was found; nothing was changed", checks) else 1


def remove(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Take execute_sql away, and the private schema with it unless the journal is to be kept."""

    def write() -> Path:
        return output_files.write_removal(keep_journal=options.keep_journal)

    if not settings.has_credentials:
        _say_written(console, settings, write())
        return 0
    with _file_as_way_out(console, settings, write), _connected(settings, console) as client:
        from .deployment import deployed_version

        try:
            deployed_version(client)
            client.query(output_files.removal_sql(keep_journal=options.keep_journal))
        except NotDeployed as reason:
            if reason.code != "PGRST202":  # it is there, and somebody else's
                raise
            console.nothing_to_do("execute_sql is not there. Should the schema rpc_migrations be, this removes it:")
            _say_written(console, settings, write(), is_wanted=True)
            return 0
    console.say(
        "execute_sql was taken away."
        + (" The journal is kept." if options.keep_journal else " The journal and the private schema went with it.")
    )
    return 0


@contextmanager
def _connected(settings: Settings, console: Console) -> Iterator[RpcClient]:
    """A client for the settings, closed at the end; says with which key, and to where."""
    assert settings.key is not None
    console.say(f"Project: {settings.url}, with the {settings.key.describe()}")
    from .client import RpcClient

    client = RpcClient(settings, console.retrying)
    try:
        yield client
    finally:
        console.report.requests = client.requests
        console.report.longest_request = client.longest_request
        client.close()


@contextmanager
def _file_as_way_out(console: Console, settings: Settings, write: Callable[[], Path]) -> Iterator[None]:
    """Where execute_sql cannot be reached, write the SQL file before giving up."""
    try:
        yield
    except (AccessRefused, NotDeployed, NotSupabase, Unreachable):
        try:
            _say_written(console, settings, write())
        except MigrationError as error:  # must not hide why the file was wanted
            console.warn(error.message)
        raise


def _say_written(console: Console, settings: Settings, path: Path, *, is_wanted: bool = False) -> None:
    """Say which file was written, and what to do with it."""
    if not settings.has_credentials and not is_wanted:
        console.say(f"No credentials: {settings.missing()}.")
    console.say(f"Written: {path.relative_to(PROJECT_ROOT)}")
    console.report.files.append(str(path.relative_to(PROJECT_ROOT)))
    if path.name.endswith("_online_output.sql"):
        console.say(f'Run it over a direct connection: psql "$DATABASE_URL" -f {path.relative_to(PROJECT_ROOT)}')
    else:
        console.say(f"Open the SQL Editor ({settings.sql_editor_url}), paste the whole file, and run it.")
    if path not in (output_files.DEPLOY_FILE, output_files.DROP_FILE):
        console.say(
            "It needs execute_sql: run db/create_execute_sql_function_output.sql (python scripts/deploy_sql_function.py) before it."
        )


def _require_credentials(settings: Settings) -> None:
    if not settings.has_credentials:
        raise SettingsError(f"{settings.missing()}.", hint="Set it in the environment or in .env (see .env.example).")


def _dry_run(plan: Migration, action: str, settings: Settings, console: Console) -> int:
    """Print the plan; ask the database where it stands if we can."""
    done: set[str] | None = None
    if settings.has_credentials:
        with _connected(settings, console) as client:
            from .doctor import size_warning

            try:
                status = read_status(client, plan)
                done = {step.name for step in plan.steps if status.is_done(step)}
                if warning := size_warning(client, plan):
                    console.warn(warning)
            except NotDeployed as reason:
                console.warn(f"{reason.message} {reason.hint or ''}".strip())
    else:
        console.say(f"No credentials: {settings.missing()}. So this does not tell what has been done before.")
    console.plan(plan, action, done)
    return 0


def _status(migration: Migration, settings: Settings, console: Console) -> int:
    """Print where a migration stands."""
    _require_credentials(settings)
    with _connected(settings, console) as client:
        console.status(migration, read_status(client, migration))
    return 0
