"""Deployment over every earlier version: the same schema as a fresh one, and whatever was under way goes on.

`earlier_versions/` holds, by commit, what was deployed and the migration of user_clusters as it was then; b602f0d is what the
first release deployed.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from checkout import Checkout, said
from local_supabase import Cluster, Database, LocalSupabase
from rpc_migrations.deployment import deployment_sql
from rpc_migrations.output_files import migration_sql
from rpc_migrations.step_file import Migration, read_migration
from step_runner import DB, Connection

EARLIER = Path(__file__).parent / "earlier_versions"
COMMITS = ["470665e", "5d3ea28", "443204e", "06ae0c0", "2530d74", "f59b19f", "9f03c9b", "b602f0d"]
NAME = "migrate_user_clusters"
NUMBER = re.compile(r"this_version constant integer := (\d+);")

every_earlier_version = pytest.mark.parametrize("commit", COMMITS)


def deploy_earlier(connection: Connection, commit: str) -> None:
    """Deploy what the scripts of a commit deployed."""
    connection.execute((EARLIER / commit / "execute_sql.sql").read_text().encode())


def deploy_ours(connection: Connection) -> None:
    """Deploy what the scripts deploy now."""
    connection.execute(deployment_sql().encode())


def earlier_migration(commit: str) -> Migration:
    """The migration of user_clusters of a commit."""
    return read_migration(EARLIER / commit / f"{NAME}.sql")


def private_schema(database: Database) -> list[str]:
    """All that pg_dump writes of the private schema and of execute_sql, line by line, but for what belongs to a copy."""
    text = database.dump_schema("--schema=rpc_migrations")
    with database.connect("supabase_admin") as connection:
        text += str(connection.execute(EXECUTE_SQL).fetchall())
    return text.splitlines()


EXECUTE_SQL = """
select pg_get_functiondef(p.oid), p.proacl::text, p.proowner::regrole::text, obj_description(p.oid, 'pg_proc')
from pg_proc as p where p.proname = 'execute_sql'
"""


@pytest.fixture(scope="module")
def fresh_schema(cluster: Cluster) -> list[str]:
    """The private schema as a first deployment makes it."""
    database = cluster.create_database()
    with database.connect() as connection:
        deploy_ours(connection)
    schema = private_schema(database)
    database.drop()
    return schema


@every_earlier_version
def test_the_schema_is_the_same_as_a_fresh_one(
    admin: Connection, database: Database, fresh_schema: list[str], commit: str
) -> None:
    deploy_earlier(admin, commit)
    assert private_schema(database) != fresh_schema
    deploy_ours(admin)
    assert private_schema(database) == fresh_schema
    deploy_ours(admin)
    assert private_schema(database) == fresh_schema


# --- the order of versions


@every_earlier_version
def test_an_older_version_is_not_deployed_over_a_newer_one(
    admin: Connection, database: Database, fresh_schema: list[str], commit: str
) -> None:
    """Not even by a pasted file that knows of no order, nor where execute_sql was taken away and the journal kept."""
    deploy_ours(admin)
    with pytest.raises(psycopg.errors.WrongObjectType, match="a_newer_version_is_deployed_update_the_scripts"):
        deploy_earlier(admin, commit)
    assert private_schema(database) == fresh_schema
    admin.execute((DB / "drop_execute_sql_function.sql").read_text().encode())
    with pytest.raises(psycopg.errors.WrongObjectType, match="a_newer_version_is_deployed_update_the_scripts"):
        deploy_earlier(admin, commit)


def make_newer(connection: Connection) -> str:
    """Deploy a version that is newer than ours by its number, and otherwise the same; return that text."""
    text = deployment_sql()
    number = NUMBER.findall(text)
    assert len(number) == 1
    newer = NUMBER.sub("this_version constant integer := 999999;", text)
    newer = newer.replace(f"is 'rpc_migrations {number[0]} ", "is 'rpc_migrations 999999 ")
    connection.execute(newer.encode())
    return newer


def test_our_version_is_not_deployed_over_a_newer_one(admin: Connection, database: Database) -> None:
    make_newer(admin)
    before = private_schema(database)
    with pytest.raises(
        psycopg.DatabaseError, match=r"a newer version is deployed \(999999\) than this one \(\d+\)"
    ) as error:
        deploy_ours(admin)
    assert "Update the scripts" in (error.value.diag.message_hint or "")
    assert private_schema(database) == before


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("deploy_sql_function.py", []), ("deploy_sql_function.py", ["--via", "meta"]), ("migrate_clusters.py", []), ("migrate_clusters.py", ["--status"]),
        ("rollback_clusters.py", []), ("verify_clusters.py", []), ("doctor.py", []), ("remove_sql_function.py", []),
    ],
)  # fmt: skip
def test_scripts_that_are_older_say_so(
    checkout: Checkout, supabase: LocalSupabase, admin: Connection, script: str, arguments: list[str]
) -> None:
    make_newer(admin)
    done = checkout.run(script, *arguments, env=supabase.environment())
    said(done, "A newer version of execute_sql is deployed than these scripts know.", "Update the scripts", code=1)
    assert "deploy_sql_function" not in done.stderr, "that would be the wrong way round"
    assert checkout.written() == set(), "a file would be as old as the scripts"


def test_a_migration_file_that_is_older_says_so(admin: Connection) -> None:
    make_newer(admin)
    with pytest.raises(psycopg.errors.RaiseException, match="a newer version of execute_sql is deployed") as error:
        admin.execute(migration_sql(read_migration(DB / f"{NAME}.sql")).encode())
    assert error.value.diag.message_hint == "Update the scripts, and write this file again."


@pytest.mark.parametrize("commit", ["470665e", "b602f0d"])
def test_scripts_that_are_newer_say_so(
    checkout: Checkout, supabase: LocalSupabase, admin: Connection, commit: str
) -> None:
    deploy_earlier(admin, commit)
    done = checkout.run("migrate_clusters.py", env=supabase.environment())
    said(done, "An older version of execute_sql is deployed", "python scripts/deploy_sql_function.py", code=1)
    done = checkout.run("deploy_sql_function.py", env=supabase.environment())
    said(done, "Brought up to date through execute_sql itself", "The REST layer knows the function")
    done = checkout.run("deploy_sql_function.py", env=supabase.environment())
    said(done, "Nothing to do")


def test_a_release_has_a_number_of_its_own() -> None:
    """What differs from what was released before must have a higher number, or neither would know which one is newer."""
    numbers = [
        int(found) for commit in COMMITS for found in NUMBER.findall((EARLIER / commit / "execute_sql.sql").read_text())
    ]
    assert int(NUMBER.findall(deployment_sql())[0]) > max(numbers, default=1)


# --- two at once, and in the middle of something


def wait_until_it_waits(database: Database, other: Connection) -> None:
    """Wait until a connection waits for a lock, or pauses before it tries again."""
    query = "select from pg_stat_activity where pid = %s and wait_event_type in ('Lock', 'Timeout')"
    deadline = time.monotonic() + 20
    with database.connect("supabase_admin") as observer:
        while not observer.execute(query, [other.info.backend_pid]).fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("before", [None, "470665e", "b602f0d"])
def test_two_deployments_at_once(
    admin: Connection, database: Database, fresh_schema: list[str], before: str | None
) -> None:
    """The second waits for the first, and both end well."""
    if before:
        deploy_earlier(admin, before)
    with database.connect() as other, ThreadPoolExecutor(1) as thread:
        with admin.transaction():
            deploy_ours(admin)
            second = thread.submit(deploy_ours, other)
            wait_until_it_waits(database, other)
        second.result()
    assert private_schema(database) == fresh_schema


def test_a_step_at_work_ends_first(admin: Connection, database: Database, fresh_schema: list[str]) -> None:
    """It notes at its end that its run is alive, in a table that the deployment would lock first: no deadlock."""
    deploy_earlier(admin, "b602f0d")
    with database.connect() as other, ThreadPoolExecutor(1) as thread:
        with admin.transaction():
            admin.execute("select * from rpc_migrations.journal")
            deployment = thread.submit(deploy_ours, other)
            wait_until_it_waits(database, other)
            admin.execute("update rpc_migrations.runs set last_seen_at = now() where migration = 'test'")
            assert not deployment.done()
        deployment.result()
    assert private_schema(database) == fresh_schema
