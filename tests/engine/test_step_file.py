"""Step files: what is read out of them, and what is said of those that are none."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from conftest import ROOT
from rpc_migrations.errors import StepFileError
from rpc_migrations.file_checks import check
from rpc_migrations.migration import Migration
from rpc_migrations.step_file import read_migration

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
    "text",
    [
        TWO_STEPS.replace("\n", "\r\n"),
        TWO_STEPS.replace("\n", "\r\n", 7),
        "\ufeff" + TWO_STEPS,
        TWO_STEPS + "\n\n",
        TWO_STEPS.rstrip(),
    ],
)
def test_how_an_editor_saves_a_file_does_not_change_its_checksums(tmp_path: Path, text: str) -> None:
    saved_otherwise, original = read(tmp_path, text), read(tmp_path, TWO_STEPS)
    assert [step.checksums for step in saved_otherwise.steps] == [step.checksums for step in original.steps]


def test_line_ends_do_not_change_places_or_former_checksums(tmp_path: Path) -> None:
    text = f"-- Above.\n-- step: one\n-- formerly: {'a' * 64}\n\nselect 1;\n\n-- step: two\nselect '2\n3';\n"
    unix, windows = read(tmp_path, text).steps, read(tmp_path, text.replace("\n", "\r\n")).steps
    assert [(step.line, step.first_line, step.checksums) for step in windows] == [
        (step.line, step.first_line, step.checksums) for step in unix
    ]
    assert [one.line for step in windows for one in step.statements] == [5, 8]
    assert windows[1].statements[0].sql == "select '2\r\n3'"


PATHS = (
    "set search_path = app;", "set search_path to 'app', public;", "SET SESSION search_path=app;", "set schema 'app';", "select set_config('search_path', 'app', false);",
    "select pg_catalog.set_config('search_path', '', false);", "set search_path = app;\ncreate table t (id int);",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "after", ["create table u (id int);", "select 1;\nset search_path = app;", "set local lock_timeout = 0;"]
)
def test_a_search_path_that_the_next_step_would_not_have_is_told(tmp_path: Path, path: str, after: str) -> None:
    """By psql and the Supabase CLI it would: what that step makes would be elsewhere."""
    migration = read(tmp_path, f"-- step: one\n\n{path}\n-- step: two\n{after}\n")
    with pytest.raises(StepFileError, match="nothing was sent") as error:
        check([migration])
    assert 'my.sql:3: a search_path that step "two" would not have' in (error.value.details or "")


@pytest.mark.parametrize(
    "text",
    [
        *(f"-- step: one\nselect 1;\n-- step: two\n{path}" for path in PATHS),
        *(f"-- step: one\n{path}\n-- step: two\n{path}\n" for path in PATHS),
        *(f"-- step: one\n{path}\n{end};\n-- step: two\nselect 1;" for path in PATHS for end in ("reset search_path", "reset all", "set search_path to default")),
        "-- step: one\nset local search_path = app;\n-- step: two\nselect 1;",
        "-- step: one\nselect set_config('search_path', 'app', true);\n-- step: two\nselect 1;",
        "-- step: one\nset lock_timeout = '1s';\n-- step: two\nselect 1;",
        "-- step: one\ncreate function f() returns int language sql set search_path = '' as 'select 1';\n-- step: two\nselect 1;",
    ],
)  # fmt: skip
def test_a_search_path_that_is_of_one_step_alone(tmp_path: Path, text: str) -> None:
    check([read(tmp_path, text)])


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
    assert further_down.formerly == (), "a comment like others"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-- step: one\nselect 1;\n--step b\nselect 2;", "line 3: `--step b` looks like"),
        ("-- step: one\nselect 1;\n-- Step c\nselect 2;", "line 3: `-- Step c` looks like"),
        ("-- step: one\nselect 1;\n  -- step: two\nselect 2;", "line 3: `-- step: two` looks like"),
        ("-- step: one\nselect 1;\n--- step: two\nselect 2;", "line 3: `--- step: two` looks like"),
        ("-- step: one\nselect 1;\n-- step : two\nselect 2;", "line 3: `-- step : two` looks like"),
        ("-- step: one\nselect 1;\n-- step: two (batches)\nselect 2;", "line 3: .* looks like"),
        ("-- step: one\nselect 1;\n-- step: two [batch]\nselect 2;", "line 3: .* looks like"),
        ("select 1;\nselect '\0';", "line 2: a NUL"),
        ("select 1;".encode("utf-16-le"), "is written in UTF-16"),
        ("-- a\nselect 1;".encode("utf-16-be"), "is written in UTF-16"),
        ("select 1;\n-- step: one\nselect 2;", "SQL above the first step"),
        ("-- step:\nselect 1;", "line 1: a step without a name"),
        ("-- step: (batch)\nselect 1;", "line 1: a step without a name"),
        ("-- step: one\n\n-- step: two\nselect 1;", 'line 1: step "one" is empty'),
        (
            "-- step: one\nselect 1;\n-- step: two\n-- only a comment\n/* and\nanother */\n",
            'line 3: step "two" is empty',
        ),
        ("-- step: one\nselect 1;\n-- step: one\nselect 2;", 'line 3: there are two steps called "one"'),
        ("-- step: roll back: one\nselect 1;", "reserved for rollbacks"),
        ("-- step: one\nselect 1;".encode("utf-16"), "is written in UTF-16"),
        (b"-- step: caf\xe9\nselect 1;", "line 1: the byte 0xe9 is not UTF-8"),
        (b"-- caf\xe9\nselect 'caf\xe9';", "line 2: the byte 0xe9 is not UTF-8"),
        (b"select 1;\n/* rollback: select 'caf\xe9'; */", "line 2: the byte 0xe9 is not UTF-8"),
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


EDITS = {
    "a comment": ("select 1; -- why", True),
    "a comment block": ("/* why /* nested */ */ select 1;", True),
    "white space": ("\n\tselect   1 ;\n", True),
    "white space around a mark": ("select f( 1 , 2 );", "select f(1,2);", True),
    "white space around an operator": ("select 1+2;", "select 1 + 2;", True),
    "white space within an operator": ("select a <-1;", "select a < -1;", False),
    "a semicolon at the end": ("select 1", True),
    "the statement": ("select 2;", False),
    "letters": ("SELECT 1;", False),
    "white space in a string": ("select 'a b';", "select 'a  b';", False),
    "a comment in a string": ("select '1';", "select '1 -- why';", False),
    "a comment in a function": ("do $$ begin end $$;", "do $$ begin /* why */ end $$;", False),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_of_comments_and_white_space_is_none(tmp_path: Path, what: str) -> None:
    *texts, same = EDITS[what]
    before, after = texts if len(texts) == 2 else ("select 1;", texts[0])
    old, new = (read(tmp_path, f"-- step: one\n{text}\n").steps[0] for text in (before, after))
    assert (old.checksums[0] == new.checksums[0]) is same


def test_a_journal_of_an_earlier_version_knows_the_text_as_it_stands(tmp_path: Path) -> None:
    step = read(tmp_path, TWO_STEPS).steps[0]
    assert hashlib.sha256(step.sql.encode()).hexdigest() in step.checksums


NOT_STEPS = {
    "a string": "select '\n-- step: two\n';",
    "dollar quotes": "do $$\n-- step: two\nbegin end $$;",
    "a comment block": "select 1; /*\n-- step: two\n*/",
    "parentheses": "select (\n-- step: two\n1);",
    "a function's body": "create function f() returns int begin atomic\n-- step: two\nselect 1; end;",
}


@pytest.mark.parametrize("what", NOT_STEPS)
def test_no_step_begins_within(tmp_path: Path, what: str) -> None:
    assert [step.name for step in read(tmp_path, f"-- step: one\n{NOT_STEPS[what]}\n").steps] == ["one"]
    assert [step.name for step in read(tmp_path, f"{NOT_STEPS[what]}\n", "plain.sql").steps] == ["plain"]


def test_a_file_without_step_lines_is_one_step(tmp_path: Path) -> None:
    (step,) = read(tmp_path, "\n-- Step 1: why\nselect 1;\n\nselect 2;\n", "20260101000000_two.sql").steps
    assert (step.name, step.batch) == ("20260101000000_two", False)
    assert [(one.line, one.sql) for one in step.statements] == [(3, "select 1"), (5, "select 2")]
    assert read(tmp_path, "-- nothing here\n").steps[0].statements == ()


def test_statements_know_their_lines(tmp_path: Path) -> None:
    text = "-- Above.\n\n-- step: one\n\n\nselect 1;\nselect 2;\n-- step: two\nbegin;\nselect\n3;\ncommit;"
    steps = read(tmp_path, text).steps
    assert [[(one.line, one.sql) for one in step.statements] for step in steps] == [
        [(6, "select 1"), (7, "select 2")],
        [(10, "select\n3")],
    ]


def test_a_commit_in_the_middle_ends_a_step(tmp_path: Path) -> None:
    """What was set for the session before it still holds; whoever looks for its line finds it in the file."""
    text = (
        "-- step: one\nset search_path = x;\nset local y = 1;\nbegin;\nselect 1;\ncommit; -- Why.\nselect 2;\nstart transaction;\nselect 3;\nend;\n\n"
        "analyze;\nreset y;\n-- step: two\nbegin; select 4; commit;\nselect 5;\n"
    )
    steps = read(tmp_path, text).steps
    assert [(step.name, [(one.line, one.sql) for one in step.statements]) for step in steps] == [
        ("one", [(2, "set search_path = x"), (3, "set local y = 1"), (5, "select 1")]),
        ("one (2)", [(2, "set search_path = x"), (7, "select 2"), (9, "select 3")]),
        ("one (3)", [(2, "set search_path = x"), (12, "analyze"), (13, "reset y")]),
        ("two", [(15, "select 4"), (16, "select 5")]),
    ]


@pytest.mark.parametrize("middle", ["select 1", "select '\n;\n'", "select $$\n;;\n$$", "select '\n;\n;;\n'"])
def test_what_is_sent_can_be_taken_apart(tmp_path: Path, middle: str) -> None:
    (step,) = read(tmp_path, f"select 0;{middle};select 2").steps
    assert step.separator is not None
    assert step.query.split(step.separator) == ["select 0", middle, "select 2"]


def test_a_block_of_many_writes_is_not_read_once_for_each(tmp_path: Path) -> None:
    """Four times as many take about four times as long, not sixteen times: a seed of 8,000 took half a minute."""
    taken = []
    for many in (1000, 4000):
        writes = "\n".join(f"delete from t where id = {n} and name in ('a', 'b', lower('C'));" for n in range(many))
        step = read(tmp_path, f"do $$ begin\n{writes}\nend $$;\n").steps[0]
        began = time.process_time()
        assert step.query.count("delete") == many
        taken.append(time.process_time() - began)
    assert taken[1] < 8 * taken[0]
