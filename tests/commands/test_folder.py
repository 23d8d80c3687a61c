"""A folder of migration files: what is applied, in which order, how often; what the Supabase CLI has applied; the way back."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from advisors import cluster_for_the_cli, find_cli
from conftest import Scripts
from local_supabase import Cluster, LocalSupabase
from migration_folder import Project, failure
from projects import one
from schema_dump import dump_schema
from step_runner import ROLLBACK, deploy, read, run

CLI_HISTORY = "select version, name, statements from supabase_migrations.schema_migrations order by version"


def make(table: str) -> str:
    """A file that makes a table, which fails where it is there, and the way back."""
    return f"create table public.{table} (id integer);\ninsert into public.{table} values (1);\n/* rollback: drop table public.{table}; */\n"


THREE = {"_20260101000000_a": make("a"), "_20260102000000_b": make("b"), "_20260103000000_c": make("c")}


def test_each_file_is_run_once_in_the_order_of_the_names(project: Project) -> None:
    project.write(**dict(reversed(THREE.items())))
    assert project.run().report["outcome"] == "done"
    assert project.tables == ["a", "b", "c"]
    again = project.run()
    assert (again.report["outcome"], again.report["requests"]) == ("nothing to do", 1)

    project.write(_20260104000000_d=make("d"))
    assert [step["name"] for step in project.run().report["steps"]] == ["20260104000000_d"]
    assert project.tables == ["a", "b", "c", "d"]


def test_it_stops_at_the_first_failure_and_goes_on_there(project: Project) -> None:
    project.write(**THREE)
    project.write(_20260102000000_b="select 1;\nselect 1 / 0;\n")
    error = failure(project.run())
    assert (error.code, project.tables) == ("22012", ["a"])
    assert "(20260102000000_b.sql, line 2)" in error.message
    project.write(_20260102000000_b=make("b"))
    assert project.run().exit_code == 0
    assert project.tables == ["a", "b", "c"]


def test_files_with_steps_go_on_at_the_step_that_failed(project: Project) -> None:
    steps = "-- step: one\ncreate table public.s (id integer);\n-- step: two\n{}\n"
    project.write(
        _1_first=steps.format("select 1 / 0;"), _2_second=steps.replace("public.s", "public.t").format("select 1;")
    )
    assert failure(project.run()).code == "22012"
    project.write(_1_first=steps.format("insert into public.s values (2);"))
    done = project.run()
    assert [step["name"] for step in done.report["steps"]] == ["1_first: two", "2_second: one", "2_second: two"]
    assert project.tables == ["s", "t"]


def test_quick_steps_of_several_files_share_a_request(project: Project) -> None:
    """As they do within a file. Looking, starting and ending the run are the other three."""
    project.write(**{f"_{n}_note": f"do $$ begin perform {n}; end $$;\n" for n in range(10, 35)})
    done = project.run()
    assert (done.exit_code, done.report["requests"], len(done.report["steps"])) == (0, 4, 25)
    with project.database.connect() as connection:
        assert (
            one(
                connection, "select count(distinct migration) from rpc_migrations.journal where finished_at is not null"
            )
            == 25
        )
        assert one(connection, "select count(*) from rpc_migrations.runs") == 1


def test_steps_of_several_files_may_have_the_same_names(project: Project) -> None:
    """Also where they share a request; and each is on record as its own file's."""
    project.write(
        **{
            f"_{number}_{name}": "-- step: functions\n"
            f"create function public.{name}() returns integer language sql as 'select {number}';\n"
            f"-- step: grants\ngrant execute on function public.{name}() to anon;\n"
            for number, name in enumerate("abc", 1)
        }
    )
    assert project.run().exit_code == 0
    with project.database.connect() as connection:
        rows = connection.execute("select migration, step from rpc_migrations.calls where step is not null order by id")
        assert rows.fetchall() == [(name, step) for name in ("1_a", "2_b", "3_c") for step in ("functions", "grants")]


def test_nothing_is_sent_where_one_file_cannot_run(project: Project) -> None:
    project.write(**THREE)
    project.write(_20260104000000_d="vacuum;\n")
    assert "20260104000000_d.sql:1: vacuum" in (failure(project.run()).details or "")
    assert project.tables == []
    assert project.run(to="20260103000000").exit_code == 0


def test_all_files_that_cannot_run_are_told_at_once(project: Project) -> None:
    """And what to do instead is said once."""
    project.write(**THREE)
    project.write(_d="vacuum;\n", _e="select 1;\nvacuum a;\n", _f="set role anon;\n")
    error = failure(project.run())
    assert error.message == "3 files cannot run as they are; nothing was sent."
    lines = (error.details or "").split("\n")
    assert [line.partition(". ")[0] for line in lines] == ["d.sql:1: vacuum", "e.sql:2: vacuum.", "f.sql:1: set role"]


def test_a_file_that_sorts_before_an_applied_one_is_told(project: Project) -> None:
    project.write(**THREE)
    project.run()
    project.write(_20260102120000_late=make("late"))
    error = failure(project.run())
    assert "20260102120000_late.sql" in error.message and "20260103000000_c.sql" in error.message
    assert "--include-all" in (error.hint or "")
    assert project.tables == ["a", "b", "c"]
    assert project.run(include_all=True).exit_code == 0
    assert project.tables == ["a", "b", "c", "late"]


@pytest.mark.parametrize(
    "text",
    [
        b"create table public.a (id integer);\n-- step: by step, a comment\nselect 1;\n",
        b"-- Step: one\nselect 1;\n-- Step: one\nselect 2;\n",
        b"select 1;\n-- Rebuild: public.inbox\nselect 2;\n",
        "select 'caf\xe9';\n".encode("latin-1"),
        "select 1;\n".encode("utf-16"),
    ],
    ids=["step", "two steps", "rebuild", "latin-1", "utf-16"],
)
def test_what_is_wrong_with_a_file_that_the_cli_has_applied_does_not_matter(project: Project, text: bytes) -> None:
    """Nobody edits it any more. Not applied, it stops the folder before anything is run."""
    project.write(_20260102000000_b=make("b"))
    (project.folder / "20260101000000_a.sql").write_bytes(text)
    wanted = failure(project.run("20260101000000_a"))
    for outcome in (project.run(), project.run(dry_run=True), project.run(status=True)):
        assert str(failure(outcome)) == str(wanted)
    assert project.tables == []
    with project.database.connect() as connection:
        connection.execute("create schema supabase_migrations")
        connection.execute("create table supabase_migrations.schema_migrations (version text primary key, name text)")
        connection.execute("insert into supabase_migrations.schema_migrations values ('20260101000000', 'a')")
    for outcome in (project.run(dry_run=True), project.run(), project.run(), project.run(status=True)):
        assert outcome.exit_code == 0
    assert project.tables == ["b"]


@pytest.mark.parametrize(
    ("named", "statement"),
    [
        ("a", "drop table if exists a cascade; create table a (id integer);"),
        ("public.a", "drop table if exists other, a; CREATE TABLE IF NOT EXISTS Public . A (id integer);"),
        ('"public"."A ""b"', 'drop table "A ""b"; create unlogged table "public"."A ""b" as select 2 as id;'),
    ],
)
def test_files_that_were_run_by_hand_are_not_run_again(project: Project, named: str, statement: str) -> None:
    """The SQL Editor leaves no note of it, and the first file often drops what it makes."""
    with project.database.connect() as connection:
        connection.execute(f"create table {named} (id integer); insert into {named} values (1)")
    project.write(_001_first=f"select 1;\n{statement}\n", _002_new=make("new"))
    for outcome in (project.run(), project.run(dry_run=True), project.run("001_first", "002_new")):
        error = failure(outcome)
        assert f"tables that they drop and make anew are there: {named} (001_first.sql)" in error.message
        assert "--include-all" in (error.hint or "") and "by its name" in (error.hint or "")
    with project.database.connect() as connection:
        assert one(connection, f"select id from {named}") == 1
    assert project.run("002_new").exit_code == 0
    assert "001_first.sql" in failure(project.run()).message, "it sorts before one that is applied"
    assert project.run(include_all=True).exit_code == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("drop table if exists other cascade;\ndrop table a;\n", "create table a (id integer);\n"),
        (
            "drop table if exists " + "".join(f"o{n}, " for n in range(30)) + "a;\n",
            "create table public.a (id text);\n",
        ),
        ("drop schema public cascade;\ncreate schema public;\n", "create table a (id integer);\n"),
        ('drop schema if exists other, "public" cascade;\n', 'create table if not exists "public"."a" (id integer);\n'),
    ],
)
def test_what_one_file_drops_and_another_makes_was_perhaps_run_by_hand(
    project: Project, first: str, second: str
) -> None:
    """A first file that clears the way, or one in the middle of an old folder that begins anew."""
    with project.database.connect() as connection:
        connection.execute("create table a (id integer); insert into a values (1)")
    project.write(_001_clear=first, _002_make=second)
    assert "make anew are there" in failure(project.run()).message
    with project.database.connect() as connection:
        assert one(connection, "select id from a") == 1


def test_files_that_make_what_is_there_are_run_where_nothing_is_lost(project: Project) -> None:
    with project.database.connect() as connection:
        connection.execute("create table public.a (id integer)")
    again = "create table if not exists public.a (id integer);\n"
    project.write(_1_a=f"{again}alter table a rename to b;\n{again}")
    assert project.run().exit_code == 0
    project.write(_2_a="drop table a;\ncreate table a (id integer);\n")
    assert project.run().exit_code == 0, "others are known as applied"


@pytest.mark.parametrize("name", ["20260102000000", "20260102000000_b", "20260102000000_b.sql"])
def test_to_stops_after_a_file(project: Project, name: str) -> None:
    project.write(**THREE)
    done = project.run(to=name)
    assert done.lines[-2].startswith("2 files of migrations/ are applied: 2 steps, "), "the folder is not"
    assert done.lines[-1] == "Not run, because of --to: 20260103000000_c.sql"
    assert project.tables == ["a", "b"]


def test_to_a_file_that_is_not_there(project: Project) -> None:
    project.write(**THREE)
    error = failure(project.run(to="nothing"))
    assert (error.exit_code, project.tables) == (2, [])


def test_several_files_may_be_named(project: Project) -> None:
    project.write(**THREE)
    assert project.run("20260103000000_c", "20260101000000_a").exit_code == 0
    assert project.tables == ["a", "c"]


def test_files_of_one_name_are_refused(project: Project) -> None:
    project.write(**THREE)
    assert "have the same name" in failure(project.run("20260101000000_a", "20260101000000_a")).message


def test_a_folder_without_files_is_told(project: Project) -> None:
    assert "There is no .sql file in" in failure(project.run()).message


def test_only_the_folder_s_own_sql_files_are_its_files(project: Project) -> None:
    """Not an editor's, the file system's, or those of a folder in it."""
    project.write(**THREE)
    (project.folder / ".#20260101000000_a.sql").write_text("a lock of an editor")
    (project.folder / "._20260101000000_a.sql").write_bytes(b"\x00\x05\x16\x07")
    (project.folder / "archive.sql").mkdir()
    (project.folder / "archive.sql" / "20250101000000_old.sql").write_text("select 1 / 0;")
    (project.folder / "notes.txt").write_text("no SQL")
    assert project.run().exit_code == 0
    assert project.tables == ["a", "b", "c"]


def test_files_of_one_version_are_two_files_here_and_one_for_the_cli(project: Project) -> None:
    project.write(_20260101_a=make("a"), _20260101_b=make("b"))
    error = failure(project.run(record=True))
    assert "20260101_a.sql and 20260101_b.sql have the same version" in error.message
    assert project.run().exit_code == 0
    assert project.tables == ["a", "b"]


def test_dry_run_lists_and_runs_nothing(project: Project) -> None:
    project.write(**THREE)
    project.run("20260101000000_a")
    plan = project.run(dry_run=True)
    assert [(one["file"], one["state"]) for one in plan.report["files"]] == [
        ("20260102000000_b.sql", "to do"), ("20260103000000_c.sql", "to do"),
    ]  # fmt: skip
    assert project.tables == ["a"]


def test_status_is_a_table_of_all_files_and_all_else(project: Project) -> None:
    project.write(**THREE)
    project.write(_0_gone=make("gone"))
    project.run(to="20260101000000")
    (project.folder / "0_gone.sql").unlink()
    project.write(_20260101000000_a=make("a") + "select 'edited';\n")
    project.write(_20260102000000_b="-- step: one\nselect 1;\n-- step: two\nselect 1 / 0;\n")
    with project.database.connect() as connection:
        connection.execute(
            'select rpc_migrations.record_for_cli(\'{"version": "20250101000000", "name": "older", "statements": []}\')'
        )
    failure(project.run(include_all=True, accept_edits=True))
    project.write(_20260101000000_a=make("a") + "select 'edited again';\n")
    status = project.run(status=True).report
    assert [(one["file"], one["state"], bool(one["client"]), one["edited"]) for one in status["files"]] == [
        ("20260101000000_a.sql", "applied", True, ["20260101000000_a"]),
        ("20260102000000_b.sql", "begun", True, []),
        ("20260103000000_c.sql", "to do", False, []),
    ]
    assert [(one["migration"], one["state"]) for one in status["others"]] == [
        ("0_gone", "1 step done"), ("20250101000000", "applied by the Supabase CLI"),
    ]  # fmt: skip


def test_status_does_not_call_applied_what_it_cannot_see(project: Project) -> None:
    """Of a migration that has no file here, the journal has the steps that were done, and not those that were not."""
    rebuild = "-- rebuild: public.a\nalter table a alter column id type bigint;\n"
    project.write(_1_a="create table public.a (id integer primary key);", _2_wide=rebuild)
    project.write(_3_steps="-- step: one\nselect 1;\n-- step: two\nselect 1;\n-- step: three\nselect 1 / 0;\n")
    assert project.run("1_a").exit_code == 0
    assert project.run("2_wide", stop_before_swap=True).exit_code == 0
    failure(project.run("3_steps"))
    for name in ("2_wide", "3_steps"):
        (project.folder / f"{name}.sql").rename(project.folder.parent / f"{name}.sql")

    def others() -> list[tuple[str, str]]:
        return [(one["migration"], one["state"]) for one in project.run(status=True).report["others"]]

    assert others() == [("2_wide", "begun"), ("3_steps", "2 steps done")]
    assert project.run("../2_wide").exit_code == 0
    (name, state), _ = others()
    assert (name, state.split()[1:]) == ("2_wide", ["steps", "done"])
    assert project.run("../2_wide", rollback=True).exit_code == 0
    assert dict(others()) == {"2_wide": "rolled back", "3_steps": "2 steps done"}
    assert project.run("../2_wide").exit_code == 0
    assert project.run("../2_wide", finish=True).exit_code == 0
    assert ("2_wide", "applied") in others()


def test_an_edited_file_is_refused_and_its_text_can_be_accepted(project: Project) -> None:
    project.write(**THREE)
    project.run(to="20260101000000")
    project.write(_20260101000000_a="-- Why.\n" + make("a"))
    assert project.run(to="20260101000000").report["outcome"] == "nothing to do"

    project.write(_20260101000000_a=make("a").replace("values (1)", "values (2)"))
    error = failure(project.run())
    assert "edited since: 20260101000000_a.sql:1" in error.message
    assert "--accept-edits" in (error.hint or "")
    assert project.tables == ["a"]
    assert project.run(accept_edits=True).exit_code == 0
    assert project.run().report["outcome"] == "nothing to do"
    with project.database.connect() as connection:
        assert one(connection, "select array_agg(id) from public.a") == [1], "the edited text was not run"


def test_what_the_cli_has_applied_is_not_run(project: Project) -> None:
    project.write(**THREE)
    with project.database.connect() as connection:
        connection.execute("create table public.a (id integer)")
        connection.execute("create schema supabase_migrations")
        connection.execute("create table supabase_migrations.schema_migrations (version text primary key)")
        connection.execute("insert into supabase_migrations.schema_migrations values ('20260101000000')")
    assert (
        project.run("20260101000000_a").lines[-1].endswith("20260101000000_a is applied by the Supabase CLI already.")
    )
    assert project.run().exit_code == 0
    assert project.tables == ["schema_migrations", "a", "b", "c"][1:]
    with project.database.connect() as connection:  # never without being asked
        assert connection.execute("select * from supabase_migrations.schema_migrations").fetchall() == [
            ("20260101000000",)
        ]


def test_record_tells_the_cli_in_the_transaction_of_the_last_step(project: Project) -> None:
    project.write(
        _20260101000000_a="-- step: one\nbegin;\ncreate table public.a (id integer);\nselect 1;\ncommit;\n-- step: two\nselect 1 / 0;\n"
    )
    failure(project.run(record=True))
    with project.database.connect() as connection:
        assert one(connection, "select to_regnamespace('supabase_migrations')") is None
    project.write(
        _20260101000000_a="-- step: one\nbegin;\ncreate table public.a (id integer);\nselect 1;\ncommit;\n-- step: two\nselect 2;\n"
    )
    assert project.run(record=True).exit_code == 0
    with project.database.connect() as connection:
        assert connection.execute(CLI_HISTORY).fetchall() == [
            ("20260101000000", "a", ["create table public.a (id integer)", "select 1", "select 2"])
        ]


def test_record_fills_the_columns_that_it_knows_of_a_hosted_table(project: Project) -> None:
    with project.database.connect() as connection:
        connection.execute("create schema supabase_migrations")
        connection.execute(
            "create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text, created_by text, "
            "idempotency_key text unique, rollback text[])"
        )
    project.write(**THREE)
    project.run(to="20260101000000")  # applied without --record: told afterwards
    assert project.run(record=True).exit_code == 0
    with project.database.connect() as connection:
        assert one(
            connection, "select array_agg(name order by version) from supabase_migrations.schema_migrations"
        ) == ["a", "b", "c"]


def test_record_makes_nothing_that_is_there(project: Project) -> None:
    """The table may be another role's, where the CLI came as that; and what alters it has the API read the whole schema anew."""
    with project.database.connect("supabase_admin") as connection:
        connection.execute(
            "create schema supabase_migrations; grant usage on schema supabase_migrations to postgres; "
            "create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text); "
            "grant all on supabase_migrations.schema_migrations to postgres"
        )
    project.write(_20260101000000_a="select 1;")
    assert project.run(record=True).exit_code == 0
    with project.database.connect() as connection:
        assert connection.execute(CLI_HISTORY).fetchall() == [("20260101000000", "a", ["select 1"])]
        connection.execute("listen pgrst")
        connection.execute(
            'select rpc_migrations.record_for_cli(\'{"version": "20260102000000", "name": "b", "statements": []}\')'
        )
        assert list(connection.notifies(timeout=0.1)) == []


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("plain", "select 1;", "knows files called"),
        ("20260101000000_r", "select rpc_migrations.lock_key('a');", "would run it where"),
    ],
)
def test_what_the_cli_could_not_run_is_not_recorded(project: Project, name: str, text: str, why: str) -> None:
    project.write(**{name: text})
    assert why in failure(project.run(record=True)).message
    with project.database.connect() as connection:
        assert one(connection, "select count(*) from rpc_migrations.journal") == 0


def test_the_way_back_stands_in_a_comment(project: Project) -> None:
    """It is run once, and the file counts as not applied, also for the CLI."""
    project.write(**THREE)
    before = dump_schema(project.database)
    project.run("20260101000000_a", record=True)
    assert project.run("20260101000000_a", rollback=True).exit_code == 0
    assert [line for line in dump_schema(project.database) if "supabase_migrations" not in line] == before
    with project.database.connect() as connection:
        assert connection.execute(CLI_HISTORY).fetchall() == []
    assert project.run("20260101000000_a", rollback=True).report["outcome"] == "nothing to do"
    assert project.run("20260101000000_a").exit_code == 0
    assert project.run("20260101000000_a", rollback=True).exit_code == 0, "and again"


def test_a_rollback_that_failed_is_finished_first(project: Project) -> None:
    text = "create table public.a (id integer);\n/* rollback:\n-- step: first\nselect 1;\n-- step: second\ndrop table public.{};\n*/\n"
    project.write(_1_a=text.format("nothing"))
    project.run("1_a")
    error = failure(project.run("1_a", rollback=True))
    assert (error.code, "(1_a.sql, line 6)" in error.message) == ("42P01", True)
    for refused in (failure(project.run()), failure(project.run("1_a"))):
        assert "rollback of 1_a is under way" in refused.message
        assert refused.hint
        assert "give" not in refused.hint, "a written way back cannot be given up"
    assert "being rolled back" in str(project.run(status=True).report)
    project.write(_1_a=text.format("a"))
    assert project.run("1_a", rollback=True).exit_code == 0
    assert project.tables == []


def test_a_rollback_that_has_keys_to_validate_is_finished_first(project: Project) -> None:
    """Nothing of the folder is run: from the swap back on, no row of the journal tells of it."""
    key = "create table public.notes (id int primary key, t int references public.t);"
    rebuild = "-- rebuild: public.t\nalter table t add column b integer;"
    project.write(_1_a=f"create table public.t (id integer primary key); {key}", _3_c=rebuild)
    assert project.run().error is None
    with project.database.connect() as connection:
        run(connection, read(ROLLBACK), migration="3_c", until="roll back: swap the tables back")
    project.write(_2_b="create table public.b ();")
    assert "rollback of 3_c is under way" in failure(project.run(include_all=True)).message
    assert project.tables.count("b") == 0
    assert "being rolled back" in str(project.run(status=True).report)


def test_a_rollback_that_was_given_up_is_none_that_is_under_way(project: Project) -> None:
    """The folder was refused from then on: "give it up", and there was nothing to give up."""
    rebuild = "-- rebuild: public.t\nalter table t add column b integer;"
    project.write(_1_a="create table public.t (id integer primary key);", _2_b=rebuild)
    assert project.run().error is None
    with project.database.connect() as connection:
        run(connection, read(ROLLBACK), migration="2_b", until="roll back: begin")
    project.write(_3_c="create table public.c ();")
    assert "rollback of 2_b is under way" in failure(project.run()).message
    assert "--give-up" in str(failure(project.run()).hint)
    assert project.run("2_b", rollback=True, give_up=True).error is None
    assert project.run().error is None
    assert "c" in project.tables
    assert project.run("2_b", rollback=True).error is None
    assert project.run(include_all=True).error is None
    project.write(_4_d="create table public.d ();")
    assert project.run().error is None, "nor is one that was done, and migrated again"


def test_a_file_without_a_way_back_says_so(project: Project) -> None:
    project.write(_1_a="create table public.a (id integer);")
    project.run()
    assert "/* rollback: ... */" in (failure(project.run("1_a", rollback=True)).hint or "")


@pytest.mark.parametrize("option", ["rollback", "write_sql"])
def test_what_goes_with_one_file_is_refused_of_a_folder(project: Project, option: str) -> None:
    project.write(**THREE)
    assert "needs one file" in failure(project.run(**{option: True})).message


@pytest.mark.parametrize("options", [{"to": "b"}, {"include_all": True}], ids=str)
def test_what_goes_with_a_folder_is_refused_of_one_file(project: Project, options: dict[str, Any]) -> None:
    project.write(**THREE)
    assert "need a folder" in failure(project.run("20260101000000_a", **options)).message
    assert project.tables == []


def test_a_new_file_can_be_run_as_it_is_and_is_never_replaced(project: Project, scripts: Scripts) -> None:
    done = scripts("new_migration.py", "Add order\nstatus!", "--folder", str(project.folder))
    assert done.returncode == 0, done.stderr
    (file,) = project.folder.iterdir()
    assert re.fullmatch(r"\d{14}_add_order_status\.sql", file.name)
    assert str(file) in done.stdout
    assert failure(project.run()).message.endswith("has no SQL.")  # as long as nobody has written any
    file.write_text(file.read_text().replace("-- create", "create").replace("-- drop", "drop"))
    assert project.run().exit_code == 0
    assert project.tables == ["example"]
    assert project.run(file.stem, rollback=True).exit_code == 0
    assert project.tables == []
    assert scripts("new_migration.py", "!", "--folder", str(project.folder)).returncode == 2
    assert scripts("new_migration.py", "x", "--folder", str(project.folder), "--rebuild", "").returncode == 2


def test_what_is_to_be_pasted_may_have_blanks_in_its_path(scripts: Scripts, tmp_path: Path) -> None:
    done = scripts("new_migration.py", "x", "--folder", str(tmp_path / "of my own"))
    (file,) = (tmp_path / "of my own").iterdir()
    said, command = done.stdout.splitlines()[-1].split(": ", 1)
    assert (said, shlex.split(command)) == ("Edit it, then", ["python", "scripts/run_migration.py", str(file)])


def test_a_rebuild_is_recorded_as_the_plain_statement_and_taken_out_by_its_rollback(project: Project) -> None:
    project.write(
        _20260101000000_a="create table public.a (id integer primary key); insert into public.a values (1), (2);",
        _20260102000000_b="-- rebuild: public.a\nalter table a alter column id type bigint;\n-- step: after\nselect 3;\n",
        _20260103000000_c=make("c"),
    )
    assert project.run(record=True).exit_code == 0
    with project.database.connect() as connection:
        assert connection.execute(CLI_HISTORY).fetchall()[1] == (
            "20260102000000", "b", ["alter table a alter column id type bigint", "select 3"],
        )  # fmt: skip
        assert connection.execute("select count(*), min(pg_typeof(id)::text) from public.a").fetchone() == (2, "bigint")
        assert project.run("20260102000000_b", rollback=True).exit_code == 0
        assert [row[0] for row in connection.execute(CLI_HISTORY)] == ["20260101000000", "20260103000000"]
        assert connection.execute("select count(*), min(pg_typeof(id)::text) from public.a").fetchone() == (
            2,
            "integer",
        )
    assert project.run("20260102000000_b", rollback=True).report["outcome"] == "nothing to do"


def test_it_stops_before_the_swap_until_it_is_asked_for(project: Project) -> None:
    """The same command again catches up and compares anew; without the option it swaps. What was written meanwhile is there."""
    table = "create table public.a (id integer primary key, n integer); insert into public.a select n, n from generate_series(1, 9) as n;"
    file = "20260102000000_b"
    project.write(
        _20260101000000_a=table,
        _20260102000000_b="-- rebuild: public.a\nalter table a alter column id type bigint;\n-- step: after\nselect 3;\n",
    )
    project.run("20260101000000_a")
    type_of_key = "select distinct pg_typeof(id)::text from public.a"
    with project.database.connect() as connection:
        assert project.run(file, until="copy the rows").report["outcome"] == "done"
        status = project.run(file, status=True, verbose=False)
        assert any("Changes to be replayed: 0 (" in line for line in status.lines), status.lines
        for turn in range(2):
            stopped = project.run(file, stop_before_swap=True)
            assert any('has stopped before "swap the tables"' in line for line in stopped.lines), stopped.lines
            assert [step["name"] for step in stopped.report["steps"] if not step["already"]][-2:] == [
                "replay what changed", "compare the old and the new table",
            ]  # fmt: skip
            assert connection.execute(type_of_key).fetchall() == [("integer",)]
            connection.execute("update public.a set n = n + 100 where id = %s", [turn + 1])
            connection.execute("insert into public.a values (%s, 7)", [turn + 20])
        status = project.run(file, status=True, verbose=False)
        assert any("Changes to be replayed: 2 (" in line for line in status.lines), status.lines
        assert project.run(file).exit_code == 0
        assert connection.execute(type_of_key).fetchall() == [("bigint",)]
        assert connection.execute("select count(*), sum(n) from public.a").fetchone() == (11, 45 + 200 + 14)
        assert project.run(file).report["outcome"] == "nothing to do"


def test_until_a_step_that_is_not_there(project: Project) -> None:
    project.write(_1_a="-- step: one\nselect 1;\n-- step: two\nselect 2;\n")
    assert '"one", "two"' in (failure(project.run("1_a", until="three")).hint or "")
    assert "swaps no table" in failure(project.run("1_a", stop_before_swap=True)).message
    assert "need one file" in failure(project.run(until="one")).message
    assert project.run("1_a", until="one").report["outcome"] == "done"
    assert project.run("1_a", until="one").report["outcome"] == "nothing to do"
    assert [step["name"] for step in project.run("1_a").report["steps"]] == ["1_a: two"]


def test_an_error_of_a_rebuild_names_the_statement(project: Project) -> None:
    project.write(
        _1_a="-- step: one\ncreate table public.a (id integer primary key);\n-- rebuild: public.a\n"
        "alter table a add column x int;\nalter table a add constraint c check (y > 0);\n"
    )
    error = failure(project.run())
    assert (error.code, "line 3" in error.message) == ("42703", True)
    assert "In: alter table ... add constraint c check (y > 0)" in (error.details or "")


def test_a_new_file_for_a_rebuild(project: Project, scripts: Scripts) -> None:
    """It lists what the table has, and can be run when its statement is written."""
    with project.database.connect() as connection:
        connection.execute(
            "create table public.a (id integer primary key, name text default 'x' not null, one integer references public.a, two integer); "
            'create table public.b (id integer primary key); create index "na\rmed" on public.a (name); '
            "alter table public.a add constraint own foreign key (one) references public.b, "
            "add constraint open foreign key (two) references public.b not valid"
        )
    command = ("new_migration.py", "wider ids", "--folder", str(project.folder), "--rebuild", "public.A")
    done = scripts(*command, env=project.supabase.environment())
    assert done.returncode == 0, done.stderr
    (file,) = project.folder.iterdir()
    text = file.read_text()
    for line in (
        "-- rebuild: public.a", "--   name text default 'x'::text not null", "--   constraint a_pkey PRIMARY KEY (id)",
        "--   constraint own FOREIGN KEY (one) REFERENCES public.b(id)", "--   constraint open FOREIGN KEY (two) REFERENCES public.b(id) NOT VALID",
        "--   index na", "-- med", "--   rights of anon, authenticated, service_role",
    ):  # fmt: skip
        assert line in text.split("\n"), text
    file.write_text(text.replace("-- alter", "alter"))
    assert project.run().exit_code == 0
    file.unlink()
    assert scripts(*command).returncode == 0  # without credentials
    (file,) = project.folder.iterdir()
    assert "SUPABASE_URL" in file.read_text()
    assert scripts("new_migration.py", "x", "--folder", str(project.folder), "--rebuild", "a").returncode == 2
    assert scripts("new_migration.py", "x", "--folder", str(project.folder), "--rebuild", 'a."b\nc"').returncode == 2


def test_missing_secrets_fail(project: Project, scripts: Scripts) -> None:
    """As in a workflow where they are not set: nothing was applied, and it must not look as if it was."""
    project.write(**THREE)
    for url, key in ((project.supabase.url, ""), ("", project.supabase.service_key)):
        done = scripts("run_migration.py", str(project.folder), env={"SUPABASE_URL": url, "SUPABASE_SERVICE_KEY": key})
        assert (done.returncode, "is not set" in done.stderr) == (2, True), done.stdout + done.stderr
    done = scripts("run_migration.py", str(project.folder), env=project.supabase.environment())
    assert done.returncode == 0, done.stderr
    assert re.search(r"^   1/3  20260101000000_a  1 row, \d.\d\d s$", done.stdout, re.MULTILINE), done.stdout


# --- the Supabase CLI itself ---------------------------------------------------------------------------------------------


class Cli:
    """The real Supabase CLI, in a project's folder."""

    def __init__(self, program: str, project: Project, home: Path) -> None:
        self.program, self.root, self.home = program, project.folder.parent.parent, home
        port = project.database.cluster.port
        self.url = f"postgresql://postgres@127.0.0.1:{port}/{project.database.name}?sslmode=disable"
        (project.folder.parent / "config.toml").write_text('project_id = "test"\n')

    def __call__(self, *arguments: str) -> str:
        """Run it; its standard output. Fails where it fails."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "DO_NOT_TRACK": "1",
            "SUPABASE_TELEMETRY_DISABLED": "1",
        }
        command = [self.program, *arguments, f"--remote={self.url}", "--agent", "no"]
        done = subprocess.run(
            command,
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def cli_cluster() -> Iterator[Cluster]:
    if find_cli() is None:
        pytest.skip("there is no Supabase CLI")
    with cluster_for_the_cli() as running:
        yield running


@pytest.fixture
def cli_project(cli_cluster: Cluster, tmp_path: Path) -> Iterator[Project]:
    database = cli_cluster.create_database()
    with database.connect() as connection:
        deploy(connection)
    with LocalSupabase(database) as running:
        made = Project(running, database, tmp_path / "project")
        made.write(**THREE)
        yield made
    database.drop()


@pytest.fixture
def cli(cli_project: Project, tmp_path: Path) -> Cli:
    program = find_cli()
    assert program
    return Cli(program, cli_project, tmp_path)


def test_after_record_the_cli_has_nothing_to_do(cli_project: Project, cli: Cli) -> None:
    assert cli_project.run(record=True).exit_code == 0
    listed = json.loads(cli("migration", "list", "--output-format", "json"))["migrations"]
    versions = ["20260101000000", "20260102000000", "20260103000000"]
    assert [(row["local"], row["remote"]) for row in listed] == [(version, version) for version in versions]
    assert "up to date" in cli("db", "push", "--yes")


def test_after_a_push_we_have_nothing_to_do(cli_project: Project, cli: Cli) -> None:
    cli("db", "push", "--yes")
    assert cli_project.tables == ["a", "b", "c"], "what stands in a rollback comment was not run"
    done = cli_project.run()
    assert done.report["outcome"] == "nothing to do"
    assert done.lines[-1] == "Nothing to do. migrations/: 3 of 3 files are applied, 3 of them by the Supabase CLI."


def test_a_push_and_a_reset_end_as_our_run_does(cli_project: Project, cli: Cli) -> None:
    other = cli_project.database.cluster.create_database()
    with other.connect() as connection:
        deploy(connection)
    with LocalSupabase(other) as running:
        ours = Project(running, other, cli.home / "ours")
        ours.write(**THREE)
        assert ours.run(record=True).exit_code == 0
    for command in ("push", "reset"):
        cli("db", command, "--yes")
        assert dump_schema(other) == dump_schema(cli_project.database)
    for database in (other, cli_project.database):
        with database.connect() as connection:
            versions = connection.execute(
                "select version, name from supabase_migrations.schema_migrations order by version"
            ).fetchall()
            assert versions == [("20260101000000", "a"), ("20260102000000", "b"), ("20260103000000", "c")]
    other.drop()


def test_a_rebuild_among_plain_files_is_told_with_them(project: Project) -> None:
    """Each run says what it has applied, and the report has the steps of all of them."""
    table = "rebuilt"
    project.write(
        _20260101000000_a=f"create table public.{table} (id integer primary key);",
        _20260102000000_b=(
            f"-- step: create\ncreate table rpc_migrations.{table} (like public.{table} including all);\n"
            f"-- step: begin\nselect * from rpc_migrations.begin_copy('public.{table}', 'public.{table}_backup');\n"
            "-- step: copy (batch)\nselect * from rpc_migrations.copy_batch();\n"
            "-- step: carry over (batch)\nselect * from rpc_migrations.carry_over();\n"
            "-- step: replay (batch)\nselect * from rpc_migrations.replay();\n"
            "-- step: compare\nselect * from rpc_migrations.compare();\n"
            "-- step: swap (batch)\nselect * from rpc_migrations.swap();\n"
            "-- step: validate (batch)\nselect * from rpc_migrations.validate_foreign_keys();\n"
        ),
        _20260103000000_c="select 1;",
    )
    done = project.run()
    closings = [line.partition(":")[0] for line in done.lines if " applied: " in line]
    assert closings == ["20260101000000_a.sql is applied", "20260102000000_b is applied", "migrations/ is applied"]
    names = [step["name"] for step in done.report["steps"]]
    assert (names[0], names[-1], len(names)) == ("20260101000000_a", "20260103000000_c", 10)
