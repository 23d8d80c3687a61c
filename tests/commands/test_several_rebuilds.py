"""A file that rebuilds several tables: one after the other, each with its own copy; back in the other order."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from migration_folder import Project, failure
from projects import one
from rpc_migrations.errors import StepFileError
from rpc_migrations.output_files import migration_sql
from rpc_migrations.step_file import read_migrations
from schema_dump import dump_schema
from test_output_files import by_psql

TABLES = """
create table public.orders (id integer primary key, note text);
create table public.lines (id integer primary key, order_id integer not null references public.orders (id), n integer);
insert into public.orders select n, 'note ' || n from generate_series(1, 30) as n;
insert into public.lines select n, 1 + n % 30, n from generate_series(1, 90) as n;
"""
FILE = "20260102000000_wide"
PLAIN = (
    "alter table orders alter column id type bigint;",
    "alter table lines alter column id type bigint, alter column order_id type bigint;",
    "comment on table public.lines is 'wide';",
)
WIDE = f"-- rebuild: public.orders\n{PLAIN[0]}\n\n-- rebuild: public.lines\n{PLAIN[1]}\n\n-- step: after\n{PLAIN[2]}\n"
TYPES = """
select string_agg(format('%s.%s %s', attrelid::regclass, attname, format_type(atttypid, null)), ', ' order by attrelid::regclass::text, attnum)
from pg_attribute where attrelid in ('public.orders'::regclass, 'public.lines'::regclass) and attname like '%id' and attnum > 0
"""
NARROW_TYPES = "lines.id integer, lines.order_id integer, orders.id integer"
WIDE_TYPES = NARROW_TYPES.replace("integer", "bigint")


def types(project: Project) -> str:
    with project.database.connect() as connection:
        return str(one(connection, TYPES))


@pytest.fixture
def tables(project: Project) -> Project:
    """A project with two tables, and a file that rebuilds both."""
    with project.database.connect() as connection:
        connection.execute(TABLES)
    project.write(**{f"_{FILE}": WIDE})
    return project


def read(tmp_path: Path, text: str) -> list[tuple[str, list[str]]]:
    file = tmp_path / "wide.sql"
    file.write_text(text)
    return [(one.name, [step.name for step in one.steps]) for one in read_migrations(file)]


def test_each_table_is_a_migration(tmp_path: Path) -> None:
    first, second = read(tmp_path, f"-- step: before\nselect 1;\n{WIDE}")
    assert (first[0], first[1][:2], len(first[1])) == ("wide", ["before", "begin the copy"], 9)
    assert (second[0], second[1][0], second[1][-1], len(second[1])) == (
        "wide (public.lines)",
        "begin the copy",
        "after",
        9,
    )


def test_a_name_of_a_step_in_two_of_them(tmp_path: Path) -> None:
    named = "-- step: one\nselect 1;\n"
    with pytest.raises(StepFileError, match='line 11: there are two steps called "one"'):
        read(tmp_path, f"{named}{WIDE}{named}")
    with pytest.raises(StepFileError, match='line 9: there are two steps called "compare the old and the new table"'):
        read(tmp_path, f"{WIDE}-- step: compare the old and the new table\nselect 1;\n")


def test_a_second_one_step_by_step(tmp_path: Path) -> None:
    """Which would be refused when the first table is swapped."""
    begin = "-- step: begin {0}\nselect * from rpc_migrations.begin_copy('public.{0}', 'public.{0}_backup');\n"
    with pytest.raises(StepFileError, match="line 3: a second table that is rebuilt step by step"):
        read(tmp_path, begin.format("orders") + begin.format("lines"))
    assert [name for name, _ in read(tmp_path, begin.format("customers") + WIDE)] == [
        "wide", "wide (public.orders)", "wide (public.lines)",
    ]  # fmt: skip


def test_it_ends_as_the_plain_statements_do(tables: Project) -> None:
    """And comes back as it was."""
    before = dump_schema(tables.database)
    done = tables.run(FILE)
    assert done.exit_code == 0, done.error
    assert {step["migration"] for step in done.report["steps"]} == {FILE, f"{FILE} (public.lines)"}
    assert tables.run(FILE).report["outcome"] == "nothing to do"
    assert types(tables) == WIDE_TYPES
    with tables.database.connect() as connection:
        connection.execute("insert into public.orders values (3000000000, 'new')")
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute("insert into public.lines values (91, 77, 1)")
        connection.execute("delete from public.orders where id = 3000000000")
        connection.execute("insert into public.lines values (91, 3, 1)")
    back = tables.run(FILE, rollback=True)
    assert back.report["warnings"] == []
    assert [(step["migration"], step["state"]) for step in back.report["steps"][::7]] == [
        (f"{FILE} (public.lines)", "done"), (FILE, "done"),
    ]  # fmt: skip
    assert (types(tables), tables.run(FILE, rollback=True).report["outcome"]) == (NARROW_TYPES, "nothing to do")
    with tables.database.connect() as connection:
        assert one(connection, "select count(*) from public.lines") == 91
    assert dump_schema(tables.database) == before


def test_it_goes_on_in_the_second_one(tables: Project) -> None:
    """Stopped before one swap after the other; the first table is not touched again."""
    stopped = tables.run(FILE, stop_before_swap=True)
    assert any(f'{FILE} has stopped before "swap the tables"' in line for line in stopped.lines), stopped.lines
    assert types(tables) == NARROW_TYPES
    tables.run(FILE, until="swap the tables")
    assert types(tables) == NARROW_TYPES.replace("orders.id integer", "orders.id bigint")
    assert tables.run(FILE, until="copy the rows").exit_code == 0
    stopped = tables.run(FILE, stop_before_swap=True)
    assert any(f'{FILE} (public.lines) has stopped before "swap the tables"' in line for line in stopped.lines), (
        stopped.lines
    )
    status = tables.run(FILE, status=True, verbose=False).report
    assert (status["table"]["state"], [one["table"]["state"] for one in status["earlier"]]) == ("copied", ["swapped"])
    assert tables.run(FILE).exit_code == 0
    assert types(tables) == WIDE_TYPES


@pytest.mark.parametrize(
    "file", [FILE, "wide"]
)  # one that the Supabase CLI may have applied, and one that it does not know
def test_until_a_step_that_only_the_first_one_has(tables: Project, file: str) -> None:
    """Nothing of the second one is run, also when the first one is applied."""
    tables.write(**{f"_{file}": f"-- step: before\nselect 1;\n{WIDE}"})
    assert tables.run(file, until="before").exit_code == 0
    assert tables.run(file, until="validate the foreign keys").exit_code == 0
    half = NARROW_TYPES.replace("orders.id integer", "orders.id bigint")
    again = tables.run(file, until="before")
    assert (again.exit_code, again.report["outcome"], types(tables)) == (0, "nothing to do", half)
    assert 'before "begin the copy" are done' in again.lines[-1]
    assert tables.run(file).exit_code == 0
    assert types(tables) == WIDE_TYPES


def test_what_refuses_the_second_one_is_told_before_the_first(tables: Project) -> None:
    with tables.database.connect() as connection:
        connection.execute("create view public.numbers as select id from public.lines")
        error = failure(tables.run(FILE))
        assert (error.code, "public.numbers" in error.message, "line 4" in error.message) == ("RM001", True, True)
        assert one(connection, "select count(*) from rpc_migrations.copies") == 0
        connection.execute("drop view public.numbers")
        tables.write(**{f"_{FILE}": WIDE.replace("order_id type bigint", "other type bigint")})
        assert failure(tables.run(FILE)).code == "42703"
        assert one(connection, "select count(*) from rpc_migrations.copies") == 0


def test_what_a_step_before_it_makes_is_not_missed(tables: Project) -> None:
    """The second rebuild needs a type that a step makes: it is not rehearsed before that."""
    typed = WIDE.replace("order_id type bigint", "n type public.number")
    tables.write(**{f"_{FILE}": f"-- step: type\ncreate domain public.number as integer;\n{typed}"})
    done = tables.run(FILE)
    assert done.exit_code == 0, done.error


def test_one_that_is_edited_after_it_was_done(tables: Project) -> None:
    assert tables.run(FILE).exit_code == 0
    tables.write(**{f"_{FILE}": WIDE.replace("id type bigint;", "id type bigint, add column x text;")})
    assert "has been edited" in failure(tables.run(FILE)).message


def test_it_is_recorded_when_all_are_done(tables: Project) -> None:
    recorded = "select statements from supabase_migrations.schema_migrations"
    with tables.database.connect() as connection:
        connection.execute("create schema if not exists supabase_migrations")
        assert tables.run(FILE, until="validate the foreign keys", record=True).exit_code == 0
        assert one(connection, "select to_regclass('supabase_migrations.schema_migrations')") is None or not one(
            connection, recorded
        )
        assert tables.run(FILE, record=True).exit_code == 0
        assert one(connection, recorded) == [text.removesuffix(";") for text in PLAIN]
        assert tables.run(FILE, rollback=True).exit_code == 0
        assert one(connection, recorded) is None


def test_in_a_folder(tables: Project) -> None:
    tables.write(_20260103000000_next="create table public.next (id integer);\n")
    assert tables.run().exit_code == 0
    assert (types(tables), "next" in tables.tables) == (WIDE_TYPES, True)
    files = tables.run(status=True).report["files"]
    assert [(one["file"], one["state"]) for one in files] == [
        (f"{FILE}.sql", "applied"), (f"{FILE}.sql (public.lines)", "applied"), ("20260103000000_next.sql", "applied"),
    ]  # fmt: skip
    assert tables.run().lines[-1] == "Nothing to do. migrations/: 2 of 2 files are applied."


def test_what_refuses_to_finish_the_second_one_keeps_the_first(tables: Project) -> None:
    assert tables.run(FILE, until="swap the tables").exit_code == 0
    tables.run(FILE, until="copy the rows")
    assert f"{FILE} (public.lines) has not put the new table in place" in failure(tables.run(FILE, finish=True)).message
    assert tables.run(FILE).exit_code == 0
    with tables.database.connect() as connection:
        connection.execute("create view public.old_lines as select * from public.lines_backup")
    assert "public.old_lines" in failure(tables.run(FILE, finish=True)).message
    assert "orders_backup" in tables.tables


def test_one_that_is_finished_keeps_the_others_from_going_back(tables: Project) -> None:
    """As where the other one was not confirmed."""
    assert tables.run(FILE).exit_code == 0
    first = tables.folder / "first" / f"{FILE}.sql"
    first.parent.mkdir()
    first.write_text(WIDE.split("-- rebuild: public.lines", maxsplit=1)[0])
    assert tables.run(f"first/{FILE}", finish=True).exit_code == 0
    assert f"way back of {FILE} was closed" in failure(tables.run(FILE, rollback=True)).message
    assert types(tables) == WIDE_TYPES


def test_finishing_closes_both_ways_back(tables: Project) -> None:
    assert tables.run(FILE).exit_code == 0
    assert tables.run(FILE, finish=True).exit_code == 0
    assert tables.tables == ["orders", "lines"]
    assert "was closed on" in failure(tables.run(FILE, rollback=True)).message


@pytest.mark.parametrize("online", [False, True])
def test_the_file_that_is_written_holds_both(tables: Project, tmp_path: Path, online: bool) -> None:
    file = tmp_path / "written.sql"
    file.write_text(migration_sql(FILE, read_migrations(tables.folder / f"{FILE}.sql"), online=online))
    by_psql(tables.supabase, file)
    assert types(tables) == WIDE_TYPES
    plan = tables.run(FILE, dry_run=True).report
    assert {step["state"] for one in [plan, *plan["earlier"]] for step in one["steps"]} == {"done"}
    assert tables.run(FILE).report["outcome"] == "nothing to do"


def test_what_a_rollback_leaves_behind_is_told_before_the_first_table(tables: Project) -> None:
    assert tables.run(FILE).exit_code == 0
    with tables.database.connect() as connection:
        connection.execute(
            "alter table public.orders add column tip text; create view public.tips as select tip from public.orders"
        )
    back = tables.run(FILE, rollback=True)
    assert "view public.tips" in failure(back).message
    assert [warning.partition(". ")[0] for warning in back.report["warnings"]] == [
        "public.orders was altered since its migration: column tip"
    ]
