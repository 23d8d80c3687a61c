"""Folders that were not made for this: another tool's files, copies, files renamed, folders in folders, what leads nowhere.

What another tool would leave out, or run in another order, or what was run before, is not run in silence.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from faults.harness import Outcome
from migration_folder import Project, failure
from projects import one

A, B, C = (f"create table public.{name} (id integer);\n" for name in "abc")
COUNTED = "create table if not exists public.n (id integer);\ninsert into public.n values (1);\n"


NOTED = "update supabase_migrations.schema_migrations set statements = %s where version = %s"


def write(project: Project, files: dict[str, str]) -> None:
    """Write files, called as they are, into the folder or folders in it."""
    for name, text in files.items():
        file = project.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)


def told(outcome: Outcome) -> str:
    """All that a refusal says."""
    error = failure(outcome)
    return "\n".join(filter(None, (error.message, error.details, error.hint)))


def test_a_way_back_below_a_comment_is_not_run(project: Project) -> None:
    """What reads as one is shown in tests/engine/test_other_tools.py."""
    write(project, {"20260101000000_a.sql": f"-- migrate:up\n{A}\n-- migrate:down\ndrop table public.a;\n"})
    for outcome in (project.run(), project.run(dry_run=True), project.run("20260101000000_a")):
        assert "20260101000000_a.sql:4: `-- migrate:down`, and below it SQL that would be run as well" in told(outcome)
    assert project.tables == []


def test_what_is_applied_already_may_have_any_comment(project: Project) -> None:
    """A project that begins with this has files that nobody will run again."""
    with project.database.connect() as connection:
        connection.execute("create schema supabase_migrations")
        connection.execute("create table supabase_migrations.schema_migrations (version text primary key)")
        connection.execute("insert into supabase_migrations.schema_migrations values ('20260101000000'), ('2'), ('10')")
    write(project, {"20260101000000_b.sql": f"{B}-- Down\ndrop table public.b;\n", "2_x.sql": "", "10_x.down.sql": ""})
    write(project, {"3_a.sql": A})
    assert project.run().exit_code == 0
    assert project.tables == ["schema_migrations", "a"][1:]


def test_a_file_that_is_the_way_back_is_not_run(project: Project) -> None:
    write(project, {"1_a.up.sql": A, "1_a.down.sql": B, "2_b.up.sql": C, "2_b.down.sql": B})
    for outcome in (project.run(), project.run(dry_run=True), project.run(include_all=True)):
        assert "By its name this is a way back, but it would be run as a migration: 1_a.down.sql, 2_b.down.sql" in told(
            outcome
        )
    assert project.tables == []


def test_a_way_back_that_says_so_in_the_middle_of_its_name_is_not_run(project: Project) -> None:
    write(
        project, {"001.do.a.sql": A, "001.undo.a.sql": "drop table public.a;", "002_up_b.sql": B, "002_down_b.sql": C}
    )
    assert "it would be run as a migration: 001.undo.a.sql, 002_down_b.sql" in told(project.run())
    assert project.tables == []
    assert project.run("001.do.a", "002_up_b").exit_code == 0
    assert project.tables == ["a", "b"]


def test_the_files_that_are_meant_may_be_named(project: Project) -> None:
    write(project, {"000001_a.up.sql": A, "000001_a.down.sql": B, "000002_slow_down.up.sql": C})
    assert project.run("000001_a.up", "000002_slow_down.up").exit_code == 0
    assert project.tables == ["a", "c"]
    write(project, {"000003_x.up.sql": "select 1;", "000003_x.down.sql": B})
    assert "way back" in told(project.run()), "also where the late one comes first"


def test_a_word_in_a_name_is_no_way_back(project: Project) -> None:
    write(project, {"1_slow_down.sql": A, "2_rollback.sql": B})
    assert project.run().exit_code == 0
    assert project.tables == ["a", "b"]


def test_an_order_that_the_names_do_not_tell_is_none(project: Project) -> None:
    names = ("1_a", "2_b", "10_c")
    write(project, {f"{name}.sql": text for name, text in zip(names, (A, B, C), strict=True)})
    for outcome in (project.run(), project.run(dry_run=True)):
        assert "10_c.sql comes before 1_a.sql by its name, but not by its number" in told(outcome)
    assert project.tables == []
    for name in names:
        assert project.run(name).exit_code == 0
    assert project.run().report["outcome"] == "nothing to do"
    assert project.tables == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["seed", "R__view", "05gaps"])
def test_a_file_without_a_place_is_not_run(project: Project, name: str) -> None:
    write(project, {"V1__a.sql": A, f"{name}.sql": B})
    for outcome in (project.run(), project.run(include_all=True)):
        assert f"Without the leading number that puts the others in order: {name}.sql" in told(outcome)
        assert "a number that ends in front of _, - or a dot (01_a.sql, not 01abc.sql)" in told(outcome)
    assert project.tables == []
    assert project.run(name).exit_code == 0, "by itself"
    assert project.run().exit_code == 0
    assert project.tables == ["b", "a"]


@pytest.mark.parametrize("name", ["20260101000000_a (1)", "20260101000000_a.bak"])
def test_a_copy_is_not_run_as_well(project: Project, name: str) -> None:
    write(project, {"20260101000000_a.sql": COUNTED, f"{name}.sql": f"-- A copy.\n{COUNTED}"})
    assert "is a copy of" in told(project.run())
    assert project.tables == []
    assert project.run("20260101000000_a").exit_code == 0
    assert "is a copy of" in told(project.run(include_all=True))
    write(project, {f"{name}.sql": B})
    assert project.run(include_all=True).exit_code == 0, "of another text it is a file of its own"


def renamed(project: Project, old: str, new: str) -> None:
    """Apply a file, and give it another name."""
    write(project, {f"{old}.sql": COUNTED, "20260201000000_later.sql": A})
    assert project.run().exit_code == 0
    (project.folder / f"{old}.sql").rename(project.folder / f"{new}.sql")


@pytest.mark.parametrize(
    "new",
    ["20260101000000_add_n", "20260301000000_n", "n", unicodedata.normalize("NFD", "20260101000000_für"), "20260101000000_N"],
)  # fmt: skip
def test_a_file_renamed_since_is_not_run_again(project: Project, new: str) -> None:
    old = unicodedata.normalize("NFC", "20260101000000_für") if "fu" in new else "20260101000000_n"
    renamed(project, old, new)
    outcomes = [project.run(dry_run=True), project.run(include_all=True), project.run()]
    if new != "n":
        outcomes.append(project.run(new))
        assert f"text of {old}, which is applied and has no file any more" in told(project.run())
    assert all(failure(outcome) for outcome in outcomes)
    with project.database.connect() as connection:
        assert one(connection, "select count(*) from public.n") == 1
    (project.folder / f"{new}.sql").rename(project.folder / f"{old}.sql")
    assert project.run().report["outcome"] == "nothing to do"


def test_a_file_renamed_and_edited_is_known_by_its_timestamp(project: Project) -> None:
    renamed(project, "20260101000000_n", "20260101000000_add_n")
    write(project, {"20260101000000_add_n.sql": f"{COUNTED}select 1;\n"})
    assert "has the number of 20260101000000_n" in told(project.run(include_all=True))


def test_the_same_text_may_be_run_again(project: Project) -> None:
    """Where nothing was renamed; or where nothing would be run."""
    notify = "notify pgrst, 'reload schema';\n"
    write(project, {"20260101000000_n.sql": notify, "20260102000000_n.sql": notify, "20260103000000_e.sql": ""})
    assert project.run("20260101000000_n").exit_code == 0
    assert project.run("20260102000000_n").exit_code == 0, "the file of the first is beside it"
    assert project.run().exit_code == 0
    (project.folder / "20260103000000_e.sql").rename(project.folder / "20260104000000_e.sql")
    assert project.run().exit_code == 0


JOINED = (
    f"-- all of it\n{A}\n/* and */ {COUNTED}",
    f"begin;\n{COUNTED}commit;\n-- step by step\n{A}",
    f"{B}{COUNTED};{A}select 1;",
)


@pytest.mark.parametrize("text", JOINED)
def test_files_joined_to_one_are_not_run_again(project: Project, text: str) -> None:
    """Under a new number nothing else tells it from a new file; what it inserts would be there twice."""
    write(project, {"1_a.sql": A, "2_n.sql": COUNTED})
    assert project.run().exit_code == 0
    (project.folder / "2_n.sql").unlink()
    write(project, {"3_all.sql": text})
    for outcome in (project.run(), project.run(dry_run=True)):
        assert "3_all.sql has in it the whole text of what is applied: 2_n." in told(outcome)
    with project.database.connect() as connection:
        assert one(connection, "select count(*) from public.n") == 1
    (project.folder / "3_all.sql").write_text(text.replace(A, "select 2;"))
    assert project.run(include_all=True).exit_code == 0
    with project.database.connect() as connection:
        assert one(connection, "select count(*) from public.n") == 2


def test_files_joined_that_the_cli_has_applied_are_not_run_again(project: Project) -> None:
    """Its table has their statements, with the comments above them."""
    made, filled, _ = COUNTED.split(";\n")
    write(project, {"20260101000000_n.sql": COUNTED})
    assert project.run(record=True).exit_code == 0
    with project.database.connect() as connection:
        connection.execute("truncate rpc_migrations.journal")
        connection.execute(NOTED, [[f"-- The first.\n{made}", filled], "20260101000000"])
    (project.folder / "20260101000000_n.sql").unlink()
    write(project, {"20260102000000_all.sql": f"-- The first.\n{COUNTED}\n{A}"})
    assert "whole text of what is applied: 20260101000000_n. It would be run again." in told(project.run())
    assert project.run(include_all=True).exit_code == 0


def test_files_joined_beside_their_parts_are_not_run_again(project: Project) -> None:
    """A new file may do again what one applied file did; not what several did."""
    rows = "copy public.n (id) from stdin;\n7\n\\.\n"
    again = "notify pgrst, 'reload schema';"
    write(
        project, {"1_n.sql": COUNTED, "2_rows.sql": rows, "3_again.sql": again, "4_again.sql": f"{again} -- once more"}
    )
    assert project.run().exit_code == 0
    write(project, {"5_all.sql": f"{COUNTED}{rows}{COUNTED}"})
    assert "whole text of what is applied: 1_n, 2_rows. It would be run again." in told(project.run())
    write(project, {"5_all.sql": f"{again}{COUNTED}select 1;{again}"})
    assert project.run().exit_code == 0


def test_what_only_says_what_is_to_be_there_may_be_said_again(project: Project) -> None:
    """Of several files: it does no harm, or fails."""
    policies = [
        f"drop policy if exists {name} on public.a;\ncreate policy {name} on public.a using (true);\n" for name in "pq"
    ]
    write(project, {"1_a.sql": A, "2_p.sql": policies[0], "3_q.sql": policies[1]})
    assert project.run().exit_code == 0
    write(project, {"4_all.sql": f"{policies[0]}{policies[1]}{B}"})
    assert project.run().exit_code == 0


def test_a_file_that_was_rolled_back_may_be_renamed(project: Project) -> None:
    write(project, {"20260101000000_a.sql": f"{A}/* rollback: drop table public.a; */\n"})
    assert project.run().exit_code == 0
    assert project.run("20260101000000_a", rollback=True).exit_code == 0
    (project.folder / "20260101000000_a.sql").rename(project.folder / "20260102000000_a.sql")
    assert project.run().exit_code == 0
    assert project.tables == ["a"]


def test_what_the_cli_has_applied_since_it_was_begun_here_is_not_run_twice(project: Project) -> None:
    name = "20260101000000_it's"
    undo = "select rpc_migrations.mark_undone('20260101000000_it''s')"
    write(
        project,
        {f"{name}.sql": f"-- step: one\nselect 1;\n-- step: two\n{COUNTED}select 1 / count(*) from public.a;\n"},
    )
    failure(project.run())
    with project.database.connect() as connection:
        connection.execute(A + "insert into public.a values (1);" + COUNTED)
        connection.execute(
            f'select rpc_migrations.record_for_cli(\'{{"version": "{name[:14]}", "name": "n", "statements": []}}\')'
        )
    for outcome in (project.run(), project.run(name), project.run(dry_run=True), project.run(record=True)):
        assert "counts as applied for the Supabase CLI. Not done here: two" in told(outcome)
        assert undo in told(outcome)
    with project.database.connect() as connection:
        connection.execute(undo)
        assert project.run().report["outcome"] == "nothing to do"
        assert one(connection, "select count(*) from public.n") == 1


def noted_by_the_cli(project: Project, **names: str | None) -> None:
    """Have the Supabase CLI's table say that versions were applied, each with the name of the file that it was."""
    with project.database.connect() as connection:
        connection.execute(
            "create schema supabase_migrations; "
            "create table supabase_migrations.schema_migrations (version text primary key, name text, statements text[])"
        )
        for version, name in names.items():
            connection.execute(
                "insert into supabase_migrations.schema_migrations values (%s, %s)", [version.strip("_"), name]
            )


def test_of_files_of_one_version_the_cli_has_one(project: Project) -> None:
    """Its table has room for one. The other one was not run, or was and could not be noted: that cannot be told."""
    write(project, {"20260101_a.sql": A, "20260101_b.sql": B, "20260101_a_rollback.sql": C, "20260102_c.sql": C})
    noted_by_the_cli(project, _20260101="a")
    for outcome in (project.run(), project.run("20260101_b"), project.run(dry_run=True), project.run(include_all=True)):
        assert "20260101_b.sql has the version of 20260101_a, which the Supabase CLI has applied" in told(outcome)
    assert [(one["file"], one["state"]) for one in project.run(status=True).report["files"]] == [
        ("20260101_a.sql", "applied by the Supabase CLI"), ("20260101_a_rollback.sql", "applied by the Supabase CLI"),
        ("20260101_b.sql", "to do"), ("20260102_c.sql", "to do"),
    ]  # fmt: skip
    assert project.run("20260101_a").report["outcome"] == "nothing to do"
    assert project.tables == []
    (project.folder / "20260101_b.sql").rename(project.folder / "20260103_b.sql")
    assert project.run().exit_code == 0
    assert project.tables == ["c", "b"]


def test_of_folders_of_one_version_the_cli_has_one(project: Project) -> None:
    write(project, {"20260101_a/migration.sql": A, "20260101_b/migration.sql": B})
    noted_by_the_cli(project, _20260101="a")
    for outcome in (project.run(), project.run("20260101_b/migration")):
        assert "20260101_b/migration.sql has the version of 20260101_a, which" in told(outcome)
    assert project.run("20260101_a/migration").report["outcome"] == "nothing to do"
    assert project.tables == []


@pytest.mark.parametrize("name", [None, "z"])
def test_of_files_of_one_version_the_cli_does_not_say_which_it_has(project: Project, name: str | None) -> None:
    write(project, {"20260101_a.sql": A, "20260101_b.sql": B})
    noted_by_the_cli(project, _20260101=name)
    for outcome in (project.run(), project.run("20260101_a"), project.run("20260101_b")):
        assert "Whether this one was applied cannot be told" in told(outcome)
    assert project.tables == []


def test_a_version_that_another_file_was_applied_with(project: Project) -> None:
    """Two branches take the same round timestamp, and the file of the one that was applied is not here."""
    write(project, {"20260101000000_b.sql": B})
    noted_by_the_cli(project, _20260101000000="a")
    with project.database.connect() as connection:
        connection.execute(NOTED, [[A], "20260101000000"])
        for outcome in (project.run(), project.run(include_all=True), project.run(dry_run=True)):
            assert "20260101000000_b.sql has the version of 20260101000000_a, which" in told(outcome)
            assert "under another name, call it 20260101000000_a.sql again" in told(outcome)
        connection.execute(NOTED, [[f"-- b\n{B}"], "20260101000000"])
    write(project, {"20260101000000_b.sql": f"-- b\n\n{B}"})
    assert project.run().report["outcome"] == "nothing to do", "renamed since"
    assert project.tables == []


def test_of_files_of_one_version_the_text_tells_which_the_cli_has(project: Project) -> None:
    write(project, {"20260101000000_a.sql": A, "20260101000000_b.sql": B})
    noted_by_the_cli(project, _20260101000000=None)
    with project.database.connect() as connection:
        connection.execute(NOTED, [[A], "20260101000000"])
    assert project.run("20260101000000_a").report["outcome"] == "nothing to do"
    assert "20260101000000_b.sql has the version of another file" in told(project.run())
    assert project.tables == []


def test_of_files_of_one_version_what_was_begun_here_goes_on(project: Project) -> None:
    steps = "-- step: one\nselect 1;\n-- step: two\n"
    write(project, {"20260101_a.sql": f"{steps}select 1 / 0;\n", "20260101_b.sql": B})
    failure(project.run("20260101_a"))
    noted_by_the_cli(project, _20260101="b")
    write(project, {"20260101_a.sql": steps + A})
    assert project.run().exit_code == 0
    assert project.tables == ["a"]


def test_what_the_cli_has_under_another_version_is_not_run_again(project: Project) -> None:
    """The dashboard and others note a migration under the time at which they ran it; and a file may be given another number."""
    write(project, {"20260101000000_a.sql": A, "20260105000000_b.sql": B, "001_c.sql": C})
    noted_by_the_cli(
        project, _20260102030405="a", _20250101000000="older", _20260105000000="b", _20250102000000="001_c"
    )
    for outcome in (project.run(include_all=True), project.run("20260101000000_a"), project.run(dry_run=True)):
        assert "20260101000000_a.sql: 20260102030405_a" in told(outcome)
        assert "this is a migration that the Supabase CLI has as applied, and that has no file" in told(outcome)
    assert "001_c.sql: 20250102000000_001_c\n20260101000000_a.sql: 20260102030405_a\n" in told(project.run()), (
        "all at once"
    )
    assert project.tables == []
    (project.folder / "20260101000000_a.sql").rename(project.folder / "20260102030405_a.sql")
    (project.folder / "001_c.sql").rename(project.folder / "20250102000000_001_c.sql")
    assert project.run().report["outcome"] == "nothing to do"


@pytest.mark.parametrize("name", [None, "", "0b7c2b9a-3a51-4c5e-9f43-0c9f1de8a001"])
def test_what_sorts_before_a_version_that_has_no_file_is_told(project: Project, name: str | None) -> None:
    """It may be that one: some note neither the number of the file nor its name."""
    write(project, {"20260101000000_a.sql": A, "20260105000000_b.sql": B})
    noted_by_the_cli(project, _20260102030405=name)
    for outcome in (project.run(), project.run(dry_run=True)):
        assert "20260101000000_a.sql: not applied, and sorts before 20260102030405" in told(outcome)
    assert project.tables == []
    assert project.run("20260101000000_a").exit_code == 0, "the one that is named"
    assert project.run().exit_code == 0
    assert project.tables == ["a", "b"]


@pytest.mark.parametrize("name", [None, "", "0b7c2b9a-3a51-4c5e-9f43-0c9f1de8a001"])
@pytest.mark.parametrize(
    "noted", [[COUNTED], ["create table if not exists public.n (id integer)", "insert into public.n values (1)"]]
)
def test_what_was_noted_a_moment_earlier_is_known_by_its_text(
    project: Project, name: str | None, noted: list[str]
) -> None:
    """Some note the time of the run, under no name or one of their own; nothing that is noted then sorts behind the last file."""
    write(project, {"20260101000002_a.sql": COUNTED.replace("\n", "\r\n")})
    noted_by_the_cli(project, _20251231000000="older", _20260101000001=name)
    with project.database.connect() as connection:
        connection.execute(NOTED, [noted, "20260101000001"])
    for outcome in (project.run(), project.run("20260101000002_a"), project.run(include_all=True)):
        assert "20260101000002_a.sql: 20260101000001" in told(outcome)
        assert "By its name or its text, this is a migration that the Supabase CLI has as applied" in told(outcome)
    assert project.tables == []
    write(project, {"20260101000002_a.sql": f"{COUNTED}select 1;\n"})
    assert project.run().exit_code == 0
    with project.database.connect() as connection:
        assert one(connection, "select count(*) from public.n") == 1


@pytest.mark.parametrize("file", ["20260101000000-0b7c2b9a-3a51-4c5e-9f43-0c9f1de8a001.sql", "20260101000000.sql"])
def test_a_timestamp_that_the_cli_s_table_has_is_that_of_the_file(project: Project, file: str) -> None:
    """The CLI skips files of such a name; those that write them note them in its table."""
    write(project, {file: COUNTED, "20260102000000-b.sql": B})
    noted_by_the_cli(project, _20260101000000=None)
    assert project.run().exit_code == 0
    assert project.tables == ["b"]
    assert "cannot be recorded" in told(project.run(record=True)), "the CLI would miss the file"


def test_files_may_have_one_name_and_several_versions(project: Project) -> None:
    write(project, {"20260101_a.sql": A, "20260102_a.sql": B, "20260103_c.sql": ""})
    noted_by_the_cli(project, _20260101="a", _20250101="c")
    assert project.run("20260102_a").exit_code == 0, "the file of the first is beside it"
    assert project.run().exit_code == 0, "which does nothing"
    assert project.tables == ["b"]


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        (COUNTED, f"-- step: one\n{COUNTED}-- step: two\nselect 1;\n", "{}"),
        (
            f"-- step: one\nselect 1;\n-- step: two\n{COUNTED}",
            f"-- step: one\nselect 1;\n-- step: fill\n{COUNTED}",
            "two",
        ),
    ],
)
@pytest.mark.parametrize("name", ["20260101000000_n", "n"])
def test_a_step_under_another_name_is_not_run_again(
    project: Project, name: str, before: str, after: str, lost: str
) -> None:
    write(project, {f"{name}.sql": before})
    assert project.run(name).exit_code == 0
    write(project, {f"{name}.sql": after})
    for outcome in (project.run(), project.run(name)):
        assert f"that were done are not in it any more: {lost.format(name)}." in told(outcome)
    with project.database.connect() as connection:
        assert one(connection, "select count(*) from public.n") == 1
    write(project, {f"{name}.sql": before})
    assert project.run(name).report["outcome"] == "nothing to do"


def test_folders_in_the_folder_are_named(project: Project) -> None:
    write(project, {"1_a.sql": A, "archive/0_b.sql": B, "meta/journal.json": "{}"})
    for outcome in (project.run(dry_run=True), project.run(), project.run(status=True)):
        assert outcome.exit_code == 0
        assert any(line.endswith("the .sql files in archive/") for line in outcome.lines)
    assert project.tables == ["a"]


def test_folders_alone_are_no_files(project: Project) -> None:
    write(project, {"1_a/first.sql": A, "2_b/second.sql": B})
    assert "There is no .sql file in" in told(project.run()) and "(1_a/, 2_b/)" in told(project.run())


@pytest.mark.parametrize("file", ["migration.sql", "up.sql"])
def test_each_migration_may_have_a_folder_of_its_own(project: Project, file: str) -> None:
    """By whose name it is known: the files are all called the same."""
    write(project, {f"20260102_b/{file}": B, f"20260101_a/{file}": A, "20260101_a/down.sql": C, "draft/x.sql": C})
    first = project.run()
    assert [step["name"] for step in first.report["steps"]] == ["20260101_a", "20260102_b"]
    assert any(line.endswith("the .sql files in draft/") for line in first.lines)
    assert project.run().report["outcome"] == "nothing to do"
    write(project, {f"20260103_c/{file}": "select 1 / 0;"})
    assert "cannot be recorded for the Supabase CLI" in told(project.run(record=True)), "which skips folders"
    assert f"(20260103_c/{file}, line 1)" in told(project.run())
    project.folder /= "20260103_c"
    write(project, {file: C})
    assert project.run(file.removesuffix(".sql")).exit_code == 0
    assert project.tables == ["a", "b", "c"]


def test_the_folder_around_the_migrations_is_not_meant(project: Project) -> None:
    write(project, {"1_a.sql": A, "../seed.sql": B})
    own = project.folder
    project.folder = own.parent
    assert f"Give {own}" in told(project.run())
    assert project.tables == []


def test_a_plan_has_the_order(project: Project) -> None:
    write(project, {"b.sql": A, "a.sql": B, "../sqitch.plan": "b\na\n"})
    assert "sqitch.plan" in told(project.run())


def test_what_looks_like_a_file_and_is_none_is_told(project: Project) -> None:
    write(project, {"1_a.sql": A, "2_b.SQL": B, "../c.sql": C})
    assert "2_b.SQL" in told(project.run())
    (project.folder / "2_b.SQL").unlink()
    (project.folder / "2_b.sql").symlink_to("nothing.sql")
    assert "2_b.sql is a link to no file" in told(project.run())
    (project.folder / "2_b.sql").unlink()
    (project.folder / "2_b.sql").symlink_to("../c.sql")
    assert project.run().exit_code == 0
    assert project.tables == ["a", "c"]


def test_a_file_with_a_number_and_another_ending_is_told(project: Project) -> None:
    """It may be one whose name was mistyped."""
    others = ("2_b.sq", "3_c.sql)", "4_d.sql.bak", "README.md", ".5_e.swp", "6_f/a.txt")
    write(project, {"1_a.sql": A} | dict.fromkeys(others, B))
    for outcome in (project.run(dry_run=True), project.run(), project.run(status=True)):
        assert outcome.exit_code == 0
        assert "Not run, as the name does not end in .sql: 2_b.sq, 3_c.sql), 4_d.sql.bak" in outcome.lines
    assert project.tables == ["a"]


def test_a_name_that_is_no_utf_8_is_told(project: Project) -> None:
    (project.folder / os.fsdecode(b"1_f\xfcr.sql")).write_text(A)
    assert "is not UTF-8" in told(project.run())


def test_a_folder_that_may_not_be_read_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert "cannot be read: [Errno 13] Permission denied" in told(project.run())
