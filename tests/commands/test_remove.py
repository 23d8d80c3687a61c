"""remove_sql_function.py: what it takes away, what it leaves, and when it refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from checkout import Checkout, said
from conftest import ROOT, Scripts
from faults.proxy import Exchange, Fault, FaultProxy, Request
from local_supabase import Database, LocalSupabase, create_old_table
from projects import deploy, one
from rpc_migrations.deployment import SIGNATURE
from rpc_migrations.output_files import removal_sql
from step_runner import ROLLBACK, read, run, wait_until_it_waits

MIGRATION = ROOT / "db" / "migrate_user_clusters.sql"
FUNCTION = "select to_regproc('public.execute_sql')::text"
SCHEMA = "select to_regnamespace('rpc_migrations')::text"


def test_it_takes_everything_away_and_says_so_again(
    checkout: Checkout, supabase: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    create_old_table(admin, rows=5)
    deploy(admin)
    assert checkout.run("migrate_clusters.py", env=supabase.environment()).returncode == 0
    removed = checkout.run("remove_sql_function.py", env=supabase.environment())
    assert removed.returncode == 0, removed.stderr
    assert (one(admin, FUNCTION), one(admin, SCHEMA)) == (None, None)
    assert one(admin, "select count(*) from public.user_clusters_backup") == 5
    again = checkout.run("remove_sql_function.py", env=supabase.environment())
    assert again.returncode == 0
    assert "execute_sql is not there" in again.stdout
    deploy(admin)
    said(
        checkout.run("migrate_clusters.py", env=supabase.environment()),
        "Nothing to do",
        "the journal of that was removed",
    )


@pytest.mark.parametrize("twice", [False, True], ids=["lost", "twice"])
@pytest.mark.parametrize("delay", [0.0, 5.0], ids=["known at once", "not known yet"])
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["remove_sql_function.py"], "execute_sql was removed. The journal and the private schema went with it."),
        (["remove_sql_function.py", "--keep-journal"], "execute_sql was removed. The journal is kept."),
        (["migrate_clusters.py", "--remove-when-done"], "execute_sql was removed; the journal is kept."),
    ],
)
def test_a_lost_answer_is_no_failure(
    checkout: Checkout,
    database: Database,
    admin: psycopg.Connection[Any],
    command: list[str],
    words: str,
    delay: float,
    twice: bool,
) -> None:
    """The second attempt, or a gateway's own, finds nothing to remove, because the first one has removed it; nor does any later
    command that is run before the REST layer has noticed.
    """
    create_old_table(admin, rows=5)
    deploy(admin)
    faults: list[Fault] = [sent_twice if twice else lost]

    def choose(request: Request) -> Fault | None:
        return faults.pop() if faults and request.query.startswith("-- Removes public.execute_sql") else None

    with LocalSupabase(database, reload_delay=delay) as running, FaultProxy(running.url, choose) as proxy:
        env = running.environment() | {"SUPABASE_URL": proxy.url}
        said(checkout.run(*command, env=env), words)
        assert one(admin, FUNCTION) is None
        said(checkout.run("remove_sql_function.py", env=env), "Nothing to do. execute_sql is not there.")
        said(checkout.run("migrate_clusters.py", env=env), "The function execute_sql is not deployed", code=1)


def sent_twice(exchange: Exchange) -> None:
    """By a gateway, which hands on what the second attempt has answered."""
    exchange.forward()
    exchange.pass_on()


def lost(exchange: Exchange) -> None:
    """All is done, and nobody is told."""
    exchange.forward()
    exchange.close()


def test_it_first_writes_what_only_the_journal_knows(
    checkout: Checkout, supabase: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    """A foreign key and a trigger of the original table, which it lost when it was moved aside, can be put back."""
    create_old_table(admin, rows=5)
    admin.execute(
        "alter table public.user_clusters drop constraint user_clusters_user_id_fkey, "
        "add constraint user_clusters_user_id_fkey foreign key (user_id) references auth.users"
    )
    lost = (
        "select c.conname from pg_constraint as c where c.contype = 'f' and c.convalidated and c.conrelid = '{0}'::regclass union "
        "select t.tgname from pg_trigger as t where not t.tgisinternal and t.tgenabled = 'O' and t.tgrelid = '{0}'::regclass"
    )
    before = set(admin.execute(lost.format("public.user_clusters")).fetchall())
    deploy(admin)
    assert checkout.run("migrate_clusters.py", env=supabase.environment()).returncode == 0
    assert admin.execute(lost.format("public.user_clusters_backup")).fetchall() == []
    kept = checkout.run("remove_sql_function.py", "--keep-journal", env=supabase.environment())
    assert "put_back" not in kept.stdout
    deploy(admin)
    said(
        checkout.run("remove_sql_function.py", env=supabase.environment()),
        "Written: db/put_back_output.sql",
        "was removed",
    )
    admin.execute(checkout.read("db/put_back_output.sql").encode())
    assert set(admin.execute(lost.format("public.user_clusters_backup")).fetchall()) == before


def test_the_journal_of_an_older_version_is_brought_up_to_date_first(
    checkout: Checkout, supabase: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    """Only this version's functions tell what only the journal knows; it went without a word, and nobody was asked."""
    create_old_table(admin, rows=5)
    deploy(admin)
    assert checkout.run("migrate_clusters.py", env=supabase.environment()).returncode == 0
    admin.execute(f"comment on function {SIGNATURE} is 'rpc_migrations 1 0123456789abcdef'".encode())
    said(
        checkout.run("remove_sql_function.py", env=supabase.environment()),
        "An older version of execute_sql is deployed",
        "Run: python scripts/deploy_sql_function.py",
        code=1,
    )
    assert one(admin, "select count(*) from rpc_migrations.journal") > 0
    kept = checkout.run("remove_sql_function.py", "--keep-journal", env=supabase.environment())
    said(kept, "The journal is kept")
    deploy(admin)
    said(
        checkout.run("remove_sql_function.py", env=supabase.environment()),
        "Written: db/put_back_output.sql",
        "was removed",
    )


def test_the_journal_can_be_kept_and_used_again(
    scripts: Scripts, supabase: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    create_old_table(admin, rows=5)
    deploy(admin)
    environment = supabase.environment()
    assert scripts("migrate_clusters.py", env=environment).returncode == 0
    assert scripts("remove_sql_function.py", "--keep-journal", env=environment).returncode == 0
    assert one(admin, FUNCTION) is None
    assert one(admin, "select count(*) from rpc_migrations.journal") > 0
    assert scripts("deploy_sql_function.py", env=environment).returncode == 0
    back = scripts("rollback_clusters.py", env=environment)
    assert back.returncode == 0, back.stderr
    assert one(admin, "select to_regclass('public.user_clusters_backup')::text") is None


@pytest.mark.parametrize("rolling_back", [False, True], ids=["a copy", "a rollback"])
@pytest.mark.parametrize("keep_journal", [False, True])
def test_a_step_at_work_ends_first(
    database: Database, admin: psycopg.Connection[Any], keep_journal: bool, rolling_back: bool
) -> None:
    """Only when that is committed can it be seen that it has begun a copy or a rollback, and that nothing may be removed. It was: with the
    journal went the foreign keys that the rollback had just taken off the backup.
    """
    create_old_table(admin, rows=5)
    deploy(admin)
    text, until = read("migrate_user_clusters.sql"), "begin the copy"
    if rolling_back:
        run(admin, text)
        text, until = read(ROLLBACK), "roll back: begin"
    with database.connect() as other, ThreadPoolExecutor(1) as thread:
        with admin.transaction():
            run(admin, text, until=until)
            removal = thread.submit(other.execute, removal_sql(keep_journal=keep_journal).encode())
            wait_until_it_waits(database, other)
        with pytest.raises(psycopg.Error, match="a migration is under way: test"):
            removal.result()
    assert one(admin, FUNCTION) is not None


@pytest.mark.parametrize("stop_after", ["begin the copy", "compare the old and the new table"])
def test_it_refuses_while_a_migration_is_under_way(
    scripts: Scripts, supabase: LocalSupabase, admin: psycopg.Connection[Any], stop_after: str
) -> None:
    create_old_table(admin, rows=5)
    deploy(admin)
    run(admin, read(MIGRATION), until=stop_after)
    refused = scripts("remove_sql_function.py", env=supabase.environment())
    assert refused.returncode == 1
    assert "a migration is under way" in refused.stderr
    assert "Finish it or roll it back first" in refused.stderr
    assert one(admin, FUNCTION) == "execute_sql"


def test_somebody_elses_function_stays(
    scripts: Scripts, supabase: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    admin.execute("create function public.execute_sql(query text) returns void language sql as $$ select 1 $$")
    refused = scripts("remove_sql_function.py", env=supabase.environment())
    assert refused.returncode == 1
    assert "this project did not make" in refused.stderr
    assert one(admin, FUNCTION) == "execute_sql"


def test_without_credentials_the_file_does_it(checkout: Checkout, admin: psycopg.Connection[Any]) -> None:
    deploy(admin)
    said(checkout.run("remove_sql_function.py"), "Written: db/drop_execute_sql_function_output.sql")
    admin.execute(checkout.read("db/drop_execute_sql_function_output.sql").encode())
    assert (one(admin, FUNCTION), one(admin, SCHEMA)) == (None, None)
