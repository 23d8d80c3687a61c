"""The way back is closed: what is checked, said and asked before, what is dropped, what is refused, and what every command says then."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from bench import Outcome, run_here, settings_for, start_script
from checkout import FUNCTION_FILE, Checkout, said
from faults.proxy import Exchange, FaultProxy
from local_supabase import Cluster, LocalSupabase
from projects import by_psql, one, project
from rest_calls import rpc, wait_until
from rpc_migrations.errors import Blocked
from rpc_migrations.settings import Settings
from step_runner import MIGRATION, ROLLBACK, read, rebuild_file, run
from terminal import Person

FINISH, MIGRATE, ROLL_BACK, RUN, VERIFY, DOCTOR = (
    "finish_clusters.py", "migrate_clusters.py", "rollback_clusters.py", "run_migration.py", "verify_clusters.py", "doctor.py",
)  # fmt: skip
STEP = "close the way back: drop what was kept for it"
TABLES = "select string_agg(relname, ', ' order by relname) from pg_class where relkind = 'r' and relname like 'user_clusters%'"
STATE = "select state from rpc_migrations.copies order by id desc limit 1"

Admin = psycopg.Connection[Any]


@pytest.fixture
def admin(running: LocalSupabase) -> Iterator[Admin]:
    """A connection to it."""
    with running.database.connect() as connection:
        yield connection


@pytest.fixture
def migrated(running: LocalSupabase, admin: Admin) -> LocalSupabase:
    """The same, migrated."""
    assert here(running, finish=False).error is None
    return running


def settings_of(running: LocalSupabase, *, patience: float = 30.0) -> Settings:
    """Settings for runs in this process. The swaps that come before take as long as they like."""
    return replace(settings_for(running.url, running.service_key, patience=patience), lock_budget=2000)


def here(running: LocalSupabase, *, finish: bool = True, rollback: bool = False, patience: float = 30.0) -> Outcome:
    """Run a command on the migration of user_clusters in this process."""
    return run_here(settings_of(running, patience=patience), finish=finish, rollback=rollback)


def refused(running: LocalSupabase) -> str:
    """What finishing is refused with."""
    outcome = here(running)
    assert outcome.error is not None, outcome.lines
    assert outcome.exit_code == 1
    return f"{outcome.error.message} {outcome.error.hint}"


# --- what it does, and what is said of it afterwards


def test_what_was_kept_goes_and_the_table_in_use_stays_as_it_is(
    checkout: Checkout, migrated: LocalSupabase, admin: Admin
) -> None:
    here(migrated, finish=False, rollback=True)
    here(migrated, finish=False)
    kept = one(admin, "select kept_as from rpc_migrations.copies where state = 'rolled back'")
    in_use = "--exclude-table=user_clusters_backup", f"--exclude-table={kept}"
    before = migrated.database.dump_schema(*in_use)
    done = checkout.run(FINISH, env=migrated.environment())
    said(
        done, "Verified: 21 checks passed.", "public.user_clusters_backup, 20 rows, ", f"{kept}, 20 rows, ",
        "After that nothing can roll migrate_user_clusters back.", STEP, "migrate_user_clusters is finished: 1 step",
        "public.user_clusters stays in use. The way back is closed.",
    )  # fmt: skip
    assert one(admin, TABLES) == "user_clusters"
    assert migrated.database.dump_schema(*in_use) == before
    assert one(admin, "select count(*) from public.user_clusters") == 20
    assert one(admin, STATE) == "finished"
    assert one(admin, "select count(*) from rpc_migrations.copies where ended_at is null or kept_as is not null") == 0
    assert one(admin, "select count(*) from rpc_migrations.foreign_keys") == 0


def test_every_command_knows_that_it_is_finished_and_when(
    checkout: Checkout, migrated: LocalSupabase, admin: Admin
) -> None:
    here(migrated)
    when = one(
        admin,
        "select to_char(ended_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS \"UTC\"') from rpc_migrations.copies",
    )
    env = migrated.environment()
    said(checkout.run(FINISH, env=env), f"Nothing to do. migrate_user_clusters was finished on {when}.")
    said(checkout.run(MIGRATE, env=env), "Nothing to do. migrate_user_clusters is applied already: all 16 steps")
    status = json.loads(checkout.run(FINISH, "--status", "--json", env=env).stdout)
    assert (status["table"]["state"], status["table"]["backup"]) == ("finished", None)
    assert status["steps"][-1]["name"] == STEP
    assert status["runs"][0]["action"] == "finish"
    assert f"Table public.user_clusters: finished; the way back was closed on {when}" in status["lines"]
    for how in ([], ["--discard-changes"]):
        said(
            checkout.run(ROLL_BACK, *how, env=env),
            f"The way back of migrate_user_clusters was closed on {when}.", "Nothing was changed.", code=1,
        )  # fmt: skip
    said(checkout.run(VERIFY, env=env), f"user_clusters_backup was dropped when the migration was finished, on {when}")
    said(checkout.run(DOCTOR, env=env), f"its way back was closed on {when}", "0 failed")
    with pytest.raises(psycopg.Error, match="way back of migrate_user_clusters was closed on"):
        run(admin, read(ROLLBACK), "migrate_user_clusters")  # as the SQL Editor does it


def test_another_rebuild_of_the_table_may_follow_at_once(migrated: LocalSupabase, admin: Admin, tmp_path: Path) -> None:
    """It keeps the table under the same name, which was taken before."""
    file = tmp_path / "again.sql"
    file.write_text("-- rebuild: public.user_clusters\nalter table user_clusters add column again int;\n")
    settings = settings_of(migrated)
    refusal = run_here(settings, file).error
    assert refusal is not None and "is already there" in refusal.message
    assert "the way back of migration migrate_user_clusters. If you are sure of that one, finish it" in str(
        refusal.hint
    )
    here(migrated)
    assert run_here(settings, file).error is None
    assert run_here(settings, file, finish=True).error is None
    assert one(admin, TABLES) == "user_clusters"
    assert one(admin, "select count(*) from public.user_clusters where again is null") == 20


def test_migrations_of_one_table_are_finished_in_any_order(
    migrated: LocalSupabase, admin: Admin, tmp_path: Path
) -> None:
    """The table that the first one made is what the second one keeps."""
    file = tmp_path / "again.sql"
    text = "-- rebuild: public.user_clusters backup {}\nalter table user_clusters add column {} int;\n"
    settings = settings_of(migrated)
    for name in ("second", "third"):
        (tmp_path / f"{name}.sql").write_text(text.format(f"user_clusters_{name}", name))
        assert run_here(settings, tmp_path / f"{name}.sql").error is None
    for file in (tmp_path / "second.sql", None, tmp_path / "third.sql"):
        outcome = run_here(settings, file, finish=True) if file else here(migrated)
        assert outcome.error is None, outcome.error
        assert one(admin, "select count(*) from public.user_clusters") == 20
    assert one(admin, TABLES) == "user_clusters"


def test_a_table_that_was_not_there_before_leaves_nothing_to_drop(running: LocalSupabase, admin: Admin) -> None:
    admin.execute("drop table public.user_clusters; create table public.user_clusters_backup (other int)")
    admin.execute("alter table public.user_clusters_backup rename to mine")
    here(running, finish=False)
    admin.execute(
        "alter table public.mine rename to user_clusters_backup; alter table public.user_clusters_backup enable row level security"
    )
    admin.execute("revoke all on public.user_clusters_backup from anon, authenticated, service_role")
    outcome = here(running)
    assert outcome.error is None, outcome.error
    assert "There is no table to drop." in outcome.lines
    assert one(admin, TABLES) == "user_clusters, user_clusters_backup"


def test_numbers_go_on_where_a_sequence_was_the_original_tables(admin: Admin) -> None:
    """Also with what others have that points at the table."""
    admin.execute(
        "create table public.orders (id bigint generated by default as identity primary key, number serial, name text unique,"
        " parent bigint references public.orders);"
        "create table public.lines (order_id bigint references public.orders);"
        "create view public.names as select name from public.orders;"
        "insert into public.orders (name) select n from generate_series(1, 5) as n; insert into public.lines values (3)"
    )
    columns = "id bigint generated by default as identity, number serial, name text, parent bigint, more text"
    run(admin, rebuild_file("orders", columns))
    run(admin, read("finish.sql"))
    assert one(admin, "select to_regclass('public.orders_backup')") is None
    admin.execute("insert into public.orders (name) values ('six'); insert into public.lines values (6)")
    assert one(admin, "select (id, number)::text from public.orders where name = 'six'") == "(6,6)"


def test_without_credentials_the_file_does_the_same(checkout: Checkout, cluster: Cluster) -> None:
    name = "db/finish_migrate_user_clusters_output.sql"
    said(checkout.run(FINISH), f"Written: {name}")
    said(checkout.run("deploy_sql_function.py"))
    with project(cluster, deployed=False) as running, running.database.connect() as admin:
        by_psql(running, checkout.root / FUNCTION_FILE)
        here(running, finish=False)
        admin.execute("alter table public.user_clusters disable row level security")
        with pytest.raises(AssertionError, match="row level security: it is off"):
            by_psql(running, checkout.root / name)
        assert one(admin, TABLES) == "user_clusters, user_clusters_backup"
        admin.execute("alter table public.user_clusters enable row level security")
        for _ in range(2):
            by_psql(running, checkout.root / name)
            assert (one(admin, TABLES), one(admin, STATE)) == ("user_clusters", "finished")
        said(checkout.run(FINISH, env=running.environment()), "Nothing to do.")


# --- what is asked


@pytest.mark.parametrize("answer", ["n", "y"])
def test_it_says_what_is_lost_and_asks(checkout: Checkout, migrated: LocalSupabase, admin: Admin, answer: str) -> None:
    person = Person(checkout, migrated.environment(), FINISH)
    person.sees("[y/N]")
    person.types(answer)
    code, text = person.leaves()
    text = " ".join(text.split())
    assert "Will be dropped: public.user_clusters_backup, 20 rows, " in text
    assert f"Close the way back in project {migrated.ref}? [y/N]" in text
    assert (code, one(admin, STATE)) == ((0, "finished") if answer == "y" else (1, "swapped")), text
    assert (one(admin, TABLES) == "user_clusters") == (answer == "y")
    if answer == "y":
        code, text = Person(checkout, migrated.environment(), FINISH).leaves()
        assert (code, "[y/N]" in text, "Nothing to do." in text) == (0, False, True)


def test_yes_is_an_answer(checkout: Checkout, migrated: LocalSupabase, admin: Admin) -> None:
    code, text = Person(checkout, migrated.environment(), FINISH, "--yes").leaves()
    assert (code, "[y/N]" in text, "user_clusters_backup, 20 rows" in text) == (0, False, True)
    assert one(admin, STATE) == "finished"


def test_a_dry_run_changes_nothing(checkout: Checkout, migrated: LocalSupabase, admin: Admin) -> None:
    done = checkout.run(FINISH, "--dry-run", env=migrated.environment())
    said(done, "Plan of finishing migrate_user_clusters, 1 step.", f"{STEP} (batch): to do", "rpc_migrations.finish()")
    assert one(admin, STATE) == "swapped"


# --- what is refused

# What somebody does, what is said then, and what lets it go on.
OBSTACLES = {
    "a view": (
        "create view public.v as select id from public.user_clusters_backup",
        "view public.v depends on table public.user_clusters_backup", "drop view public.v",
    ),
    "a foreign key": (
        "create table public.t (id uuid constraint key references public.user_clusters_backup)",
        "constraint key on table public.t depends on table public.user_clusters_backup", "drop table public.t",
    ),
    "a function": (
        "create function public.f(public.user_clusters_backup) returns int language sql as 'select 1'",
        r"function public\.f\(public\.user_clusters_backup\) depends on", "drop function public.f",
    ),
    "renamed": (
        "alter table public.user_clusters_backup rename to b",
        r"user_clusters_backup is not the table that the swap moved aside, which is called public\.b now",
        "alter table public.b rename to user_clusters_backup",
    ),
    "replaced": (
        "alter table public.user_clusters_backup rename to b; create table public.user_clusters_backup (id uuid);"
        " alter table public.user_clusters_backup enable row level security;"
        " revoke all on public.user_clusters_backup from anon, authenticated, service_role",
        r"user_clusters_backup is not the table that the swap moved aside, which is called public\.b now",
        "drop table public.user_clusters_backup; alter table public.b rename to user_clusters_backup",
    ),
    "another table in use": (
        "alter table public.user_clusters rename to u; create table public.user_clusters (id uuid)",
        "public.user_clusters is not the table that this migration made.*the only copy of its rows",
        "drop table public.user_clusters; alter table public.u rename to user_clusters",
    ),
    "the table in use is gone": (
        "alter table public.user_clusters rename to u", "public.user_clusters is not the table that this migration made",
        "alter table public.u rename to user_clusters",
    ),
    "a check fails": (
        "alter table public.user_clusters disable row level security",
        "1 of 21 checks failed: user_clusters: row level security.*Fix what is named",
        "alter table public.user_clusters enable row level security",
    ),
    "the row of the copy is gone": (
        "create table public.c as select * from rpc_migrations.copies; delete from rpc_migrations.copies",
        "the row of rpc_migrations.copies that tells what was swapped is gone",
        "insert into rpc_migrations.copies overriding system value select * from public.c; drop table public.c",
    ),
}  # fmt: skip


def test_what_is_in_the_way_is_named_and_nothing_is_changed(migrated: LocalSupabase, admin: Admin) -> None:
    for what, (do, message, undo) in OBSTACLES.items():
        admin.execute(do)  # type: ignore[call-overload]
        before = migrated.database.dump_schema()
        assert re.search(message, refused(migrated)), what
        assert migrated.database.dump_schema() == before, what
        admin.execute(undo)  # type: ignore[call-overload]
    assert one(admin, "select count(*) from rpc_migrations.runs where action = 'finish'") == 0
    assert here(migrated).error is None
    assert one(admin, TABLES) == "user_clusters"
    admin.execute(
        "delete from rpc_migrations.copies; update rpc_migrations.journal set rows = rows where step ~ '^swap'"
    )
    assert "The swap said: dropped" not in refused(migrated), "but what the swap said"


def test_what_comes_in_the_way_behind_the_question_is_refused_by_the_step(
    migrated: LocalSupabase, admin: Admin
) -> None:
    admin.execute("create view public.v as select id from public.user_clusters_backup")
    before = migrated.database.dump_schema()
    with pytest.raises(psycopg.Error, match=r"view public\.v depends on") as caught:
        run(admin, read("finish.sql"), "migrate_user_clusters")
    assert caught.value.sqlstate == "RM001"
    assert migrated.database.dump_schema() == before


STOPPED = {
    "begin the copy": "has not put the new table in place yet.*Run the migration to its end first",
    "compare the old and the new table": "has not put the new table in place yet",
    "swap the tables": r"foreign keys are not validated yet: user_clusters_user_id_fkey of public\.user_clusters",
    "create prompt_refinements": "foreign keys are not validated yet",
}


def test_a_migration_that_is_not_over_is_refused(running: LocalSupabase, admin: Admin) -> None:
    assert "is not applied: there is no way back to close" in refused(running)
    for step, message in STOPPED.items():
        run(admin, read(MIGRATION), "migrate_user_clusters", until=step)
        assert re.search(message, refused(running)), step
    run(admin, read(MIGRATION), "migrate_user_clusters")
    run(admin, read(ROLLBACK), "migrate_user_clusters", until="roll back: begin")
    assert "a rollback of migrate_user_clusters is under way" in refused(running)
    run(admin, read(ROLLBACK), "migrate_user_clusters")
    said = refused(running)
    assert "is not applied: there is no way back to close" in said
    advice = re.search(r"drop table public\.user_clusters_rolled_back_\d+;", said)
    assert advice, said
    admin.execute(advice[0].encode())
    assert "Run the migration first" in refused(running)
    assert one(admin, "select count(*) from public.user_clusters") == 20


def test_a_backup_that_was_dropped_by_hand_is_no_obstacle(migrated: LocalSupabase, admin: Admin) -> None:
    """As earlier versions of README said. Nor does another table of that name go in its place."""
    admin.execute("drop table public.user_clusters_backup; create table public.user_clusters_backup (id uuid)")
    admin.execute("alter table public.user_clusters_backup enable row level security")
    admin.execute("revoke all on public.user_clusters_backup from anon, authenticated, service_role")
    assert "user_clusters_backup is not the table that the swap moved aside Nothing was changed" in refused(migrated)
    admin.execute("drop table public.user_clusters_backup")
    assert here(migrated).error is None
    assert one(admin, STATE) == "finished"
    said = "select result ->> 'message' from rpc_migrations.journal where step ~ '^close the way back' and undone_at is null"
    assert one(admin, said) == "there was nothing to drop"


def test_a_kept_table_that_was_renamed_is_somebodys(migrated: LocalSupabase, admin: Admin) -> None:
    here(migrated, finish=False, rollback=True)
    here(migrated, finish=False)
    kept = one(admin, "select kept_as from rpc_migrations.copies where state = 'rolled back'")
    admin.execute(f"alter table {kept} rename to user_clusters_mine".encode())
    assert here(migrated).error is None
    assert one(admin, TABLES) == "user_clusters, user_clusters_mine"


def test_a_file_that_has_no_way_back_of_ours_and_a_folder(checkout: Checkout, running: LocalSupabase) -> None:
    env = running.environment()
    file = checkout.step_file("plain.sql", "create table public.plain ();")
    said(checkout.run(RUN, file, "--finish", env=env), "makes no online copy of a table", code=1)
    said(checkout.run(RUN, "db", "--finish", env=env), "--finish needs one file.", code=2)
    said(
        checkout.run(RUN, file, "--finish", "--rollback", env=env),
        "--finish cannot be combined with --rollback",
        code=2,
    )
    file = checkout.step_file("named.sql", f"-- step: {STEP}\nselect 1;")
    said(
        checkout.run(RUN, file, env=env),
        'names that begin with "close the way back: " are reserved for finishing',
        code=2,
    )


# --- locks, and others at work


@pytest.mark.parametrize("table", ["public.user_clusters_backup", "auth.users"])
def test_who_holds_a_lock_is_named_and_the_application_goes_on(
    migrated: LocalSupabase, admin: Admin, table: str
) -> None:
    """The table itself, or what its foreign key points at."""
    before = migrated.database.dump_schema()
    with migrated.database.connect("supabase_admin", autocommit=False) as holder:
        holder.execute(f"select count(*) from {table}".encode())
        outcome = here(migrated, patience=1)
        assert isinstance(outcome.error, Blocked), outcome.error
        assert f"pid {holder.info.backend_pid} " in outcome.error.message
        assert table in outcome.error.message
        assert outcome.exit_code == 1
        assert migrated.database.dump_schema() == before
        admin.execute(
            "set lock_timeout = '50ms'; insert into public.user_clusters (user_id, cluster_type) select id, 'x' from auth.users limit 1"
        )
        holder.rollback()
    assert here(migrated).error is None
    assert one(admin, TABLES) == "user_clusters"


def test_two_at_once_and_one_that_is_killed(migrated: LocalSupabase, admin: Admin) -> None:
    """The one is killed when all is done and it does not know; another begins in the meantime, and ends well."""
    asked: list[Exchange] = []

    def strike(exchange: Exchange) -> None:
        asked.append(exchange)
        exchange.forward()
        assert wait_until(lambda: first.poll() is not None or other.poll() is not None)
        exchange.close()

    proxy = FaultProxy(migrated.url, lambda request: strike if request.step == STEP and not asked else None)
    with proxy:
        env = {"SUPABASE_URL": proxy.url, "SUPABASE_SERVICE_KEY": migrated.service_key}
        first = start_script(FINISH, env=env)
        assert wait_until(lambda: bool(asked))
        other = start_script(FINISH, env=env)
        out, err = other.communicate(timeout=60)
        first.kill()
        first.communicate()
    assert (other.returncode, "Nothing to do." in out) == (0, True), out + err
    assert one(admin, TABLES) == "user_clusters"
    calls = "select array_agg(calls) from rpc_migrations.journal where step = %s"
    assert admin.execute(calls, [STEP]).fetchone() == ([1],)
    assert rpc(migrated, "execute_sql", query="select 1 as one").is_success
