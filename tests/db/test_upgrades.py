"""Deployment over every earlier version: the same schema as a fresh one, and whatever was under way goes on.

`earlier_versions/` holds, by commit, what was deployed and the migration of user_clusters as it was then; b602f0d is what the
first release deployed. The rollback's steps were the same in all of them.
"""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from checkout import Checkout, said
from local_supabase import Cluster, Database, LocalSupabase, create_old_table
from rpc_migrations.deployment import deployment_sql
from rpc_migrations.output_files import migration_sql
from rpc_migrations.step_file import read_migration, read_migrations
from schema_dump import dump_schema
from step_runner import DB, MIGRATION, Connection, calls, deploy, read, run, wait_until_it_waits

EARLIER = Path(__file__).parent / "earlier_versions"
pytestmark = pytest.mark.slow
COMMITS = ["470665e", "5d3ea28", "443204e", "06ae0c0", "2530d74", "f59b19f", "9f03c9b", "b602f0d"]
NAME = "migrate_user_clusters"
NUMBER = re.compile(r"this_version constant integer := (\d+);")

_STEP = re.compile(r"^-- step: (?P<name>.*?)(?P<batch> \(batch\))?$", re.MULTILINE)

every_earlier_version = pytest.mark.parametrize("commit", COMMITS)


def deploy_earlier(connection: Connection, commit: str) -> None:
    """Deploy what the scripts of a commit deployed."""
    connection.execute((EARLIER / commit / "execute_sql.sql").read_text().encode())


def deploy_ours(connection: Connection) -> None:
    """Deploy what the scripts deploy now."""
    connection.execute(deployment_sql().encode())


@dataclass(frozen=True)
class Sent:
    """A step as execute_sql takes it, by the names of its arguments."""

    name: str
    arguments: dict[str, Any]


def as_sent_earlier(file: str) -> list[Sent]:
    """The steps of an earlier file, as the scripts of that time cut it and took its checksums."""
    text = (EARLIER / file).read_text()
    marks = list(_STEP.finditer(text))
    steps = []
    for mark, end in zip(marks, [mark.start() for mark in marks[1:]] + [len(text)], strict=True):
        sql = text[mark.end() : end].strip("\n") + "\n"
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        steps.append(Sent(mark["name"], {"query": sql, "checksum": checksum, "batch": mark["batch"] is not None}))
    return steps


def as_sent(file: str) -> list[Sent]:
    """The steps of a file of db/, as today's scripts send them."""
    return [
        Sent(
            step.name,
            {
                "query": step.query,
                "separator": step.separator,
                "checksum": " ".join(step.checksums),
                "batch": step.batch,
            },
        )
        for step in read_migration(DB / file, name=NAME).steps
    ]


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


def test_a_postgresql_that_is_too_old_is_named_before_anything_is_made(admin: Connection) -> None:
    with pytest.raises(psycopg.DatabaseError, match=r"this is PostgreSQL .*, and 15 is the oldest that is supported"):
        admin.execute(deployment_sql().replace("< 150000", "< 990000").encode())
    assert admin.execute("select to_regnamespace('rpc_migrations')").fetchone() == (None,)


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
        admin.execute(migration_sql(NAME, read_migrations(DB / f"{NAME}.sql")).encode())
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


def test_the_functions_of_a_newer_version_may_have_other_names(admin: Connection) -> None:
    """It is deployed by a call of ours, which then finds nothing of what it would call after the text."""
    deploy_ours(admin)
    called = set(re.findall(r"rpc_migrations\.(\w+)\(", one(admin, AT_WORK)))
    newer = re.sub(rf"\b({'|'.join(called)})\b", r"newer_\1", deployment_sql())
    one(admin, "select public.execute_sql(%s)", newer)
    assert "rpc_migrations.newer_check_open()" in one(admin, AT_WORK)


AT_WORK = """
select string_agg(p.prosrc, '') from pg_proc as p where p.proname ~ '^(execute_sql|(newer_)?run_(text|statements))$'
"""


def test_a_release_has_a_number_of_its_own() -> None:
    """What differs from what was released before must have a higher number, or neither would know which one is newer."""
    numbers = [
        int(found) for commit in COMMITS for found in NUMBER.findall((EARLIER / commit / "execute_sql.sql").read_text())
    ]
    assert int(NUMBER.findall(deployment_sql())[0]) > max(numbers, default=1)


# --- two at once, and in the middle of something


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


# --- in the middle of a migration


def test_a_deployment_in_the_middle_of_a_migration(admin: Connection) -> None:
    """After every step; the policies that the new table has by then call functions of Supabase's."""
    deploy(admin)
    create_old_table(admin, rows=20)
    for call in calls(admin, read(MIGRATION)):
        if call.answer["state"] == "done":
            deploy(admin)
    assert admin.execute("select count(*) from public.user_clusters").fetchone() == (20,)


def test_a_deployment_in_the_middle_makes_what_was_dropped(admin: Connection) -> None:
    """It asks the functions that are there how they describe the table."""
    deploy(admin)
    create_old_table(admin, rows=20)
    run(admin, read(MIGRATION), until="carry over constraints and indexes")
    admin.execute("drop function rpc_migrations.describe_triggers")
    deploy(admin)
    run(admin, read(MIGRATION))
    assert admin.execute("select count(*) from public.user_clusters").fetchone() == (20,)


def test_the_file_knows_the_earlier_texts_of_its_steps() -> None:
    """Where a text has changed and its effect has not. One with another effect is another step, with another name."""
    ours = {step.name: step.checksums for step in read_migration(DB / f"{NAME}.sql").steps}
    missing = {
        f"below {step.name}: -- formerly: {step.arguments['checksum']}"
        for commit in COMMITS
        for step in as_sent_earlier(f"{commit}/{NAME}.sql")
        if step.name in ours and step.arguments["checksum"] not in ours[step.name]
    }
    assert missing == set()


# Steps of earlier files that today's has not.
GONE = {"validate the foreign key", "validate foreign keys of other tables"}
BEGUN, ALL_COPIED, SWAPPED = "begin the copy", "carry over constraints and indexes", "swap the tables"
CHANGES = """
insert into public.user_clusters (user_id, cluster_type) select u.id, 'late' from auth.users as u limit 1;
update public.user_clusters set cluster_type = 'changed' where id in (select c.id from public.user_clusters as c order by c.id limit 5);
delete from public.user_clusters where id in (select c.id from public.user_clusters as c order by c.id desc limit 3);
"""
CONTENT = """
select c.id::text, c.user_id::text, c.cluster_type, c.cluster_score, c.created_at::text from public.user_clusters as c order by c.id
"""


def run_through(connection: Connection, steps: list[Sent], until: str = "") -> list[str]:
    """Send steps as the runner does, to the end or up to and with one; return those that were done before."""
    done_before = []
    for step in steps:
        arguments = {"migration": NAME, "step": step.name} | step.arguments
        call = f"select public.execute_sql({', '.join(f'{name} => %s' for name in arguments)})"
        for _ in range(100):
            answer = one(connection, call, *arguments.values())
            if answer["state"] == "done":
                break
        else:
            raise AssertionError(answer)
        if answer["already"]:
            done_before.append(step.name)
        if step.name == until:
            return done_before
    assert not until, f"there is no step {until}"
    return done_before


def one(connection: Connection, sql: str, *values: object) -> Any:
    """The one value that a query answers."""
    row = connection.execute(sql.encode(), values or None).fetchone()
    assert row is not None
    return row[0]


def forget_options(database: Database) -> None:
    """Make the table one that PostgreSQL made before November 2026: earlier versions refuse the options that it keeps since then."""
    with database.connect("supabase_admin") as superuser:
        for (name,) in superuser.execute("select evtname from pg_event_trigger where evtname ~ 'pg_attver'").fetchall():
            superuser.execute(f"alter event trigger {name} disable".encode())
        superuser.execute("update pg_attribute set attoptions = null where attrelid = 'public.user_clusters'::regclass")


def begin(database: Database, connection: Connection, commit: str, until: str = "") -> list[str]:
    """Run the migration of a commit on that commit's schema; return the definitions that the rollback is to bring back."""
    create_old_table(connection, 120, "extra")
    connection.execute("alter table public.user_clusters disable row level security")  # unlike the new one
    forget_options(database)
    before = definitions(database)
    deploy_earlier(connection, commit)
    run_through(connection, as_sent_earlier(f"{commit}/{NAME}.sql"), until)
    return before


def definitions(database: Database) -> list[str]:
    """All statements of a dump, the grants in no order: the first versions did not keep it."""
    return sorted("\n".join(sorted(statement.splitlines())) for statement in dump_schema(database))


@pytest.mark.parametrize("until", [BEGUN, ALL_COPIED, SWAPPED, ""])
@pytest.mark.parametrize("commit", COMMITS[1:])
def test_a_migration_goes_on_and_nothing_that_was_done_counts_as_edited(
    admin: Connection, database: Database, fresh_schema: list[str], commit: str, until: str
) -> None:
    """With today's file over the journal of an earlier one: to its end, and back again, without a row lost."""
    before = begin(database, admin, commit, until)
    done = [name for (name,) in admin.execute("select step from rpc_migrations.journal where finished_at is not null")]
    admin.execute(CHANGES)
    rows = admin.execute(CONTENT).fetchall()
    deploy_ours(admin)
    assert set(run_through(admin, as_sent(f"{NAME}.sql"))) >= set(done) - GONE
    assert admin.execute(CONTENT).fetchall() == rows
    checks = admin.execute((DB / "verify_user_clusters.sql").read_text().encode()).fetchall()
    assert [check for check in checks if not check[1]] == []
    run_through(admin, as_sent("rollback.sql"))
    assert admin.execute(CONTENT).fetchall() == rows
    assert definitions(database) == before
    assert private_schema(database) == fresh_schema


def test_where_a_step_had_another_name_the_way_is_told(
    checkout: Checkout, supabase: LocalSupabase, database: Database, admin: Connection
) -> None:
    """The first version's step for security; there is nothing left in the end that today's could be run on."""
    before = begin(database, admin, "470665e")
    deploy_ours(admin)
    done = checkout.run("migrate_clusters.py", env=supabase.environment())
    said(done, "which had steps that this one does not have: ", "define security, trigger and rights", code=1)
    assert "roll the migration back and run it again" in " ".join(done.stderr.split())
    said(checkout.run("rollback_clusters.py", env=supabase.environment()), "the original table is back")
    assert definitions(database) == before
    said(checkout.run("migrate_clusters.py", env=supabase.environment()))


def test_what_an_earlier_version_has_finished_is_done(
    checkout: Checkout, supabase: LocalSupabase, database: Database, admin: Connection
) -> None:
    """But for the last step, which has another name and finds nothing to do."""
    begin(database, admin, "b602f0d")
    deploy_ours(admin)
    said(checkout.run("migrate_clusters.py", env=supabase.environment()), "migrate_user_clusters is applied")
    said(checkout.run("migrate_clusters.py", env=supabase.environment()), "Nothing to do.")
    said(checkout.run("verify_clusters.py", env=supabase.environment()))


@pytest.mark.parametrize("until", ["create the new table", BEGUN, ALL_COPIED, SWAPPED, ""])
@every_earlier_version
def test_a_migration_is_rolled_back(
    admin: Connection, database: Database, fresh_schema: list[str], commit: str, until: str
) -> None:
    before = begin(database, admin, commit, until)
    admin.execute(CHANGES)
    rows = admin.execute(CONTENT).fetchall()
    deploy_ours(admin)
    run_through(admin, as_sent("rollback.sql"))
    assert admin.execute(CONTENT).fetchall() == rows
    assert definitions(database) == before
    assert private_schema(database) == fresh_schema
    run_through(admin, as_sent(f"{NAME}.sql"))
    assert admin.execute(CONTENT).fetchall() == rows


@pytest.mark.parametrize("until", ["begin", "find what changed since the swap"])
@every_earlier_version
def test_a_rollback_goes_on(
    admin: Connection, database: Database, fresh_schema: list[str], commit: str, until: str
) -> None:
    before = begin(database, admin, commit)
    admin.execute(CHANGES)
    forget_options(database)
    run_through(admin, as_sent_earlier("rollback.sql"), f"roll back: {until}")
    admin.execute(CHANGES)
    rows = admin.execute(CONTENT).fetchall()
    deploy_ours(admin)
    run_through(admin, as_sent("rollback.sql"))
    assert admin.execute(CONTENT).fetchall() == rows
    assert definitions(database) == before
    assert private_schema(database) == fresh_schema
