"""What all tests share: a database server for each worker, and for each test a database and a Supabase of its
own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a shell without job control, as CI may do, we would hand that down to every script
    # under test, and none of them could be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)

sys.path[:0] = [str(TESTS), str(ROOT / "scripts")]

import projects
from local_supabase import Cluster, Database, LocalSupabase
from local_supabase.programs import find_programs, version_of
from rpc_migrations.settings import ANON_KEY_VARIABLES, SERVICE_KEY_VARIABLES

if TYPE_CHECKING:
    from bench import Bench
    from checkout import Checkout
    from migration_folder import Project

Scripts = Callable[..., subprocess.CompletedProcess[str]]


def pytest_report_header() -> str:
    """What the tests run on."""
    programs = find_programs()
    rest_layer = os.environ.get("POSTGREST", "the stand-in for PostgREST")
    return f"PostgreSQL {version_of(programs)} ({programs}), {rest_layer}"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running PostgreSQL server; with xdist, one for each worker."""
    with Cluster() as running:
        yield running


@pytest.fixture(scope="session")
def keeper(cluster: Cluster) -> None:
    """A role `keeper`, of which postgres is a member and that may own tables."""
    with cluster.connect() as connection:
        connection.execute("create role keeper; grant keeper to postgres")


@pytest.fixture
def default_grants() -> str:
    """Which default privileges the test's database has: override it, or `parametrize` it, with "none"."""
    return "all"


# The versions that a test of what depends on them is run with. A real one is the one that it is.
POSTGREST_VERSIONS = ("16",) if "POSTGREST" in os.environ else ("16", "14")


@pytest.fixture
def postgrest() -> str:
    """Which PostgREST the test's Supabase has: override it, or `parametrize` it, with "14"."""
    return "16"


@pytest.fixture
def database(cluster: Cluster, default_grants: Any) -> Iterator[Database]:
    """A fresh database."""
    fresh = cluster.create_database(default_grants=default_grants)
    yield fresh
    if cluster.start().running:
        fresh.drop()


@pytest.fixture
def supabase(database: Database, postgrest: str) -> Iterator[LocalSupabase]:
    """A Supabase over the fresh database."""
    with LocalSupabase(database, postgrest=postgrest) as running:
        yield running


@pytest.fixture
def running(cluster: Cluster) -> Iterator[LocalSupabase]:
    """A Supabase with an old table of 20 rows and execute_sql."""
    with projects.project(cluster) as supabase:
        yield supabase


@pytest.fixture
def admin(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the fresh database as the role postgres, in autocommit mode."""
    with database.connect() as connection:
        yield connection


@pytest.fixture
def things(admin: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A connection to a database with the functions and a small table."""
    from step_runner import deploy

    deploy(admin)
    admin.execute(
        "create table public.things (id bigint primary key, name text, amount integer); "
        "insert into public.things values (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)"
    )
    return admin


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A copy of the project, for tests that write files or change some."""
    from checkout import Checkout

    return Checkout(tmp_path / "project")


@pytest.fixture
def bench(database: Database, supabase: LocalSupabase, tmp_path: Path) -> Iterator[Bench]:
    """A migration file to run, in a database with execute_sql, through a proxy."""
    from bench import Bench

    deploy_to(supabase)
    with Bench(database, supabase, tmp_path) as made:
        yield made


@pytest.fixture
def project(database: Database, supabase: LocalSupabase, tmp_path: Path) -> Project:
    """A folder for migration files, and a Supabase with execute_sql."""
    from migration_folder import Project

    deploy_to(supabase)
    return Project(supabase, database, tmp_path)


def deploy_to(supabase: LocalSupabase) -> None:
    """Make execute_sql, and wait until the REST layer knows of it: it learns that a moment later. (The anon key's call leaves no trace.)"""
    from rest_calls import rpc, wait_until

    with supabase.database.connect() as connection:
        projects.deploy(connection)
    assert wait_until(lambda: rpc(supabase, "execute_sql", supabase.anon_key, query="").status_code != 404)


@pytest.fixture
def scripts() -> Scripts:
    """`scripts("migrate_clusters.py", "--dry-run", env={…})` runs a script as a user would; returns what came
    of it.

    Its environment has no SUPABASE_ variables but those given, and `env` values of None take a variable away.
    It runs at the project's root unless `cwd` is given; `timeout` is in seconds.
    """
    return run_script


def run_script(
    name: str,
    *arguments: str,
    env: dict[str, str | None] | None = None,
    cwd: Path = ROOT,
    timeout: float = 120,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """See the fixture `scripts`."""
    command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
    return subprocess.run(
        command,
        env=script_environment(env),
        cwd=cwd,
        timeout=timeout,
        check=False,
        capture_output=True,
        text=True,
        **options,
    )


def script_environment(changes: dict[str, str | None] | None = None) -> dict[str, str]:
    """The environment that a script under test gets: ours with every SUPABASE_ variable empty, and the given
    changes. Empty, not absent: so nothing is ever taken from a .env with somebody's real project in it.
    """
    kept: dict[str, str | None] = {
        name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "PG", "NO_COLOR"))
    }
    hidden = dict.fromkeys(
        SERVICE_KEY_VARIABLES + ANON_KEY_VARIABLES + ("SUPABASE_URL", "SUPABASE_ACCESS_TOKEN", "CI", "MIGRATION_YES"),
        "",
    )
    kept |= {"PYTHONUNBUFFERED": "1", "VIRTUAL_ENV": sys.prefix, **hidden, **(changes or {})}
    return {name: value for name, value in kept.items() if value is not None}
