"""What is measured: ours over REST, and other tools with the guide's SQL, each as its user would start it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_supabase import Database, LocalSupabase
from local_supabase.programs import find_programs

from benchmarks.delay import delaying_proxy

ROOT = Path(__file__).resolve().parents[2]
GUIDE = Path(__file__).with_name("guide.sql")
_POLL = 0.02  # seconds between two looks at a process that runs
NO_CREDENTIALS = dict.fromkeys(("SUPABASE_URL", "SUPABASE_SERVICE_KEY", "SUPABASE_ANON_KEY"), "")
DELAY = 0.1  # seconds added to each request of the contender that is far away


@dataclass(frozen=True)
class Finished:
    """A command that has ended: seconds, the largest process in MB, and for ours the report of --json."""

    seconds: float
    memory: float
    report: dict[str, Any] = field(default_factory=dict)


# Makes ready what a contender needs and yields the migration proper, which alone is measured.
Prepare = Callable[[Database, Path], AbstractContextManager[Callable[[], Finished]]]


@dataclass(frozen=True)
class Contender:
    """A way to migrate. `program` is what has to be installed for it, None where it always is."""

    name: str
    title: str
    prepare: Prepare
    program: str | None = None
    server_program: str | None = None  # the same beside the server's own

    def why_not(self) -> str | None:
        """What is missing, or None."""
        if self.server_program is not None and not (find_programs() / self.server_program).exists():
            return f"{self.server_program} is not installed for this PostgreSQL (PG_BIN)"
        return None if self.program is None or find_program(self.program) else f"{self.program} is not installed"


def find_program(name: str) -> str | None:
    """A program of the PATH or of the virtual environment that we run in."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def script(name: str, *options: str) -> list[str]:
    """The command that starts a script of the project."""
    return [sys.executable, str(ROOT / "scripts" / name), *options]


def run_command(command: list[str], environment: dict[str, str], folder: Path = ROOT) -> Finished:
    """Run a command to its end. Raises RuntimeError with its output where it fails."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, text=True,
            env=os.environ | environment,
        )  # fmt: skip
        memory = 0.0
        while process.poll() is None:
            memory = max(memory, *map(_peak_memory, _family(process.pid)))
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)
        seconds = time.monotonic() - began
        output.seek(0), errors.seek(0)
        text = output.read()
        if process.returncode != 0:
            raise RuntimeError(f"{command} failed with {process.returncode}:\n{text[-2000:]}\n{errors.read()[-2000:]}")
    report = json.loads(text) if "--json" in command else {}
    return Finished(seconds, memory, report)


def _family(pid: int) -> list[int]:
    """A process and its descendants; a launcher may start the program proper."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in _family(int(child)))]


def _peak_memory(pid: int) -> float:
    """The most memory that a process has used so far, in MB; 0 where the system does not tell.

    What wait4 tells is of no use here: it includes what our own process used when it made the child.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


@contextmanager
def _ours(database: Database, folder: Path, delay: float = 0.0) -> Iterator[Callable[[], Finished]]:
    """A REST layer in a process of its own, with execute_sql deployed; each request `delay` seconds away."""
    with LocalSupabase(database, subprocess=True, safeupdate=False) as supabase:
        run_command(script("deploy_sql_function.py"), supabase.environment())
        with delaying_proxy(supabase.port, delay) if delay else nullcontext(supabase.url) as url:
            command = script("migrate_clusters.py", "--json")
            yield lambda: run_command(command, supabase.environment() | {"SUPABASE_URL": url})


def _ours_far_away(database: Database, folder: Path) -> AbstractContextManager[Callable[[], Finished]]:
    return _ours(database, folder, DELAY)


@contextmanager
def _ours_by_psql(database: Database, folder: Path) -> Iterator[Callable[[], Finished]]:
    """The files that are written for psql: execute_sql is deployed by one, and the other is what is measured."""
    run_command(script("deploy_sql_function.py"), NO_CREDENTIALS)
    run_command(script("migrate_clusters.py", "--write-sql", "--online"), NO_CREDENTIALS)
    run_command(psql(database, ROOT / "db" / "create_execute_sql_function_output.sql"), {})
    yield lambda: run_command(psql(database, ROOT / "db" / "migrate_user_clusters_online_output.sql"), {})


@contextmanager
def _ours_back(database: Database, folder: Path) -> Iterator[Callable[[], Finished]]:
    """The rollback of a migration that has been made before."""
    with _ours(database, folder) as migrate, LocalSupabase(database, subprocess=True, safeupdate=False) as supabase:
        migrate()
        yield lambda: run_command(script("rollback_clusters.py", "--json"), supabase.environment())


@contextmanager
def _pg_repack(database: Database, folder: Path) -> Iterator[Callable[[], Finished]]:
    """The same table rebuilt as it is, with no new column and no comparison, by a superuser over a direct connection."""
    with database.connect("supabase_admin") as connection:
        connection.execute("create extension pg_repack")
    where = [
        "--host",
        str(database.socket_directory),
        "--port",
        str(database.cluster.port),
        "--username",
        "supabase_admin",
    ]
    command = [
        str(database.cluster.programs / "pg_repack"),
        *where,
        "--dbname",
        database.name,
        "--table",
        "public.user_clusters",
    ]
    yield lambda: run_command(command, {})


def _with_guide(write: Callable[[Database, Path], tuple[list[str], dict[str, str]]]) -> Prepare:
    """A tool with the guide's SQL: `write` puts into the folder what the tool reads, and says how to start it."""

    @contextmanager
    def prepare(database: Database, folder: Path) -> Iterator[Callable[[], Finished]]:
        command, environment = write(database, folder)
        yield lambda: run_command(command, environment, folder)

    return prepare


def _with_psql(*options: str) -> Prepare:
    def write(database: Database, folder: Path) -> tuple[list[str], dict[str, str]]:
        return psql(database, GUIDE, *options), {}

    return _with_guide(write)


def psql(database: Database, file: Path, *options: str) -> list[str]:
    program = str(database.cluster.programs / "psql")
    command = [program, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", *options, "--file", str(file)]
    return [*command, "--dbname", database.dsn()]


def _url(database: Database, scheme: str = "postgres", options: str = "?sslmode=disable") -> str:
    return f"{scheme}://postgres@127.0.0.1:{database.cluster.port}/{database.name}{options}"


def _dbmate(database: Database, folder: Path) -> tuple[list[str], dict[str, str]]:
    (folder / "20260101000000_guide.sql").write_text(f"-- migrate:up\n{GUIDE.read_text()}\n-- migrate:down\n")
    command = [find_program("dbmate") or "dbmate", "--no-dump-schema", "--migrations-dir", str(folder)]
    return [*command, "--url", _url(database), "up"], {}


def _yoyo(database: Database, folder: Path) -> tuple[list[str], dict[str, str]]:
    shutil.copy(GUIDE, folder / "0001.guide.sql")
    command = [find_program("yoyo") or "yoyo", "apply", "--batch", "--no-config-file"]
    return [*command, "--database", _url(database, "postgresql+psycopg", ""), str(folder)], {}


def _supabase_cli(database: Database, folder: Path) -> tuple[list[str], dict[str, str]]:
    migrations = folder / "supabase" / "migrations"
    migrations.mkdir(parents=True)
    shutil.copy(GUIDE, migrations / "20260101000000_guide.sql")
    command = [find_program("supabase") or "supabase", "db", "push", "--yes", "--db-url", _url(database)]
    # Or it asks an address on the internet whether it may say that it was used.
    return command, {"DO_NOT_TRACK": "1", "SUPABASE_TELEMETRY_DISABLED": "1"}


CONTENDERS = (
    Contender("ours", "this project, over REST", _ours),
    Contender("ours-far", f"this project, {DELAY * 1000:.0f} ms further away", _ours_far_away),
    Contender("ours-psql", "this project, `psql -f` of the online file", _ours_by_psql),
    Contender("ours-back", "this project, the rollback", _ours_back),
    Contender("repack", "pg_repack, the table as it is", _pg_repack, server_program="pg_repack"),
    Contender("psql-1", "guide's SQL, `psql -1`", _with_psql("--single-transaction")),
    Contender("psql", "guide's SQL, `psql`, statement by statement", _with_psql()),
    Contender("dbmate", "guide's SQL, dbmate", _with_guide(_dbmate), "dbmate"),
    Contender("yoyo", "guide's SQL, yoyo-migrations", _with_guide(_yoyo), "yoyo"),
    Contender("supabase", "guide's SQL, `supabase db push`", _with_guide(_supabase_cli), "supabase"),
)
