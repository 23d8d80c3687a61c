"""Migration files as real projects have them do here what they do by `psql -1`, and fail where and as they fail there.

The files are in tests/migration_files: `applied` and `failing` say what psql makes of them; those in `refused` are refused
before anything is sent, for the reason in their first line. All of them find the tables of application.sql.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from bench import Outcome, run_here, settings_for
from conftest import TESTS
from local_supabase import Cluster, Database, LocalSupabase
from psycopg import sql
from rpc_migrations.errors import SqlError, StepFileError
from rpc_migrations.file_checks import check
from rpc_migrations.output_files import migration_sql
from rpc_migrations.rewrites import as_run
from rpc_migrations.sql_text import split
from rpc_migrations.step_file import read_migration, read_migrations
from step_runner import deploy

FILES = TESTS / "migration_files"
# What differs between two runs of the same file: the time, random uuids, and an option that PostgreSQL keeps for itself.
OF_THIS_RUN = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+00|[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}|pg_attver=\d+"
)
# Who may execute it is not a migration's to say.
OF_EXECUTE_SQL = re.compile(r"^(GRANT|REVOKE) .* ON FUNCTION public\.execute_sql\(.*\n", re.MULTILINE)
PSQL_ERROR = re.compile(r"^(?:psql:.*?:(?P<line>\d+): )?ERROR:  (?P<code>\w{5}): ", re.MULTILINE)


@dataclass
class Failure:
    """An error of the database: its SQLSTATE and the line where the failing statement ends; None: it came at the commit."""

    code: str
    line: int | None


class Twins:
    """Copies of one database, to do the same in two ways."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.original = cluster.create_database()
        with self.original.connect("supabase_admin") as connection:
            connection.execute((TESTS / "local_supabase" / "supabase_services.sql").read_bytes())
            connection.execute((FILES / "application.sql").read_bytes())
        with self.original.connect() as connection:
            deploy(connection)
        self.before = contents(self.original)
        self._number = 0

    def copy(self) -> Database:
        """A fresh copy."""
        self._number += 1
        name = f"{self.original.name}_{self._number}"
        with self.cluster.connect() as connection:
            connection.execute(
                sql.SQL("create database {} owner postgres template {}").format(
                    sql.Identifier(name), sql.Identifier(self.original.name)
                )
            )
        return Database(self.cluster, name)


@pytest.fixture(scope="module")
def twins(cluster: Cluster) -> Iterator[Twins]:
    made = Twins(cluster)
    yield made
    made.original.drop()


def contents(database: Database) -> str:
    """Definitions and rows of everything but our own schema, as pg_dump writes them, without what no two runs share.

    Once everybody has gone: a session drops its temporary tables when it ends, and up to then pg_dump sorts them in.
    """
    everybody = "from pg_stat_activity where datname = %s and backend_type = 'client backend'"
    with database.cluster.connect() as connection:
        connection.execute(f"select pg_terminate_backend(pid, 15000) {everybody}", [database.name])
    command = [database.cluster.programs / "pg_dump", "--exclude-schema=rpc_migrations", database.dsn("supabase_admin")]
    dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    dump = "\n".join(line for line in dump.split("\n") if not re.match(r"\\(un)?restrict ", line))
    return OF_THIS_RUN.sub("...", OF_EXECUTE_SQL.sub("", dump))


def by_psql(database: Database, file: Path) -> tuple[Failure | None, str]:
    """Run a file by `psql -1`; what stopped it, if anything did, and what the database holds then."""
    command = [
        database.cluster.programs / "psql",
        "--no-psqlrc",
        "-1",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "VERBOSITY=verbose",
    ]
    done = subprocess.run(
        [*command, "-f", file, database.dsn()], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    error = PSQL_ERROR.search(done.stderr)
    assert (done.returncode == 0) == (error is None), done.stderr
    found = contents(database)
    database.drop()
    return Failure(error["code"], int(error["line"]) if error["line"] else None) if error else None, found


def by_us(database: Database, file: Path) -> tuple[Outcome, str]:
    """Run a file over HTTP, as run_migration.py does; how it ended, and what the database holds then."""
    with LocalSupabase(database) as running:
        outcome = run_here(settings_for(running.url, running.service_key), file)
    found = contents(database)
    database.drop()
    return outcome, found


def without_sequences(dump: str) -> str:
    """Where sequences stand is no part of a transaction."""
    return re.sub(r"^SELECT pg_catalog.setval.*$", "", dump, flags=re.MULTILINE)


def files(kind: str) -> list[str]:
    """The names of the files of a kind."""
    return sorted(path.stem for path in (FILES / kind).iterdir())


def last_line(file: Path, line: int) -> int:
    """Where the statement ends that begins in a line: psql tells that line, and we tell where it begins."""
    (step,) = read_migration(file).steps
    (statement,) = [one for one in step.statements if one.line == line][-1:]
    # The semicolon may stand further down; where none is, psql is at the end of the file.
    text = file.read_bytes().decode("utf-8-sig")
    start = sum(len(one) for one in text.splitlines(keepends=True)[: line - 1])
    end = text.find(";", text.index(statement.sql, start) + len(statement.sql))
    return text.count("\n", 0, end) + 1 if end >= 0 else len(text.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("name", files("applied"))
def test_a_file_does_what_it_does_by_psql(twins: Twins, name: str) -> None:
    file = FILES / "applied" / f"{name}.sql"
    failure, wanted = by_psql(twins.copy(), file)
    assert failure is None
    outcome, found = by_us(twins.copy(), file)
    assert outcome.error is None
    assert found == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in files("applied") if name.startswith("row_with_a_column_")])
def test_the_written_file_does_what_the_file_does_by_psql(twins: Twins, tmp_path: Path, name: str) -> None:
    """Whatever the columns of its last row hold, which the written file tells of."""
    file, written = FILES / "applied" / f"{name}.sql", tmp_path / "written.sql"
    written.write_text(migration_sql(name, read_migrations(file)))
    assert by_psql(twins.copy(), written) == by_psql(twins.copy(), file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "rows", "told"),
    [
        ("b text default 'x'", "1", "the rows do not have one value for each column of t"),
        ("b text", "1\t2\t3", "the rows do not have one value for each column of t"),
        ("b int generated always as (a) stored, c text", "1\tx", "the rows do not have one value for each column of t"),
        ("b text); create rule r as on insert to t do also (select 1", "1\tx", "COPY would ignore the rules of t"),
    ],
)
def test_rows_of_a_copy_that_an_insert_would_take_otherwise(
    twins: Twins, tmp_path: Path, column: str, rows: str, told: str
) -> None:
    """Too few values would be filled up with defaults, and rules would act."""
    file = tmp_path / "copy.sql"
    file.write_text(f"create table t (a int, {column});\ncopy t from stdin;\n{rows}\n\\.\n")
    outcome, found = by_us(twins.copy(), file)
    assert isinstance(outcome.error, SqlError)
    assert told in outcome.error.message
    assert found == twins.before


@pytest.mark.slow
@pytest.mark.parametrize("name", files("failing"))
def test_a_file_fails_where_and_as_it_fails_by_psql(twins: Twins, name: str) -> None:
    """And nothing of it remains."""
    file = FILES / "failing" / f"{name}.sql"
    failure, wanted = by_psql(twins.copy(), file)
    assert failure is not None
    assert without_sequences(wanted) == without_sequences(twins.before)
    outcome, found = by_us(twins.copy(), file)
    assert isinstance(outcome.error, SqlError)
    told = re.match(rf'Step "{name}" \({name}\.sql, line (\d+)\): ', outcome.error.message)
    assert told
    at_the_commit = "deferred" in (outcome.error.details or "")
    line = None if at_the_commit else last_line(file, int(told[1]))
    assert Failure(outcome.error.code or "", line) == failure
    assert found == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "do $$ begin set local role anon; end $$;",
        "select set_config('role', 'anon', true);",
        "create function f() returns void language sql set role = 'anon' as '';",
    ],
)
def test_a_role_changed_from_within_is_told_as_what_it_is(twins: Twins, tmp_path: Path, text: str) -> None:
    """Only the database can tell; the right to do it is not what lacks."""
    file = tmp_path / "role.sql"
    file.write_text(text)
    outcome, _ = by_us(twins.copy(), file)
    assert isinstance(outcome.error, SqlError)
    assert outcome.error.code == "42501"
    assert "Leave `set role` out" in (outcome.error.hint or "")


@pytest.mark.slow
def test_set_role_postgres_fails_where_another_role_runs_it(twins: Twins) -> None:
    """It is let through because it changes nothing."""
    (statement,) = split("set role postgres;")
    with twins.original.connect("supabase_admin") as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="runs as supabase_admin, not as postgres"):
            connection.execute(as_run(statement).encode())
        connection.execute("set role postgres")
        connection.execute(as_run(statement).encode())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("enum_value_used_at_once", "Put a line `-- step: NAME` between the two"),
        ("do_block_that_commits", "write a step `-- step: NAME (batch)`"),
        ("procedure_that_commits", "write a step `-- step: NAME (batch)`"),
        ("no_break_space", "cannot be seen, U+00A0 (no-break space)"),
        ("byte_order_mark_in_the_middle", "cannot be seen, U+FEFF (zero width no-break space)"),
    ],
)
def test_what_postgresql_does_not_tell_is_told_in_the_hint(twins: Twins, name: str, hint: str) -> None:
    """That something must be committed first, and how; what is in the way where nothing is to be seen."""
    outcome, _ = by_us(twins.copy(), FILES / "failing" / f"{name}.sql")
    assert isinstance(outcome.error, SqlError)
    assert hint in (outcome.error.hint or "")


@pytest.mark.parametrize("name", files("refused"))
def test_a_file_that_cannot_run_is_refused_before_anything_is_sent(name: str) -> None:
    file = FILES / "refused" / f"{name}.sql"
    wanted = re.match(r"-- refused: line (\d+): (.*)\n", file.read_text(encoding="utf-8"))
    assert wanted
    with pytest.raises(StepFileError, match="cannot run as it is; nothing was sent") as error:
        check(read_migrations(file))
    first = (error.value.details or "").split("\n")[0]
    assert first.startswith(f"{name}.sql:{wanted[1]}: {wanted[2]}")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "rollback_at_the_end",
            ":4: rollback. It undoes what stands above it, which would stay if this alone were left out.",
        ),
        ("savepoint", ":5: rollback. It undoes what stands above it"),
        ("transactions_that_share_a_temporary_table", ":2: begin. psql's session would keep what line 3 makes"),
        ("transactions_that_share_a_temporary_function", ":3: begin. psql's session would keep what line 2 makes"),
        ("set_role", "whom policies do not hold back. Leave it out if that is meant"),
        ("psql_copy", "Write the rows as INSERT"),
        ("psql_set_and_variable", "Write what it does as SQL, or leave it out if nothing depends on it."),
    ],
)
def test_what_to_do_instead_keeps_the_meaning_of_the_file(name: str, told: str) -> None:
    """Whoever left a ROLLBACK out would keep what it undoes; what a session keeps is gone behind a step line as well."""
    with pytest.raises(StepFileError) as error:
        check(read_migrations(FILES / "refused" / f"{name}.sql"))
    assert told in (error.value.details or "")


@pytest.mark.parametrize(
    "file",
    [FILES / kind / f"{name}.sql" for kind in ("applied", "failing") for name in files(kind)],
    ids=lambda file: file.stem,
)
def test_no_other_file_is_refused(file: Path) -> None:
    check(read_migrations(file))
