"""Steps of many statements: limits that a text cannot lift, memory, what an error tells, and answers that are none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from bench import Outcome, run_here, settings_for
from local_supabase import Cluster, Database, LocalSupabase
from psycopg import Connection
from rpc_migrations.other_tools import noted_text
from step_runner import deploy, run, short_way

SEPARATOR = "\n;\n"


@pytest.fixture
def deployed(database: Database, admin: Connection[Any]) -> Connection[Any]:
    """A connection to a database with execute_sql and one table."""
    deploy(admin)
    admin.execute("create table public.items (id integer primary key, name text)")
    admin.execute("set statement_timeout = '20s'")
    return admin


def step(connection: Connection[Any], *statements: str, batch: bool = False) -> dict[str, Any]:
    """Send a step of these statements; its answer."""
    row = connection.execute(
        "select public.execute_sql(%s, 'mine', 'one', 'checksum', %s, separator => %s)",
        [SEPARATOR.join(statements), batch, SEPARATOR],
    ).fetchone()
    assert row
    answer: dict[str, Any] = row[0]
    return answer


@pytest.mark.parametrize(
    "setting", ["set lock_timeout = 0", "set local lock_timeout = 0", "select set_config('lock_timeout', '0', false)"]
)
def test_a_text_cannot_make_us_wait_for_a_lock(database: Database, deployed: Connection[Any], setting: str) -> None:
    """As pg_dump begins its files: everyone who comes after us would wait as well."""
    with database.connect(autocommit=False) as holder:
        holder.execute("select from public.items")
        answer = step(deployed, setting, "alter table public.items add column more text")
        assert (answer["state"], answer["holders"][0]["pid"]) == ("waiting", holder.info.backend_pid)
    assert step(deployed, setting, "alter table public.items add column more text")["state"] == "done"


@pytest.mark.parametrize(
    "whose",
    ["role postgres in database {}", "database {}"],
    ids=["of the role", "of the database, and the role has none"],
)
def test_names_are_looked_up_where_the_owner_has_them_looked_up(
    cluster: Cluster, database: Database, deployed: Connection[Any], tmp_path: Path, whose: str
) -> None:
    """As by psql, which finds a table of the application's schema and makes the next one there."""
    deployed.execute(
        "create schema app; create table app.items (id bigint primary key, name text); "
        "create domain app.label as text; create domain public.label as integer; insert into app.items values (1, 'one')"
    )
    deployed.execute(f"alter {whose} set search_path = app, public".format(database.name).encode())
    if whose.startswith("database"):
        with cluster.connect() as connection:
            connection.execute("alter role postgres reset search_path")
    try:
        step(
            deployed,
            "set search_path = ''",
            "reset search_path",
            "create table made ()",
            "insert into items values (2)",
        )
        rebuild = short_way(tmp_path / "mine.sql", "app.items", "alter table items alter column name type label;")
        run(deployed, rebuild, "rebuild")
    finally:
        with cluster.connect() as connection:
            connection.execute('alter role postgres set search_path = "$user", public, extensions')
    row = deployed.execute(
        "select to_regclass('app.made') is not null, to_regclass('public.made') is null, count(*), "
        "(select format_type(atttypid, null) from pg_attribute where attrelid = 'app.items'::regclass and attname = 'name') from app.items"
    ).fetchone()
    assert row == (True, True, 2, "app.label")


@pytest.mark.parametrize("split", [True, False], ids=["a step", "a text that nobody has split"])
def test_memory_is_a_small_multiple_of_the_text(deployed: Connection[Any], split: bool) -> None:
    """Not the text once for each statement: that was 1.6 GB for this one."""
    inserts = [f"insert into public.items values ({n}, '{'x' * 60}')" for n in range(4000)]
    before = address_space(deployed)
    if split:
        step(deployed, *inserts)
    else:
        deployed.execute("select public.execute_sql(%s)", [";".join(inserts)])
    assert deployed.execute("select count(*) from public.items").fetchone() == (4000,)
    assert address_space(deployed) - before < 150


def address_space(connection: Connection[Any]) -> int:
    """The most that a backend has ever asked the kernel for, in MB."""
    status = Path(f"/proc/{connection.info.backend_pid}/status").read_text()
    found = re.search(r"VmPeak:\s+(\d+) kB", status)
    assert found
    return int(found[1]) // 1024


def test_a_text_that_nobody_has_split_may_use_what_it_makes(deployed: Connection[Any]) -> None:
    text = "create table public.made (id integer); insert into public.made values (1), (2)"
    assert deployed.execute("select public.execute_sql(%s)", [text]).fetchone() == (2,)
    rows = deployed.execute("select public.execute_sql(%s)", ["select id from public.made -- ;"]).fetchone()
    assert rows == ([{"id": 1}, {"id": 2}],)


def test_a_plain_step_that_says_that_it_is_not_done_is_refused(deployed: Connection[Any]) -> None:
    """Most likely "(batch)" was forgotten: it would count as applied after its first call."""
    with pytest.raises(psycopg.DatabaseError, match='"one" says that it is not done') as error:
        step(deployed, "select false as done, 7 as rows")
    assert error.value.sqlstate == "RM005"
    assert error.value.diag.message_hint == "Write its line as: -- step: one (batch)"
    assert step(deployed, "select * from (values (false), (false)) as v (done)")["state"] == "done"


@pytest.mark.parametrize("rows", ["'three'", "-1", "1.5", "1e30", "null", "array[1]"])
def test_rows_that_are_no_number_count_as_none(deployed: Connection[Any], rows: str) -> None:
    assert step(deployed, f"select {rows} as rows")["rows"] == 0
    answer = deployed.execute(
        f"select public.execute_sql('select true as done, {rows.replace(chr(39), chr(39) * 2)} as rows', 'mine', 'many', 'c', true)"
    ).fetchone()
    assert answer
    assert answer[0]["rows"] == 0


FAILING = """-- A function that fails, and who calls it.
create function public.half(n integer) returns integer language plpgsql as $$
begin
    return 1 / n;
end $$;

insert into public.items
values (1, 'one');

select
    public.half(2),
    public.half(0),
    1 as one;
"""


def failed(supabase: LocalSupabase, folder: Path, text: str) -> Outcome:
    """Run a file that fails."""
    file = folder / "mine.sql"
    file.write_text(text)
    outcome = run_here(settings_for(supabase.url, supabase.service_key), file)
    assert outcome.error is not None
    return outcome


def test_an_error_tells_where_it_happened(deployed: Connection[Any], supabase: LocalSupabase, tmp_path: Path) -> None:
    """File, line, the statement's first lines, and the functions that it called, but none of ours."""
    error = failed(supabase, tmp_path, FAILING).error
    assert error is not None
    assert (error.code, error.message) == ("22012", 'Step "mine" (mine.sql, line 10): division by zero')
    assert (error.details or "").split("\n") == [
        "PL/pgSQL function half(integer) line 3 at RETURN",
        "10 | select",
        "11 |     public.half(2),",
        "12 |     public.half(0),",
        "...",
    ]
    assert deployed.execute("select to_regproc('public.half'), count(*) from public.items").fetchone() == (None, 0)


STOPPED_IN_THE_COPY = """
create function public.fine(name text) returns boolean language plpgsql as $$
begin
    raise 'never';
end $$;
create table rpc_migrations.items (like public.items including all, check (public.fine(name)));
select * from rpc_migrations.begin_copy('public.items', 'public.items_backup');
select * from rpc_migrations.copy_batch();
"""


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("select * from rpc_migrations.begin_copy('public.items', 'public.items_backup');", []),
        (STOPPED_IN_THE_COPY, ["PL/pgSQL function fine(text) line 3 at RAISE"]),
    ],
    ids=["a refusal", "a function of the table's"],
)
def test_an_error_tells_nothing_of_our_functions(
    deployed: Connection[Any], supabase: LocalSupabase, tmp_path: Path, text: str, places: list[str]
) -> None:
    """Where one of ours raises, or calls what does."""
    deployed.execute("insert into public.items values (1, 'one')")
    error = failed(supabase, tmp_path, text).error
    assert error is not None
    assert [line for line in (error.details or "").split("\n") if not re.match(r"\d+ \|", line)] == places


def test_an_error_keeps_detail_and_hint(deployed: Connection[Any], supabase: LocalSupabase, tmp_path: Path) -> None:
    text = (
        "select 1;\ndo $$ begin raise 'no' using errcode = 'P0042', detail = 'why; it is', hint = 'do this' ; end $$;\n"
    )
    error = failed(supabase, tmp_path, text).error
    assert error is not None
    assert (error.code, error.hint) == ("P0042", "do this")
    assert (error.details or "").split("\n")[0] == "why; it is"


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("select (select id from public.items) as one;", "21000", "Nothing of this step remains"),
        ("create table public.t (c integer check (c > (select 1)));", "0A000", "Nothing of this step remains"),
        ("do $$ begin execute 'delete from public.items'; end $$;", "21000", "Give the UPDATE or DELETE a WHERE"),
    ],
)
def test_a_hint_is_about_what_happened(
    deployed: Connection[Any], supabase: LocalSupabase, tmp_path: Path, text: str, code: str, hint: str
) -> None:
    """A SQLSTATE stands for much: only one of these lacks a WHERE."""
    deployed.execute("insert into public.items values (1), (2)")
    error = failed(supabase, tmp_path, text).error
    assert error is not None
    assert error.code == code
    assert (error.hint or "").startswith(hint)


def test_what_is_deferred_fails_as_the_step_it_belongs_to(
    deployed: Connection[Any], supabase: LocalSupabase, tmp_path: Path
) -> None:
    deployed.execute("alter table public.items add unique (name) deferrable initially deferred")
    error = failed(supabase, tmp_path, "insert into public.items values (1, 'a'), (2, 'a');\nselect 1;\n").error
    assert error is not None
    assert error.code == "23505"
    assert (error.details or "").endswith("at the end of the step, where deferred constraints are checked")


def test_a_text_that_the_cli_has_noted_is_compared_as_the_file_is(deployed: Connection[Any], tmp_path: Path) -> None:
    """White space and semicolons do not count, and all letters do: in a string, E'\\v' is a tab or a v, as the version has it."""
    (tmp_path / "1_a.sql").write_text("\ufeffinsert into v\tvalues\v(1);\r\n\f select 'v' ;\n")
    deployed.execute(
        "create schema supabase_migrations; "
        "create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text)"
    )
    deployed.execute(
        "insert into supabase_migrations.schema_migrations values ('1', %s, 'a')",
        [["insert into v values (1)", "select 'v'"]],
    )
    row = deployed.execute("select rpc_migrations.history() -> 'by_cli' -> 0 ->> 'hash'").fetchone()
    assert row == (noted_text(tmp_path / "1_a.sql"),)
