"""What a person on a terminal is asked before anything is changed, what each answer does, and where nothing is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from checkout import Checkout, said
from local_supabase import LocalSupabase
from projects import is_migrated, one
from terminal import ANSWERED, Person

MIGRATE, ROLL_BACK, REMOVE, RUN = (
    "migrate_clusters.py", "rollback_clusters.py", "remove_sql_function.py", "run_migration.py",
)  # fmt: skip
QUESTION = "[y/N]"


@pytest.fixture
def admin(running: LocalSupabase) -> Iterator[psycopg.Connection[Any]]:
    """A connection to it."""
    with running.database.connect() as connection:
        yield connection


def answers(checkout: Checkout, running: LocalSupabase, answer: str, *arguments: str) -> tuple[int | None, str]:
    """Wait for the question and answer it: a line, or a key with Ctrl. The exit code, and what stood there, in one line."""
    person = Person(checkout, running.environment(), *arguments)
    person.sees(QUESTION)
    if answer.startswith("Ctrl-"):
        person.presses(answer[-1].lower())
    else:
        person.types(answer)
    code, text = person.leaves()
    assert "Traceback" not in text
    return code, " ".join(text.split())


@pytest.mark.parametrize("answer", ["", "n", "what?", "Ctrl-D", "Ctrl-C"])
def test_what_is_no_yes_changes_nothing(
    checkout: Checkout, running: LocalSupabase, admin: psycopg.Connection[Any], answer: str
) -> None:
    before = running.database.dump_schema()
    code, text = answers(checkout, running, answer, MIGRATE)
    assert code == (130 if answer == "Ctrl-C" else 1)
    assert ("Interrupted." if answer == "Ctrl-C" else "Nothing was changed.") in text
    assert running.database.dump_schema() == before
    assert one(admin, "select count(*) from rpc_migrations.runs") == 0


def test_it_says_where_what_and_how_much_and_goes_on_after_yes(
    checkout: Checkout, running: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    code, text = answers(checkout, running, "y", MIGRATE)
    assert code == 0, text
    for said_before in (
        "public.user_clusters, 20 rows, ", " 1 index, ", "3 policies", "1 trigger", "about 1 s",
        "kept as public.user_clusters_backup", f"Migrate project {running.ref}? [y/N]",
    ):  # fmt: skip
        assert said_before in text
    assert text.index("[y/N]") < text.index("Migrating: ")
    assert is_migrated(admin)


@pytest.mark.parametrize("way", ["--yes", "MIGRATION_YES", "no terminal"])
def test_where_it_is_answered_or_nobody_is_there_nothing_is_asked(
    checkout: Checkout, running: LocalSupabase, admin: psycopg.Connection[Any], way: str
) -> None:
    if way == "no terminal":
        said(checkout.run(MIGRATE, env=running.environment(), stdin=None), "is applied")
    else:
        env = running.environment() | (ANSWERED if way == "MIGRATION_YES" else {})
        code, text = Person(checkout, env, MIGRATE, *([way] if way == "--yes" else [])).leaves()
        assert (code, QUESTION in text) == (0, False)
    assert is_migrated(admin)


def test_going_on_is_not_asked_for_and_neither_is_what_is_done(checkout: Checkout, running: LocalSupabase) -> None:
    text = "-- step: a\nselect 1;\n-- step: b\nselect {};\n"
    file = checkout.step_file("two.sql", text.format("1 / 0"))
    said(checkout.run(RUN, file, env=running.environment()), "division by zero", code=1)
    checkout.step_file("two.sql", text.format(1))
    for expected in ("is applied", "Nothing to do."):
        code, shown = Person(checkout, running.environment(), RUN, file).leaves()
        assert (code, QUESTION in shown) == (0, False)
        assert expected in shown


def test_a_missing_table_is_told(checkout: Checkout, running: LocalSupabase, admin: psycopg.Connection[Any]) -> None:
    admin.execute("drop table public.user_clusters")
    code, text = answers(checkout, running, "n", MIGRATE)
    assert (code, "public.user_clusters is not there. Is this the right project?" in text) == (1, True)
    done = checkout.run(MIGRATE, env=running.environment())
    said(done, "Warning: public.user_clusters is not there", "this is the wrong project", "is applied")


def test_a_missing_table_that_alter_table_is_to_alter(checkout: Checkout, running: LocalSupabase) -> None:
    """Nothing would be made of it, so nothing of the kind is said."""
    file = checkout.step_file("none.sql", "-- rebuild: public.nothing\nalter table nothing add a text;\n")
    code, text = answers(checkout, running, "n", RUN, file)
    assert (code, "public.nothing is not there. Is this the right project? There is nothing to rebuild." in text) == (
        1,
        True,
    )
    refused = checkout.run(RUN, file, env=running.environment())
    said(refused, "there is no table public.nothing", code=1)
    assert "will be made" not in refused.stderr
    said(checkout.run("doctor.py", file, env=running.environment()), "public.nothing", "nothing to rebuild", code=1)


def test_a_folder_is_asked_for_once_before_anything_is_told_to_the_cli(
    checkout: Checkout, running: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    folder = checkout.root / "files"
    folder.mkdir()
    for number in range(3):
        (folder / f"2026010100000{number}_f.sql").write_text(f"create table public.t{number} (id int);")
    code, text = answers(checkout, running, "n", RUN, "files", "--record")
    assert (code, "20260101000002_f.sql: 1 step" in text) == (1, True)
    assert one(admin, "select to_regclass('supabase_migrations.schema_migrations')::text") is None
    code, text = answers(checkout, running, "y", RUN, "files", "--record")
    assert (code, text.count(QUESTION), one(admin, "select to_regclass('public.t2')::text")) == (0, 1, "t2")


def test_a_rollback_that_leaves_an_alteration_behind_is_asked_for(
    checkout: Checkout, running: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    """Nothing was said of it. Without one nothing is asked, and where nobody is there it is a warning."""
    said(checkout.run(MIGRATE, env=running.environment()), "is applied")
    code, text = Person(checkout, running.environment(), ROLL_BACK).leaves()
    assert (code, QUESTION in text, "altered" in text) == (0, False, False)
    said(checkout.run(MIGRATE, env=running.environment()), "is applied")
    admin.execute("alter table public.user_clusters add column hue text")
    altered = "public.user_clusters was altered since its migration: column hue."
    code, text = answers(checkout, running, "n", ROLL_BACK)
    assert (code, altered in text, is_migrated(admin)) == (1, True, True)
    admin.execute("create view public.hues as select hue from public.user_clusters")
    said(checkout.run(ROLL_BACK, env=running.environment()), f"Warning: {altered}", code=1)
    admin.execute("drop view public.hues")
    admin.execute(
        "select set_config('rpc_migrations.migration', 'migrate_user_clusters', false), rpc_migrations.begin_rollback()"
    )
    assert one(admin, "select state from rpc_migrations.copies order by id desc limit 1") == "rolling back"
    admin.execute("create index on public.user_clusters (hue)")
    code, text = Person(checkout, running.environment(), ROLL_BACK).leaves()
    assert (code, QUESTION in text) == (0, False)
    assert (
        "Warning: public.user_clusters was altered since its migration: column hue, index user_clusters_hue_idx."
        in " ".join(text.split())
    )


def test_discarding_and_removing_are_asked_for_with_what_is_lost(
    checkout: Checkout, running: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    said(checkout.run(MIGRATE, env=running.environment()))
    admin.execute(
        "update public.user_clusters set cluster_score = -1 where ctid in (select ctid from public.user_clusters limit 3)"
    )
    admin.execute(
        "delete from public.user_clusters where ctid in (select ctid from public.user_clusters where cluster_score >= 0 limit 1)"
    )
    before = running.database.dump_schema()
    code, text = answers(checkout, running, "n", REMOVE)
    assert (code, "no script can roll back: public.user_clusters" in text) == (1, True)
    code, text = answers(checkout, running, "n", ROLL_BACK, "--discard-changes")
    assert (code, "4 changes made since" in text) == (1, True), text
    assert running.database.dump_schema() == before
    code, text = answers(checkout, running, "y", ROLL_BACK, "--discard-changes")
    assert (code, one(admin, "select count(*) from public.user_clusters where cluster_score >= 0")) == (0, 20), text
    code, text = answers(checkout, running, "yes", REMOVE)
    assert (code, one(admin, "select to_regnamespace('rpc_migrations')::text")) == (0, None), text


def test_what_keeps_everything_is_not_asked_for(
    checkout: Checkout, running: LocalSupabase, admin: psycopg.Connection[Any]
) -> None:
    said(checkout.run(MIGRATE, env=running.environment()))
    for command in ([ROLL_BACK], [REMOVE, "--keep-journal"]):
        code, text = Person(checkout, running.environment(), *command).leaves()
        assert (code, QUESTION in text) == (0, False), text
