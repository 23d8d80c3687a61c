"""Steps and texts that raise 40001 or 40P01, seen from outside: PostgREST 14 would repeat them without end, and none is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from bench import Outcome, run_here, settings_for, start_script
from conftest import POSTGREST_VERSIONS
from local_supabase import Database, LocalSupabase
from rest_calls import rpc, wait_until
from rpc_migrations.client import MAX_ATTEMPTS_IN_CONFLICT
from rpc_migrations.errors import SqlError
from step_runner import deploy

GATE = 4712  # the advisory lock that a step waits for
# No rollback takes nextval back, so the sequence counts the executions.
RAISE = "do $$ begin perform nextval('public.executions'); raise exception 'not now' using errcode = '{code}'; end $$"
CHECKED_AT_COMMIT = """
create table public.checked (id integer);
create function public.refuse() returns trigger language plpgsql as $$
begin
    perform nextval('public.executions');
    raise exception 'not now' using errcode = '40001';
end $$;
create constraint trigger refuse after insert on public.checked deferrable initially deferred
for each row execute function public.refuse();
"""
INSERT = "insert into public.checked values (1)"


@pytest.fixture(params=POSTGREST_VERSIONS)
def postgrest(request: pytest.FixtureRequest) -> Any:
    """Each."""
    return request.param


@pytest.fixture
def project(supabase: LocalSupabase, admin: psycopg.Connection[Any]) -> LocalSupabase:
    """A project with execute_sql, known to the REST layer."""
    deploy(admin)
    admin.execute("create sequence public.executions minvalue 0 start 0; select nextval('public.executions')")
    admin.execute(CHECKED_AT_COMMIT.encode())
    assert wait_until(lambda: rpc(supabase, "execute_sql", query="select 1").status_code == 200)
    return supabase


def executions(admin: psycopg.Connection[Any]) -> int:
    """How often what raises was executed."""
    row = admin.execute("select last_value from public.executions").fetchone()
    assert row
    return int(row[0])


def at_rest(admin: psycopg.Connection[Any]) -> bool:
    """Whether no session of the REST layer does anything, seen twice."""
    busy = "select from pg_stat_activity where usename = 'authenticator' and datname = current_database() and state <> 'idle'"
    return wait_until(lambda: not admin.execute(busy).fetchall() and not admin.execute(busy).fetchall())


def write_steps(folder: Path, *steps: str) -> Path:
    """A migration file with these steps, named by their numbers."""
    file = folder / "steps.sql"
    file.write_text("".join(f"-- step: {number}\n{step};\n" for number, step in enumerate(steps, 1)))
    return file


def run(project: LocalSupabase, file: Path) -> Outcome:
    return run_here(settings_for(project.url, project.service_key, request_timeout=5.0), file)


@pytest.mark.parametrize(
    ("step", "code"),
    [(RAISE.format(code="40001"), "40001"), (RAISE.format(code="40P01"), "40P01"), (INSERT, "40001")],
    ids=["40001", "40P01", "at the commit"],
)
@pytest.mark.parametrize("before", [(), ("select 1",)], ids=["first", "second in its request"])
def test_a_step_ends_with_its_own_error(
    project: LocalSupabase,
    admin: psycopg.Connection[Any],
    tmp_path: Path,
    step: str,
    code: str,
    before: tuple[str, ...],
) -> None:
    """After a few attempts, named, and with its SQLSTATE."""
    outcome = run(project, write_steps(tmp_path, *before, step))
    assert isinstance(outcome.error, SqlError)
    assert (outcome.error.code, outcome.exit_code) == (code, 1)
    assert f'Step "{len(before) + 1}" (steps.sql' in outcome.error.message
    assert f"{code}, not now" in outcome.error.message
    assert at_rest(admin)
    # Once more where it was sent with another step first, and undone.
    assert executions(admin) == MAX_ATTEMPTS_IN_CONFLICT + len(before)


@pytest.mark.parametrize(
    ("text", "code"),
    [(RAISE.format(code="40001"), "40001"), (RAISE.format(code="40P01"), "40P01"), (INSERT, "40001")],
    ids=["40001", "40P01", "at the commit"],
)
def test_a_plain_text_fails_once(project: LocalSupabase, admin: psycopg.Connection[Any], text: str, code: str) -> None:
    """With a code of ours that nobody repeats, and theirs in its details."""
    answer = rpc(project, "execute_sql", query=text)
    assert answer.status_code == 400
    assert (answer.json()["code"], answer.json()["message"], answer.json()["details"]) == ("RM006", "not now", code)
    assert at_rest(admin)
    assert executions(admin) == 1


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_a_step_whose_client_was_killed_ends(
    database: Database, project: LocalSupabase, admin: psycopg.Connection[Any], tmp_path: Path, code: str
) -> None:
    """Nobody hears of its failure, and it is not executed again."""
    file = write_steps(
        tmp_path, f"set local lock_timeout = 0; select pg_advisory_xact_lock({GATE}); {RAISE.format(code=code)}"
    )
    env: dict[str, str | None] = {"SUPABASE_URL": project.url, "SUPABASE_SERVICE_KEY": project.service_key}
    waiting = "select from pg_locks where locktype = 'advisory' and objid = %s and not granted"
    with database.connect() as gate:
        gate.execute("select pg_advisory_lock(%s)", [GATE])
        script = start_script("run_migration.py", file, env=env)
        try:
            assert wait_until(lambda: bool(admin.execute(waiting, [GATE]).fetchall()))
        finally:
            script.kill()
            script.communicate()
        assert executions(admin) == 0
    assert wait_until(lambda: executions(admin) > 0)
    assert at_rest(admin)
    assert executions(admin) == 1
