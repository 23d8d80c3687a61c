"""What commands have in common: a connection, or the SQL file that is written without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .. import output_files
from ..console import Console
from ..errors import (
    AccessRefused,
    CredentialsMissing,
    MigrationError,
    NotDeployed,
    NotSupabase,
    SettingsError,
    Unreachable,
)
from ..places import DEPLOY_COMMAND, PROJECT_ROOT, PYTHON, as_argument, from_here
from ..settings import Settings, env_file

if TYPE_CHECKING:
    from ..client import RpcClient


@contextmanager
def connected(settings: Settings, console: Console) -> Iterator[RpcClient]:
    """A client for the settings, closed at the end. Says which project and key it uses."""
    assert settings.key is not None
    console.say(f"Project: {settings.url}, with the {settings.key.describe()}")
    client = _client(settings, console)
    try:
        yield client
    finally:
        console.report.requests = client.requests
        console.report.longest_request = client.longest_request
        client.close()


def _client(settings: Settings, console: Console) -> RpcClient:
    """A client. Raises SettingsError if the package supabase is missing, or a release that cannot be used."""
    # Without --upgrade, pip leaves a release alone that is recent enough; some have been withdrawn, and fit no others.
    install = f"Run: {PYTHON} -m pip install --upgrade -r {as_argument(from_here(PROJECT_ROOT / 'requirements.txt'))}"
    try:
        from ..client import RpcClient

        return RpcClient(settings, console.retrying)
    except ModuleNotFoundError as missing:
        raise SettingsError(f"The Python package {missing.name} is not installed.", hint=install) from missing
    except (ImportError, TypeError) as error:
        raise SettingsError(
            f"This release of the Python package supabase cannot be used: {error}.", hint=install
        ) from error


@contextmanager
def file_as_way_out(
    console: Console, settings: Settings, write: Callable[[], Path], *, online: bool = False
) -> Iterator[None]:
    """If execute_sql turns out to be out of reach, say why, write the SQL file as the way out, and raise all the same."""
    try:
        yield
    except (AccessRefused, CredentialsMissing, NotDeployed, NotSupabase, Unreachable) as reason:
        console.error(reason)
        try:
            say_written(console, settings, write(), online=online)
        except MigrationError as error:  # must not hide why the file was wanted
            console.warn(error.message)
        raise


def write_instead(
    console: Console, settings: Settings, write: Callable[[], Path], *, is_wanted: bool = False, online: bool = False
) -> int:
    """Write the SQL file, because it is wanted or for want of credentials; return the exit code 0.

    Raises CredentialsMissing, after writing it, if credentials seem to be intended: a pipeline whose secrets are empty must
    not look as if it had migrated.
    """
    if is_wanted or not settings.are_credentials_meant:
        if not is_wanted:
            console.say(f"No credentials: {settings.missing()}.")
        say_written(console, settings, write(), online=online)
        console.report.outcome = "written"
        return 0
    with file_as_way_out(console, settings, write, online=online):
        raise _missing(settings)


def say_written(console: Console, settings: Settings, path: Path, *, online: bool = False) -> None:
    """Say which file was written, and what to do with it; `online`: it is for psql."""
    written = from_here(path)
    console.say(f"Written: {written}")
    console.report.files.append(written)
    if online:
        console.say(f'Run it over a direct connection: psql "$DATABASE_URL" -f {as_argument(written)}')
    else:
        link = f" ({settings.sql_editor_url})" if settings.sql_editor_url else ""
        console.say(f"Open the SQL Editor{link}, paste the whole file, and run it. It ends with an answer of one line.")
    if path not in (output_files.DEPLOY_FILE, output_files.DROP_FILE):
        console.say(f"It needs execute_sql: run {from_here(output_files.DEPLOY_FILE)} ({DEPLOY_COMMAND}) before it.")


def require_credentials(settings: Settings) -> None:
    """Raise SettingsError where there are no credentials."""
    if not settings.has_credentials:
        raise _missing(settings)


def _missing(settings: Settings) -> CredentialsMissing:
    return CredentialsMissing(
        f"{settings.missing()}.",
        hint=f"Set what is missing in the environment or in {env_file()} (see .env.example), then run the same command again.",
    )
