"""Step files: what is read out of them, and what is said of those that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from rpc_migrations.errors import StepFileError
from rpc_migrations.step_file import Migration, read_migration

TWO_STEPS = """-- A comment for the reader.
/* Another
one. */

-- step: add a column
-- Why it is added.
alter table public.orders add column total numeric;


-- step: fill it (batch)
select true as done;
"""


def read(folder: Path, text: str | bytes, name: str = "my.sql") -> Migration:
    """Write a file and read it as a step file."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_migration(path)


def test_steps_have_name_text_and_place(tmp_path: Path) -> None:
    migration = read(tmp_path, TWO_STEPS)
    assert migration.name == "my"
    assert [(step.name, step.batch, step.line) for step in migration.steps] == [
        ("add a column", False, 5),
        ("fill it", True, 10),
    ]
    assert migration.steps[0].sql == "-- Why it is added.\nalter table public.orders add column total numeric;\n"
    assert migration.steps[1].sql == "select true as done;\n"


@pytest.mark.parametrize(
    ("line", "name", "batch"),
    [
        ("-- step: one", "one", False),
        ("--step:one", "one", False),
        ("-- step:   one   ", "one", False),
        ("-- Step: one (Batch)", "one", True),
        ("-- step: one (batch)\r", "one", True),
        ("-- step: do not roll back: one", "do not roll back: one", False),
        ("-- step: one (batch) and more", "one (batch) and more", False),
        ('-- step: it\'s "$step$"; --', 'it\'s "$step$"; --', False),
    ],
)
def test_a_line_names_a_step(tmp_path: Path, line: str, name: str, batch: bool) -> None:
    (step,) = read(tmp_path, f"{line}\nselect 1;\n").steps
    assert (step.name, step.batch, step.sql) == (name, batch, "select 1;\n")


@pytest.mark.parametrize(
    "text", ["select '\u2028\u0085\x0c\x1c';", "do $$\nbegin\n\n\n    null;\nend\n$$;", "select 'ü';", "\tselect 1"]
)
def test_the_text_of_a_step_is_not_changed(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, f"-- step: one\n{text}\n").steps[0].sql == f"{text}\n"


@pytest.mark.parametrize(
    "text", [TWO_STEPS.replace("\n", "\r\n"), "\ufeff" + TWO_STEPS, TWO_STEPS + "\n\n", TWO_STEPS.rstrip()]
)
def test_how_an_editor_saves_a_file_does_not_change_its_checksums(tmp_path: Path, text: str) -> None:
    saved_otherwise, original = read(tmp_path, text), read(tmp_path, TWO_STEPS)
    assert [step.checksums for step in saved_otherwise.steps] == [step.checksums for step in original.steps]


def test_a_step_edited_has_another_checksum(tmp_path: Path) -> None:
    first, second = read(tmp_path, TWO_STEPS).steps
    edited, same = read(tmp_path, TWO_STEPS.replace("numeric", "integer")).steps
    assert (edited.checksums != first.checksums, same.checksums) == (True, second.checksums)


def test_checksums_of_earlier_texts_stand_below_the_name(tmp_path: Path) -> None:
    one, other = "a" * 64, "0" * 64
    plain = read(tmp_path, "-- step: one\nselect 1;\n").steps[0]
    step = read(tmp_path, f"-- step: one\n-- formerly: {one}\n-- formerly: {other}\nselect 1;\n").steps[0]
    assert (step.sql, step.checksums) == (plain.sql, (*plain.checksums, one, other))
    further_down = read(tmp_path, f"-- step: one\n-- why\n-- formerly: {one}\nselect 1;\n").steps[0]
    assert len(further_down.checksums) == 1, "a comment like others"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no steps"),
        ("select 1;", "has no steps"),
        ("/* -- step: one */ select 1;", "has no steps"),
        ("select 1;\n-- step: one\nselect 2;", "SQL above its first step"),
        ("-- step:\nselect 1;", "line 1: a step without a name"),
        ("-- step: (batch)\nselect 1;", "line 1: a step without a name"),
        ("-- step: one\n\n-- step: two\nselect 1;", 'line 1: step "one" is empty'),
        (
            "-- step: one\nselect 1;\n-- step: two\n-- only a comment\n/* and\nanother */\n",
            'line 3: step "two" is empty',
        ),
        ("-- step: one\nselect 1;\n-- step: one\nselect 2;", 'line 3: there are two steps called "one"'),
        ("-- step: roll back: one\nselect 1;", "belong to rollbacks"),
        ("-- step: one\nselect 1;".encode("utf-16"), "cannot be read"),
        (b"-- step: caf\xe9\nselect 1;", "cannot be read"),
    ],
)
def test_what_is_no_step_file_is_told(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(StepFileError, match=message) as error:
        read(tmp_path, text)
    assert "my.sql" in error.value.message
    assert error.value.hint
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "text", ["-- see /* below\nselect 1;\n-- */", "/* -- */ select 1;", "select '-- only a comment';"]
)
def test_a_step_with_odd_comments_is_not_empty(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, f"-- step: one\n{text}\n").steps[0].sql == f"{text}\n"


@pytest.mark.parametrize(("name", "message"), [("missing.sql", "There is no file"), (".", "cannot be read")])
def test_a_path_that_is_no_file_is_told(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(StepFileError, match=message) as error:
        read_migration(tmp_path / name)
    assert error.value.hint


@pytest.mark.parametrize("name", ["migrate_user_clusters", "rollback", "rollback_discarding_changes"])
def test_the_files_of_the_project_are_step_files(name: str) -> None:
    migration = read_migration(ROOT / "db" / f"{name}.sql", name=name)
    assert migration.name == name
    # A rollback's steps are told from the migration's own by this, in the same journal.
    assert all(step.name.startswith("roll back: ") == name.startswith("rollback") for step in migration.steps)
