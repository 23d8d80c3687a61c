"""What each command does and prints: migrating, telling about it, going back; and step files of the user's own."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from checkout import MIGRATION_FILE, Checkout, said
from conftest import ROOT, Scripts, script_environment
from local_supabase import Cluster, Database, LocalSupabase, create_old_table
from projects import FACTORS, columns, deploy, is_migrated, one, project, table_as_it_is
from rpc_migrations.step_file import read_migration
from terminal import ANSWERED

DEPLOY, MIGRATE, ROLLBACK, STATUS = "deploy_sql_function.py", "migrate_clusters.py", "rollback_clusters.py", "--status"
VERIFY, RUN = "verify_clusters.py", "run_migration.py"
BACKUP = "public.user_clusters_backup"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[LocalSupabase]:
    """A Supabase where execute_sql is deployed and the old table has 20 rows, for tests that leave it alone."""
    with project(cluster) as running:
        yield running


@pytest.fixture(scope="module")
def migrated(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSupabase]:
    """The same after the migration, for tests that leave it alone."""
    with project(cluster) as running:
        checkout = Checkout(tmp_path_factory.mktemp("checkout") / "project")
        said(checkout.run(MIGRATE, env=running.environment()), "is applied")
        yield running


def document(checkout: Checkout, *arguments: str, env: dict[str, str], code: int = 0) -> dict[str, Any]:
    """The one JSON document that a script with --json writes."""
    done = checkout.run(*arguments, "--json", env=env)
    assert done.returncode == code, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    assert report["exit_code"] == code
    assert report["command"] == arguments[0]
    return report


# --- the whole job


@pytest.mark.parametrize("default_grants", ["all", "none"])
def test_the_whole_job_and_back_and_again(
    checkout: Checkout, supabase: LocalSupabase, admin: psycopg.Connection[Any], default_grants: str
) -> None:
    create_old_table(admin, rows=1_234)
    env = supabase.environment()
    original = table_as_it_is(supabase.database)

    said(checkout.run(DEPLOY, env=env), "Deployed through postgres-meta")
    done = checkout.run(MIGRATE, env=env)
    said(
        done, "Migrating: migrate_user_clusters, 16 steps", " 1/16  check the old table", "copy the rows", "1,234 rows",
        "15/16  create prompt_refinements", "is applied: 16 steps, 1,234 rows", f"The original one is {BACKUP}", "To undo, keeping new writes: ",
    )  # fmt: skip
    assert done.stderr == ""
    assert is_migrated(admin)
    assert one(admin, "select count(*) from public.user_clusters") == 1_234
    assert table_as_it_is(supabase.database, BACKUP)[1] == original[1], "the backup is the original"
    said(checkout.run(VERIFY, env=env), "0 failed")

    after = table_as_it_is(supabase.database)
    done = checkout.run(MIGRATE, env=env)
    said(done, "Nothing to do. migrate_user_clusters is applied already: all 16 steps are done")
    assert table_as_it_is(supabase.database) == after

    # What was written since the migration is kept.
    admin.execute(
        "insert into public.user_clusters (user_id, cluster_type) select user_id, 'since' from public.user_clusters limit 1"
    )
    done = checkout.run(ROLLBACK, env=env)
    said(
        done,
        "Rolling back: migrate_user_clusters",
        "is rolled back",
        "The migrated one is kept as public.user_clusters_rolled_back_",
    )
    assert columns(admin, "public.user_clusters") == [
        c for c in columns(admin, "public.user_clusters") if c not in FACTORS
    ]
    assert one(admin, "select count(*) from public.user_clusters where cluster_type = 'since'") == 1
    assert columns(admin, BACKUP) == []
    assert table_as_it_is(supabase.database)[0] == original[0], "the definition is the original one again"
    said(checkout.run(ROLLBACK, env=env), "Nothing to do. migrate_user_clusters is not applied")

    said(checkout.run(MIGRATE, env=env), "is applied: 16 steps, 1,235 rows")
    assert is_migrated(admin)


def test_changes_are_discarded_only_when_asked_and_counted_first(checkout: Checkout, cluster: Cluster) -> None:
    with project(cluster) as running, running.database.connect() as connection:
        before = table_as_it_is(running.database)
        said(checkout.run(MIGRATE, env=running.environment()), "is applied")
        connection.execute(
            "delete from public.user_clusters where ctid in (select ctid from public.user_clusters limit 3)"
        )
        done = checkout.run(ROLLBACK, "--discard-changes", env=running.environment())
        said(done, "added, changed or deleted since the migration: 3 rows", "is rolled back")
        assert table_as_it_is(running.database) == before


def test_a_rollback_is_given_up(checkout: Checkout, cluster: Cluster) -> None:
    """One that cannot go on: the message names the option, and the migrated table is in use as before."""
    with project(cluster) as running, running.database.connect() as connection:
        env = running.environment()
        said(
            checkout.run(ROLLBACK, "--give-up", env=env),
            "Nothing to do. No rollback of migrate_user_clusters is under way",
        )
        said(checkout.run(MIGRATE, env=env), "is applied")
        before = table_as_it_is(running.database)
        said(
            checkout.run(ROLLBACK, "--give-up", env=env),
            "Nothing to do. No rollback of migrate_user_clusters is under way",
        )
        begin = read_migration(ROOT / "db" / "rollback.sql", name="migrate_user_clusters").steps[0]
        connection.execute(
            "select public.execute_sql(%s, 'migrate_user_clusters', %s, %s)",
            [begin.query, begin.name, begin.checksums[0]],
        )
        connection.execute("create view public.styles as select learning_style_factor from public.user_clusters")
        said(checkout.run(ROLLBACK, env=env), "view public.styles", "--give-up", code=1)
        said(checkout.run(MIGRATE, env=env), "A rollback of migrate_user_clusters is under way", "--give-up", code=1)
        done = checkout.run(ROLLBACK, "--give-up", env=env)
        said(done, "The rollback was given up: public.user_clusters is the migrated table, as before")
        assert "migrates again" not in done.stdout
        connection.execute("drop view public.styles")
        assert table_as_it_is(running.database) == before
        said(checkout.run(MIGRATE, env=env), "is applied already")
        said(checkout.run(VERIFY, env=env), "0 failed")
        said(checkout.run(ROLLBACK, env=env), "is rolled back")
        said(checkout.run(VERIFY, env=env), "It was rolled back at 20", code=1)
        told = checkout.run(MIGRATE, "--status", env=env).stdout
        kept = re.search(r"user_clusters: rolled back; the migrated one is kept as (public\.\w+)\n", told)
        assert kept, told
        connection.execute(f"drop table {kept[1]}".encode())
        said(checkout.run(MIGRATE, "--status", env=env), "rolled back; the migrated one was dropped or renamed")


def test_no_table_before(checkout: Checkout, cluster: Cluster) -> None:
    """It is said plainly, and nothing speaks of a backup or an original table that there is not."""
    with project(cluster, rows=None) as running:
        env = running.environment()
        no_table = "public.user_clusters is new: there was none before, so nothing was copied, and there is no backup"
        done = checkout.run(MIGRATE, env=env)
        said(
            done,
            no_table,
            "there is no table public.user_clusters: nothing to copy, and no backup",
            "this is the wrong project",
        )
        shown = checkout.run(MIGRATE, "--status", env=env)
        said(shown, "Table public.user_clusters: swapped; there was none before: no backup")
        verified = checkout.run(VERIFY, env=env)
        said(verified, "there was no public.user_clusters before the migration")
        back = checkout.run(ROLLBACK, env=env)
        said(
            back,
            "there was no table before; the migrated one is kept as",
            "is not there any more, as before the migration",
        )
        for output in (done.stdout, shown.stdout, back.stdout):
            assert "user_clusters_backup" not in output
            assert "original one" not in output
            assert "is the original" not in output


@pytest.mark.parametrize(
    ("variant", "rows"),
    [(None, 0), ("full", 0), ("minimal", 30), ("full", 30), ("extra", 30)],
    ids=["no table", "empty", "minimal", "full", "extra"],
)
@pytest.mark.parametrize("default_grants", ["none"])
def test_every_kind_of_old_table(
    checkout: Checkout,
    supabase: LocalSupabase,
    admin: psycopg.Connection[Any],
    variant: Any,
    rows: int,
    default_grants: str,
) -> None:
    deploy(admin)
    if variant:
        create_old_table(admin, rows=rows, variant=variant)
    old_columns = columns(admin, "public.user_clusters")
    said(checkout.run(MIGRATE, env=supabase.environment()), "is applied")
    assert is_migrated(admin)
    assert one(admin, "select count(*) from public.user_clusters") == rows
    assert set(old_columns) <= set(columns(admin, "public.user_clusters")), "nothing is lost"
    assert (columns(admin, BACKUP) == old_columns) if variant else (columns(admin, BACKUP) == [])
    if rows:
        shared_columns = ", ".join(f'"{name}"' for name in old_columns)
        both = f"select {shared_columns} from public.user_clusters except select {shared_columns} from {BACKUP}"
        assert one(admin, f"select count(*) from ({both}) as t") == 0
        assert (
            one(
                admin,
                "select count(*) from public.user_clusters where learning_style_factor <> '{}' or cluster_score is null",
            )
            == 0
        )
    said(checkout.run(VERIFY, env=supabase.environment()), "0 failed")


def test_a_migration_begun_is_gone_on_with_and_can_be_taken_back_before_the_swap(
    checkout: Checkout, cluster: Cluster
) -> None:
    swap = "-- step: swap the tables (batch)\n"
    file = checkout.root / "db/migrate_user_clusters.sql"
    whole = file.read_text()
    with project(cluster) as running, running.database.connect() as connection:
        before = table_as_it_is(running.database)
        for way_on in (ROLLBACK, MIGRATE):
            file.write_text(whole.replace(swap, f"-- step: stop here\nselect 1 / 0;\n\n{swap}"))
            said(checkout.run(MIGRATE, env=running.environment()), 'Step "stop here"', "division by zero", code=1)
            file.write_text(whole)
            status = document(checkout, MIGRATE, STATUS, env=running.environment())
            assert [step["state"] for step in status["steps"]][:13] == ["done"] * 12 + ["to do"]
            assert status["runs"][0]["outcome"] == "failed"
            done = checkout.run(way_on, env=running.environment())
            if way_on == ROLLBACK:
                said(done, "the copy was removed; the table is as it was")
                assert table_as_it_is(running.database) == before
            else:
                said(done, "copy the rows", "done before", "is applied")
                assert is_migrated(connection)


# --- telling about it


def test_dry_run_shows_every_step_and_changes_nothing(checkout: Checkout, shared: LocalSupabase) -> None:
    before = table_as_it_is(shared.database)
    with shared.database.connect() as connection:
        runs = "select count(*) from rpc_migrations.runs"
        runs_before = one(connection, runs)
        done = checkout.run(MIGRATE, "--dry-run", env=shared.environment())
        assert one(connection, runs) == runs_before
    said(done, "Plan of migrate_user_clusters, 16 steps. Nothing is run.", " 4/16  copy the rows (batch): to do")
    for step in read_migration(checkout.root / "db/migrate_user_clusters.sql").steps:
        assert step.sql.strip() in done.stdout
    assert table_as_it_is(shared.database) == before
    assert checkout.written() == set()


def test_dry_run_tells_what_is_done(checkout: Checkout, migrated: LocalSupabase) -> None:
    report = document(checkout, MIGRATE, "--dry-run", env=migrated.environment())
    assert {step["state"] for step in report["steps"]} == {"done"}
    assert report["outcome"] == "dry run"
    done = checkout.run(ROLLBACK, "--dry-run", env=migrated.environment())
    said(done, "Plan of the rollback of migrate_user_clusters", "1/6  roll back: begin: to do")


def test_dry_run_without_credentials_or_function_shows_the_plan(checkout: Checkout, cluster: Cluster) -> None:
    said(
        checkout.run(MIGRATE, "--dry-run"),
        "No credentials",
        "Nothing is run",
        "16/16  validate the foreign keys (batch): to do",
    )
    with project(cluster, rows=None, deployed=False) as running:
        done = checkout.run(MIGRATE, "--dry-run", env=running.environment())
        said(
            done,
            "16/16  validate the foreign keys (batch): to do",
            "Warning: The function execute_sql is not deployed",
            "deploy_sql",
        )
    assert checkout.written() == set()


def test_status_before_and_after(checkout: Checkout, shared: LocalSupabase, migrated: LocalSupabase) -> None:
    report = document(checkout, MIGRATE, STATUS, env=shared.environment())
    assert ([step["state"] for step in report["steps"]], report["runs"]) == (["to do"] * 16, [])

    report = document(checkout, MIGRATE, STATUS, env=migrated.environment())
    assert [step["state"] for step in report["steps"]] == ["done"] * 16
    assert report["steps"][3] | {"seconds": 0, "finished_at": ""} == {
        "name": "copy the rows", "state": "done", "rows": 20, "seconds": 0, "calls": 1, "finished_at": "",
    }  # fmt: skip
    assert report["runs"][0]["outcome"] == "done"
    assert report["table"]["state"] == "swapped"

    done = checkout.run(MIGRATE, STATUS, env=migrated.environment())
    said(done, "step ", "finished", "Runs, the newest first", f"Table public.user_clusters: swapped; backup {BACKUP}")
    lines = [line for line in done.stdout.splitlines() if " UTC" in line]
    assert len(lines) == 17, "one line a step, and one for the run"


# --- how it is printed


def test_json_is_one_document_of_the_whole_run(checkout: Checkout, cluster: Cluster) -> None:
    with project(cluster, deployed=False) as running:
        env = running.environment()
        report = document(checkout, DEPLOY, env=env)
        assert report["outcome"] == "done"
        assert "Deployed through postgres-meta (/pg/query)." in report["lines"]
        report = document(checkout, MIGRATE, env=env)
        assert (report["outcome"], report["migration"], len(report["steps"])) == ("done", "migrate_user_clusters", 16)
        assert {step["state"] for step in report["steps"]} == {"done"}
        assert report["steps"][3]["rows"] == 20
        assert 1 < report["requests"] < 16
        assert report["seconds"] > 0
        assert document(checkout, MIGRATE, env=env)["outcome"] == "nothing to do"
        assert {check["passed"] for check in document(checkout, VERIFY, env=env)["checks"]} == {True}
        assert document(checkout, ROLLBACK, env=env)["outcome"] == "done"


def test_json_of_a_failure_has_the_error(checkout: Checkout, shared: LocalSupabase) -> None:
    report = document(checkout, MIGRATE, env={"SUPABASE_URL": shared.url, "SUPABASE_SECRET_KEY": "sb_secret_x"}, code=1)
    assert report["outcome"] == "failed"
    assert report["error"]["hint"]
    assert report["files"] == [MIGRATION_FILE]
    report = document(checkout, MIGRATE, env={"SUPABASE_URL": "nonsense"}, code=2)
    assert report["error"]["message"] == "SUPABASE_URL is not a URL."
    file = checkout.step_file("broken.sql", "-- step: one\nselect 1 / 0;\n")
    report = document(checkout, RUN, file, env=shared.environment(), code=1)
    assert report["error"]["code"] == "22012"
    assert [step["state"] for step in report["steps"]] == ["failed"]


def test_quiet_says_nothing_and_verbose_says_more(checkout: Checkout, shared: LocalSupabase) -> None:
    file = checkout.step_file("volume.sql", "-- step: one\nselect 1;\n")
    done = checkout.run(RUN, file, "--quiet", env=shared.environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    file = checkout.step_file("volume2.sql", "-- step: one\nselect 1;\n")
    done = checkout.run(RUN, file, "--verbose", env=shared.environment())
    said(done, "is applied: 1 step, ")
    assert '"one" begins (volume2.sql, line 1)' in done.stderr
    file = checkout.step_file("broken.sql", "-- step: one\nselect 1 / 0;\n")
    done = checkout.run(RUN, file, "--quiet", env=shared.environment())
    assert (done.returncode, done.stdout) == (1, "")
    assert "division by zero" in done.stderr


def test_a_pipe_gets_plain_lines(checkout: Checkout, migrated: LocalSupabase) -> None:
    # What a CI system sets must not bring control codes into its logs either.
    env = migrated.environment() | {"TERM": "xterm-256color", "CI": "1"}
    for arguments in ([MIGRATE], [MIGRATE, STATUS], [VERIFY], [ROLLBACK, "--dry-run"]):
        done = checkout.run(*arguments, env=env)
        said(done)
        assert not CONTROL.search(done.stdout + done.stderr), arguments


def on_a_terminal(checkout: Checkout, *arguments: str, env: dict[str, str]) -> str:
    """What a script prints on a terminal of 100 columns."""
    leader, follower = pty.openpty()
    environment = script_environment({**env, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "50"})
    command = [sys.executable, str(checkout.root / "scripts" / arguments[0]), *arguments[1:]]
    process = subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower, env=environment)
    os.close(follower)
    output = b""
    try:
        while chunk := os.read(leader, 65536):
            output += chunk
    except OSError:  # Linux's way of saying that the other end is closed
        pass
    os.close(leader)
    assert process.wait(30) == 0, output.decode()
    return output.decode()


def test_a_terminal_gets_a_live_list_and_a_closing_panel(checkout: Checkout, cluster: Cluster) -> None:
    with project(cluster) as running:
        shown = on_a_terminal(checkout, MIGRATE, env=running.environment() | ANSWERED)
        plain = COLOUR.sub("", shown)
        assert COLOUR.search(shown)
        assert "✓ check the old table" in plain
        assert "╭─" in plain
        assert BACKUP in plain
        # NO_COLOR: no colour, whatever its value (no-color.org); what moves the cursor is no colour.
        shown = on_a_terminal(checkout, ROLLBACK, env=running.environment() | ANSWERED | {"NO_COLOR": "1"})
        codes = {code for match in COLOUR.finditer(shown) for code in match[0][2:-1].split(";")}
        assert not [code for code in codes if code.isdigit() and int(code) >= 30], codes


# --- step files of the user's own

ORDERS = """
create table public.customers (id bigint primary key, name text);
create table public.orders (
    id bigint generated always as identity primary key,
    customer bigint references public.customers (id),
    price numeric not null, quantity integer not null, total numeric
);
create index orders_customer_idx on public.orders (customer);
insert into public.customers select n, 'c' || n from generate_series(1, 10) as n;
insert into public.orders (customer, price, quantity) select 1 + n % 10, n, 2 from generate_series(1, 1000) as n;
"""

PLAIN = """-- Adds and fills a column.

-- step: add the column
alter table public.orders add column note text;

-- step: fill it (batch)
with batch as (
    update public.orders set note = 'from ' || customer
    where id in (select id from public.orders where note is null order by id limit 300)
    returning 1
)
select count(*) < 300 as done, count(*) as rows from batch;

-- step: it must be there
alter table public.orders alter column note set not null;
"""

ONLINE = """-- step: create the new table
create table rpc_migrations.orders (
    id bigint generated always as identity, customer bigint, price numeric not null, quantity bigint not null, total numeric
);

-- step: begin the copy
select * from rpc_migrations.begin_copy('public.orders', 'public.orders_backup');

-- step: copy the rows (batch)
select * from rpc_migrations.copy_batch();

-- step: carry over constraints and indexes (batch)
select * from rpc_migrations.carry_over();

-- step: replay what changed (batch)
select * from rpc_migrations.replay();

-- step: compare
select * from rpc_migrations.compare();

-- step: swap (batch)
select * from rpc_migrations.swap();

-- step: validate foreign keys (batch)
select * from rpc_migrations.validate_foreign_keys();
"""


@pytest.fixture
def shop(database: Database) -> Iterator[LocalSupabase]:
    """A Supabase with a table `orders`."""
    with database.connect() as connection:
        deploy(connection)
        connection.execute(ORDERS)
    with LocalSupabase(database) as running:
        yield running


def test_plain_and_batch_steps(checkout: Checkout, shop: LocalSupabase, admin: psycopg.Connection[Any]) -> None:
    file = checkout.step_file("fill_orders.sql", PLAIN)
    done = checkout.run(RUN, file, env=shop.environment())
    said(done, "Migrating: fill_orders, 3 steps", "1,000 rows", "fill_orders is applied: 3 steps, 1,000 rows")
    assert one(admin, "select count(distinct note) from public.orders") == 10
    status = document(checkout, RUN, file, STATUS, env=shop.environment())
    assert [(step["name"], step["rows"], step["calls"]) for step in status["steps"]] == [
        ("add the column", 0, 1), ("fill it", 1000, 4), ("it must be there", 0, 1),
    ]  # fmt: skip
    said(checkout.run(RUN, file, env=shop.environment()), "Nothing to do. fill_orders is applied already")
    # A step that is added later runs, and only it.
    checkout.step_file("fill_orders.sql", PLAIN + "\n-- step: mark\nupdate public.orders set total = 1 where id = 1;\n")
    done = checkout.run(RUN, file, env=shop.environment())
    said(done, "4/4  mark", "1 row", "done before")
    assert one(admin, "select count(*) from public.orders where total = 1") == 1


def test_an_online_copy_of_another_table_from_anywhere(
    checkout: Checkout, shop: LocalSupabase, admin: psycopg.Connection[Any], tmp_path: Path
) -> None:
    before = table_as_it_is(shop.database, "public.orders")
    (tmp_path / "widen orders.sql").write_text(ONLINE)
    run = [RUN, "widen orders.sql"]
    done = checkout.run(*run, env=shop.environment(), cwd=tmp_path)
    said(done, "widen orders is applied", "The original one is public.orders_backup")
    assert one(admin, "select format_type(atttypid, atttypmod) from pg_attribute where attrelid = 'public.orders'::regclass"
                      " and attname = 'quantity'") == "bigint"  # fmt: skip
    assert one(admin, "select count(*) from public.orders") == 1000
    assert one(admin, "insert into public.orders (customer, price, quantity) values (1, 1, 1) returning id") == 1001
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        admin.execute("insert into public.orders (customer, price, quantity) values (99, 1, 1)")

    said(checkout.run(*run, "--rollback", env=shop.environment(), cwd=tmp_path), "widen orders is rolled back")
    definition, rows = table_as_it_is(shop.database, "public.orders")
    assert definition == before[0]
    assert len(rows) == 1001, "what was written since is kept"
    said(checkout.run(*run, env=shop.environment(), cwd=tmp_path), "widen orders is applied")


def test_the_migration_of_the_project_is_a_step_file_like_any_other(
    checkout: Checkout, migrated: LocalSupabase
) -> None:
    done = checkout.run(RUN, "db/migrate_user_clusters.sql", env=migrated.environment())
    said(done, "Nothing to do. migrate_user_clusters is applied already")


@pytest.mark.parametrize(
    "stop_after", ["roll back: begin", "roll back: compare the two tables", "roll back: swap the tables back"]
)
def test_a_rollback_is_finished_before_migrating_again(
    scripts: Scripts, supabase: LocalSupabase, admin: psycopg.Connection[Any], stop_after: str
) -> None:
    """Also after the swap back, when foreign keys are still to be validated."""
    create_old_table(admin, rows=5)
    admin.execute("create table public.notes (id int primary key, cluster uuid references public.user_clusters)")
    deploy(admin)
    environment = supabase.environment()
    assert scripts("migrate_clusters.py", env=environment).returncode == 0
    for step in read_migration(ROOT / "db" / "rollback.sql", name="migrate_user_clusters").steps:
        send = "select rpc_migrations.run_step(%s, 'migrate_user_clusters', %s, %s, %s) ->> 'state'"
        while admin.execute(send, (step.sql, step.name, step.checksums[0], step.batch)).fetchone() != ("done",):
            pass
        if step.name == stop_after:
            break
    refused = scripts("migrate_clusters.py", env=environment)
    assert refused.returncode == 1
    assert "A rollback of migrate_user_clusters is under way" in refused.stderr
    can_give_up = "swap" not in stop_after
    assert ("--give-up" in refused.stderr) == can_give_up, "nothing that would answer that there is nothing to give up"
    assert scripts(ROLLBACK, env=environment).returncode == 0
    assert one(admin, "select count(*) from pg_constraint where contype = 'f' and not convalidated") == 0
    assert scripts(MIGRATE, env=environment).returncode == 0
