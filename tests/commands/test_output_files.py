"""The files for where nobody lets us in: they do the whole job by themselves, and the scripts know of it afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from checkout import FUNCTION_FILE, MIGRATION_FILE, Checkout, said
from conftest import script_environment
from local_supabase import Cluster, LocalSupabase, create_old_table
from projects import by_psql, columns, is_migrated, one, project, table_as_it_is
from rest_calls import wait_until

DEPLOY, MIGRATE, ROLLBACK, RUN = (
    "deploy_sql_function.py",
    "migrate_clusters.py",
    "rollback_clusters.py",
    "run_migration.py",
)
ONLINE_FILE = "db/migrate_user_clusters_online_output.sql"
ROLLBACK_FILE = "db/rollback_migrate_user_clusters_output.sql"
REMOVAL_FILE = "db/drop_execute_sql_function_output.sql"
HEAVY = ("supabase", "postgrest", "httpx", "pydantic", "rich.table", "rich.live", "dotenv")

Send = Callable[[LocalSupabase, Path], None]


def by_postgres_meta(running: LocalSupabase, file: Path) -> None:
    """As the SQL Editor does it, and whoever has a self-hosted stack can."""
    pasted(running, file.read_text())


def pasted(running: LocalSupabase, text: str) -> Any:
    """Run a text as the SQL Editor does; what it shows of it: the rows of the last statement."""
    headers = {"apikey": running.service_key}
    answer = httpx.post(f"{running.url}/pg/query", headers=headers, json={"query": text}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def in_a_transaction(running: LocalSupabase, file: Path) -> None:
    """Within a transaction that is open already (psql --single-transaction, or a tool that opens one)."""
    by_psql(running, file, options=["-1"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which both scripts were run without credentials; its files are not changed by these tests."""
    checkout = Checkout(tmp_path_factory.mktemp("written") / "project")
    for script, file in ((DEPLOY, FUNCTION_FILE), (MIGRATE, MIGRATION_FILE)):
        done = checkout.run(script)
        said(
            done,
            "No credentials: SUPABASE_URL and SUPABASE_SERVICE_KEY",
            f"Written: {file}",
            "SQL Editor",
            "paste the whole file",
        )
        assert done.stderr == ""
    assert checkout.written() == {FUNCTION_FILE, MIGRATION_FILE}
    return checkout


@pytest.fixture
def old(cluster: Cluster) -> Iterator[LocalSupabase]:
    """A Supabase with the old table and nothing of ours."""
    with project(cluster, rows=300, deployed=False) as running:
        yield running


@pytest.fixture
def admin_of_old(old: LocalSupabase) -> Iterator[psycopg.Connection[Any]]:
    """A connection as the role postgres."""
    with old.database.connect() as connection:
        yield connection


# --- written without credentials


@pytest.mark.parametrize("entry", ["deploy", "migrate_clusters"])
def test_nothing_heavy_is_imported_without_credentials(checkout: Checkout, entry: str) -> None:
    code = (
        "import json, sys; from rpc_migrations import cli; sys.argv = ['x.py', '--quiet']; assert cli.{entry}() == 0; "
        "print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code.format(entry=entry, heavy=HEAVY)],
        check=False, capture_output=True, text=True, cwd=checkout.root / "scripts", env=script_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert checkout.written()


def test_what_is_written_does_not_depend_on_who_writes_it(
    written: Checkout, checkout: Checkout, old: LocalSupabase
) -> None:
    done = checkout.run(MIGRATE, "--write-sql", env=old.environment())
    said(done, f"Written: {MIGRATION_FILE}", f"https://supabase.com/dashboard/project/{old.ref}/sql/new")
    assert "No credentials" not in done.stdout
    assert checkout.read(MIGRATION_FILE) == written.read(MIGRATION_FILE)
    assert not is_there(old, "rpc_migrations"), "nothing was sent"


def is_there(running: LocalSupabase, schema: str) -> bool:
    """Whether there is such a schema."""
    with running.database.connect() as connection:
        return one(connection, f"select to_regnamespace('{schema}')") is not None


# --- they do the whole job


@pytest.mark.parametrize("send", [by_postgres_meta, by_psql, in_a_transaction])
def test_the_files_do_the_whole_job_and_the_scripts_know(
    written: Checkout, checkout: Checkout, old: LocalSupabase, admin_of_old: psycopg.Connection[Any], send: Send
) -> None:
    send(old, written.root / FUNCTION_FILE)
    send(old, written.root / MIGRATION_FILE)
    assert is_migrated(admin_of_old)
    assert one(admin_of_old, "select count(*) from public.user_clusters") == 300
    assert one(admin_of_old, "select count(*) from public.user_clusters_backup") == 300

    env = old.environment()
    said(checkout.run(DEPLOY, env=env), "Nothing to do. execute_sql is deployed and up to date")
    said(
        checkout.run(MIGRATE, env=env), "Nothing to do. migrate_user_clusters is applied already: all 16 steps are done"
    )
    said(checkout.run("verify_clusters.py", env=env), "0 failed")

    # Pasted a second time.
    after = table_as_it_is(old.database)
    journal = "select jsonb_agg(j order by id) from rpc_migrations.journal as j"
    journal_after = one(admin_of_old, journal)
    send(old, written.root / FUNCTION_FILE)
    send(old, written.root / MIGRATION_FILE)
    assert (table_as_it_is(old.database), one(admin_of_old, journal)) == (after, journal_after)


def test_each_pasted_file_answers_and_one_that_has_lost_its_end_does_nothing_and_has_no_answer(
    written: Checkout, old: LocalSupabase
) -> None:
    """The SQL Editor shows no notices: without an answer both look the same, a success without rows."""
    for script in (ROLLBACK, "finish_clusters.py", "remove_sql_function.py"):
        said(written.run(script), "Written: ", "It ends with an answer of one line.")
    for file, answer in (
        (FUNCTION_FILE, "execute_sql is deployed"),
        (MIGRATION_FILE, "migrate_user_clusters: steps done: 16 of 16"),
        (ROLLBACK_FILE, "the rollback of migrate_user_clusters: steps done: 6 of 6"),
        (MIGRATION_FILE, "migrate_user_clusters: steps done: 16 of 16"),
        (
            "db/finish_migrate_user_clusters_output.sql",
            "closing the way back of migrate_user_clusters: steps done: 2 of 2",
        ),
        (REMOVAL_FILE, "execute_sql was removed"),
    ):
        text = written.read(file)
        before = old.database.dump_schema()
        assert pasted(old, text[: text.rindex("commit;")]) == []
        assert old.database.dump_schema() == before
        assert pasted(old, text) == [{"answer": answer}]


def test_psql_that_goes_on_after_an_error_is_not_told_that_it_is_done(written: Checkout, old: LocalSupabase) -> None:
    by_psql(old, written.root / FUNCTION_FILE)
    with old.database.connect() as connection:
        connection.execute("create table public.user_clusters_backup (a int)")
    command = [old.database.cluster.programs / "psql", "-XAt", "-f", written.root / MIGRATION_FILE, old.database.dsn()]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout.endswith("ROLLBACK\nmigrate_user_clusters: steps done: 0 of 16\n"), done.stdout


@pytest.mark.parametrize("default_grants", ["none"])
@pytest.mark.parametrize("variant", [None, "minimal", "extra"])
def test_they_do_it_for_every_kind_of_old_table(
    written: Checkout,
    checkout: Checkout,
    supabase: LocalSupabase,
    admin: psycopg.Connection[Any],
    variant: Any,
    default_grants: str,
) -> None:
    if variant:
        create_old_table(admin, rows=50, variant=variant)
    for file in (FUNCTION_FILE, MIGRATION_FILE):
        by_postgres_meta(supabase, written.root / file)
    assert is_migrated(admin)
    said(checkout.run("verify_clusters.py", env=supabase.environment()), "0 failed")


def test_a_run_that_stopped_half_way_is_gone_on_with_by_the_file(
    written: Checkout, checkout: Checkout, old: LocalSupabase, admin_of_old: psycopg.Connection[Any]
) -> None:
    by_psql(old, written.root / FUNCTION_FILE)
    file = checkout.root / "db/migrate_user_clusters.sql"
    file.write_text(
        file.read_text().replace("-- step: compare", "-- step: stop here\nselect 1 / 0;\n\n-- step: compare")
    )
    said(checkout.run(MIGRATE, env=old.environment()), 'Step "stop here"', code=1)
    admin_of_old.execute(
        "insert into public.user_clusters (user_id, cluster_type) select id, 'meanwhile' from auth.users limit 1"
    )
    done = "select jsonb_agg(jsonb_build_object('step', step, 'calls', calls) order by id) from rpc_migrations.journal where calls > 0"
    before = one(admin_of_old, done)
    assert len(before) == 11

    by_postgres_meta(old, written.root / MIGRATION_FILE)
    assert one(admin_of_old, done)[:11] == before, "what was done is not repeated"
    assert one(admin_of_old, "select count(*) from public.user_clusters") == 301
    said(written.run(MIGRATE, env=old.environment()), "is applied already")


def test_a_file_that_fails_changes_nothing(
    written: Checkout, old: LocalSupabase, admin_of_old: psycopg.Connection[Any]
) -> None:
    by_psql(old, written.root / FUNCTION_FILE)
    admin_of_old.execute("create table public.user_clusters_backup (a int)")
    before = table_as_it_is(old.database)
    with pytest.raises(psycopg.Error, match=r"public\.user_clusters_backup is already there"):
        admin_of_old.execute(written.read(MIGRATION_FILE).encode())
    admin_of_old.execute("rollback")
    assert table_as_it_is(old.database) == before
    assert one(admin_of_old, "select count(*) from rpc_migrations.journal") == 0
    admin_of_old.execute("drop table public.user_clusters_backup")
    by_psql(old, written.root / MIGRATION_FILE)
    assert is_migrated(admin_of_old)


def test_without_the_first_file_the_second_says_so(written: Checkout, old: LocalSupabase) -> None:
    text = written.read(MIGRATION_FILE)
    answer = httpx.post(f"{old.url}/pg/query", headers={"apikey": old.service_key}, json={"query": text}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["message"] == "execute_sql is not deployed, or another version of it"
    assert FUNCTION_FILE in answer.json()["hint"]


# --- over a direct connection, online


def test_the_online_file_commits_between_its_steps_and_goes_on_where_it_stopped(
    written: Checkout, checkout: Checkout, old: LocalSupabase, admin_of_old: psycopg.Connection[Any]
) -> None:
    by_psql(old, written.root / FUNCTION_FILE)
    file = checkout.root / "db/migrate_user_clusters.sql"
    whole = file.read_text()
    file.write_text(whole.replace("-- step: swap", "-- step: stop here\nselect 1 / 0;\n\n-- step: swap"))
    done = checkout.run(MIGRATE, "--write-sql", "--online")
    said(done, f"Written: {ONLINE_FILE}", f'psql "$DATABASE_URL" -f {ONLINE_FILE}', FUNCTION_FILE)
    by_psql(old, checkout.root / ONLINE_FILE, code=3)
    assert one(admin_of_old, "select count(*) from rpc_migrations.journal where finished_at is not null") == 12
    assert one(admin_of_old, "select count(*) from rpc_migrations.user_clusters") == 300, "the copy is committed"
    assert columns(admin_of_old, "public.user_clusters_backup") == []

    file.write_text(whole)
    said(checkout.run(MIGRATE, "--write-sql", "--online"), f"Written: {ONLINE_FILE}")
    for _ in range(2):
        by_psql(old, checkout.root / ONLINE_FILE)
        assert is_migrated(admin_of_old)
    said(checkout.run(MIGRATE, env=old.environment()), "is applied already")


def write_online(checkout: Checkout, old: LocalSupabase) -> None:
    """Deploy by psql, and write the file that goes on by psql."""
    said(checkout.run(DEPLOY), "Written: ")
    by_psql(old, checkout.root / FUNCTION_FILE)
    said(checkout.run(MIGRATE, "--write-sql", "--online"), f"Written: {ONLINE_FILE}")


def test_the_online_file_refuses_the_port_of_a_pooler_that_shares_its_sessions(
    checkout: Checkout, old: LocalSupabase, admin_of_old: psycopg.Connection[Any]
) -> None:
    """Before its first setting, which the pooler would hand on to the application."""
    write_online(checkout, old)
    psql = [old.database.cluster.programs / "psql", "-XAt", old.database.dsn(), "-c", "\\set PORT 6543"]
    command = [*psql, "-f", checkout.root / ONLINE_FILE]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, ""), done.stdout + done.stderr
    assert "port 6543 is the pooler in transaction mode" in done.stderr
    assert one(admin_of_old, "select count(*) from rpc_migrations.journal") == 0


def test_the_online_file_has_to_commit(
    checkout: Checkout, old: LocalSupabase, admin_of_old: psycopg.Connection[Any]
) -> None:
    """Within a transaction it would get as far as the first commit, after a batch of rows; where psql begins one by itself, it need not."""
    write_online(checkout, old)
    psql = [old.database.cluster.programs / "psql", "-XAtq", old.database.dsn(), "-f", checkout.root / ONLINE_FILE]
    done = subprocess.run([*psql, "-1"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, ""), done.stdout + done.stderr
    assert "cannot run in a transaction" in done.stderr and "without -1" in done.stderr
    assert one(admin_of_old, "select count(*) from rpc_migrations.journal") == 0
    done = subprocess.run([*psql, "-v", "AUTOCOMMIT=off"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert is_migrated(admin_of_old)


FAILS_IN_ITS_THIRD_CALL = """-- step: begin
create table public.calls as select 0 as n;

-- step: call (batch)
with call as (update public.calls set n = n + 1 where n < 9 returning n)
select false as done, 1 / (3 - n) as rows from call;
"""


@pytest.mark.parametrize(("online", "calls"), [(False, None), (True, 2)], ids=["in one transaction", "online"])
def test_only_the_online_file_commits_each_call_of_a_batch_step(
    written: Checkout,
    checkout: Checkout,
    old: LocalSupabase,
    admin_of_old: psycopg.Connection[Any],
    online: bool,
    calls: int | None,
) -> None:
    by_psql(old, written.root / FUNCTION_FILE)
    file = checkout.step_file("third.sql", FAILS_IN_ITS_THIRD_CALL)
    said(checkout.run(RUN, file, "--write-sql", *(["--online"] if online else [])), "Written: ")
    by_psql(old, checkout.root / f"db/third{'_online' if online else ''}_output.sql", code=3)
    is_there = one(admin_of_old, "select to_regclass('public.calls')") is not None
    assert (one(admin_of_old, "select n from public.calls") if is_there else None) == calls


# --- and back


@pytest.mark.parametrize("online", [False, True], ids=["in one transaction", "online"])
def test_a_rollback_is_written_as_well(
    written: Checkout, checkout: Checkout, old: LocalSupabase, admin_of_old: psycopg.Connection[Any], online: bool
) -> None:
    before = table_as_it_is(old.database)
    for file in (FUNCTION_FILE, MIGRATION_FILE):
        by_psql(old, written.root / file)
    name = ROLLBACK_FILE.replace("_output", "_online_output") if online else ROLLBACK_FILE
    said(checkout.run(ROLLBACK, "--write-sql", *(["--online"] if online else [])), f"Written: {name}")
    by_psql(old, checkout.root / name)
    assert table_as_it_is(old.database) == before
    said(checkout.run(ROLLBACK, env=old.environment()), "Nothing to do. migrate_user_clusters is not applied")


def test_giving_a_rollback_up_is_written_into_a_file_of_its_own(checkout: Checkout) -> None:
    """Its answer called itself the rollback, whose file it replaced."""
    file = ROLLBACK_FILE.replace("rollback_", "give_up_rollback_")
    said(checkout.run(ROLLBACK, "--give-up", "--write-sql"), f"Written: {file}")
    assert "'giving up the rollback of migrate_user_clusters'" in (checkout.root / file).read_text()


def test_the_removal_is_written_as_well(written: Checkout, checkout: Checkout, old: LocalSupabase) -> None:
    by_psql(old, written.root / FUNCTION_FILE)
    done = checkout.run("remove_sql_function.py")
    said(done, f"Written: {REMOVAL_FILE}")
    assert FUNCTION_FILE not in done.stdout
    by_postgres_meta(old, checkout.root / REMOVAL_FILE)
    assert not is_there(old, "rpc_migrations")
    said(checkout.run(MIGRATE, env=old.environment()), "The function execute_sql is not deployed", code=1)


def test_a_session_that_has_a_lock_and_waits_for_the_file_is_told(
    written: Checkout, old: LocalSupabase, admin_of_old: psycopg.Connection[Any]
) -> None:
    """As where a new user is signed up, whose trigger writes to the table: without an end to it, nobody could ever write again."""
    by_psql(old, written.root / FUNCTION_FILE)
    database = old.database
    command = [
        database.cluster.programs / "psql",
        "-Xqv",
        "ON_ERROR_STOP=1",
        "-f",
        written.root / MIGRATION_FILE,
        database.dsn(),
    ]
    captures = "select from pg_locks where relation = 'public.user_clusters'::regclass and mode = 'ShareRowExclusiveLock' and granted"
    with database.connect("supabase_admin") as application:
        # PostgreSQL looks for a deadlock once, after a second; and the file does not happen to wait at that moment.
        application.execute("set deadlock_timeout = '1min'")
        application.execute("begin; update auth.users set email = email")
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as psql:
            try:
                assert wait_until(lambda: admin_of_old.execute(captures).rowcount == 1, 20)
                application.execute("update public.user_clusters set cluster_score = 0.5; commit")
                told = psql.communicate(timeout=30)[1]
            finally:
                psql.kill()
    assert (
        "another session waits for this transaction, and has a lock that this one needs: waiting, for a lock: pid"
        in told
    )
    assert one(admin_of_old, "select count(*) filter (where cluster_score <> 0.5) from public.user_clusters") == 0
    by_psql(old, written.root / MIGRATION_FILE)
    assert is_migrated(admin_of_old)


# --- step files of the user's own

HOSTILE = """-- step: it's a "name"; commit; -- $step$
create table public."odd; name" as select '$step$' as a, $step1$ it's $step1$ as b, E'back\\\\slash\\u2028' as c;

-- step: again (batch)
with gone as (delete from public."odd; name" where a = '$body$' returning 1)
select count(*) = 0 as done, count(*) as rows from gone -- $step
"""


@pytest.mark.parametrize("online", [False, True], ids=["in one transaction", "online"])
def test_a_step_file_that_wants_to_break_out_of_its_quotes(
    written: Checkout, checkout: Checkout, old: LocalSupabase, admin_of_old: psycopg.Connection[Any], online: bool
) -> None:
    by_psql(old, written.root / FUNCTION_FILE)
    file = checkout.step_file("it's odd.sql", HOSTILE)
    done = checkout.run(RUN, file, "--write-sql", *(["--online"] if online else []))
    name = f"db/it's odd{'_online' if online else ''}_output.sql"
    said(done, f"Written: {name}")
    by_psql(old, checkout.root / name)
    row = admin_of_old.execute('select a, b, c from public."odd; name"').fetchone()
    assert row == ("$step$", " it's ", "back\\slash\u2028")
    steps = admin_of_old.execute(
        "select step from rpc_migrations.journal where migration = 'it''s odd' order by id"
    ).fetchall()
    assert steps == [('it\'s a "name"; commit; -- $step$',), ("again",)]
    said(checkout.run(RUN, file, env=old.environment()), "Nothing to do. it's odd is applied already")


def test_what_to_do_with_a_file_is_told_by_the_option_and_not_by_its_name(checkout: Checkout) -> None:
    file = checkout.step_file("go_online.sql", "select 1;")
    said(checkout.run(RUN, file, "--write-sql"), "Written: db/go_online_output.sql", "Open the SQL Editor")
    said(checkout.run(RUN, file, "--write-sql", "--online"), "psql")
