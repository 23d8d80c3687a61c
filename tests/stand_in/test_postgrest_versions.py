"""In what the stand-in for PostgREST 14 differs from that for 16: it repeats transactions, and it takes its time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import psycopg
import pytest
from conftest import POSTGREST_VERSIONS
from local_supabase import Cluster, Database, LocalSupabase
from rest_calls import REAL_ONE, define, in_background, known, rpc, wait_until

if REAL_ONE:
    pytest.skip("about the stand-in", allow_module_level=True)

MANY = 50  # executions; whoever repeats without end gets there
RAISES = """fails(code text, times integer default 2000000000) returns integer language plpgsql as $$
begin
    if nextval('public.executions') <= times then
        raise exception 'not now' using errcode = code;
    end if;
    return 1;
end $$"""
FAILS_AT_COMMIT = """
create table public.checked (id integer);
create function public.refuse() returns trigger language plpgsql as $$
begin
    perform public.fails('40001');
    return null;
end $$;
create constraint trigger refuse after insert on public.checked deferrable initially deferred
for each row execute function public.refuse();
"""


@pytest.fixture
def postgrest() -> str:
    return "14"


@pytest.fixture
def failing(admin: psycopg.Connection[Any], supabase: LocalSupabase) -> LocalSupabase:
    """A project with functions that fail, whose executions a sequence counts."""
    admin.execute("create sequence public.executions minvalue 0 start 0; select nextval('public.executions')")
    define(admin, RAISES)
    admin.execute(FAILS_AT_COMMIT.encode())
    define(admin, "quick() returns int language sql as 'select 1'")
    assert wait_until(lambda: known(supabase, "quick"))
    return supabase


def executions(admin: psycopg.Connection[Any]) -> int:
    """How often the function was executed; no rollback takes that back."""
    row = admin.execute("select last_value from public.executions").fetchone()
    assert row
    return int(row[0])


def goes_on(admin: psycopg.Connection[Any]) -> bool:
    """Whether it is being executed, again and again."""
    enough = executions(admin) + MANY
    return wait_until(lambda: executions(admin) >= enough)


def terminate_repeated(admin: psycopg.Connection[Any]) -> None:
    """End the sessions that have just called the function."""
    admin.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where usename = 'authenticator' and datname = current_database() and query !~* '^listen'"
    )


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_14_repeats_a_transaction_without_end(
    admin: psycopg.Connection[Any], failing: LocalSupabase, code: str
) -> None:
    """Until its session is terminated, of which the client that still waits is told."""
    answer = in_background(lambda: rpc(failing, "fails", code=code))
    assert goes_on(admin)
    terminate_repeated(admin)
    assert (answer().status_code, answer().json()["code"]) == (503, "PGRST001")
    assert rpc(failing, "quick").json() == 1


@pytest.mark.parametrize("code", ["40001", "40P01", "23505"])
def test_16_answers_once(database: Database, admin: psycopg.Connection[Any], failing: LocalSupabase, code: str) -> None:
    """And so does 14 to every other error."""
    versions = POSTGREST_VERSIONS if code == "23505" else ("16",)
    for times, version in enumerate(versions, 1):
        with LocalSupabase(database, postgrest=version) as project:
            assert rpc(project, "fails", code=code).json()["code"] == code
        assert executions(admin) == times


def test_14_repeats_what_fails_at_the_commit(admin: psycopg.Connection[Any], failing: LocalSupabase) -> None:
    url, headers = f"{failing.url}/rest/v1/checked", {"apikey": failing.service_key}
    answer = in_background(lambda: httpx.post(url, headers=headers, json={"id": 1}, timeout=30))
    assert goes_on(admin)
    terminate_repeated(admin)
    assert answer().status_code == 503


def test_what_succeeds_at_last_is_a_success(admin: psycopg.Connection[Any], failing: LocalSupabase) -> None:
    """Nobody hears of the failures."""
    answer = rpc(failing, "fails", code="40001", times=3)
    assert (answer.status_code, answer.json(), executions(admin)) == (200, 1, 4)


def test_14_goes_on_when_the_client_has_gone(admin: psycopg.Connection[Any], failing: LocalSupabase) -> None:
    """Only the stand-in's own end stops it then."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{failing.url}/rest/v1/rpc/fails", headers={"apikey": failing.service_key},
                   json={"code": "40001"}, timeout=0.3)  # fmt: skip
    assert goes_on(admin)
    failing.stop()
    assert wait_until(lambda: not sessions(admin))
    assert not [thread for thread in threading.enumerate() if thread.name == "local-supabase"]


def test_in_a_process_of_its_own_it_stops_as_well(
    database: Database, admin: psycopg.Connection[Any], failing: LocalSupabase
) -> None:
    failing.stop()
    with LocalSupabase(database, subprocess=True, postgrest="14") as project:
        end = in_background(lambda: _until_it_is_cut(project))
        assert goes_on(admin)
    end()
    assert wait_until(lambda: not sessions(admin))


def _until_it_is_cut(project: LocalSupabase) -> httpx.Response:
    with suppress(httpx.TransportError):
        return rpc(project, "fails", code="40001")
    return httpx.Response(0)


def sessions(admin: psycopg.Connection[Any]) -> list[Any]:
    """The REST layer's sessions in the database."""
    return admin.execute(
        "select pid from pg_stat_activity where usename = 'authenticator' and datname = current_database()"
    ).fetchall()


def test_repeated_transactions_fill_the_pool(
    database: Database, admin: psycopg.Connection[Any], failing: LocalSupabase
) -> None:
    """Each has its session for as long as it is repeated, and the application's requests get none."""
    with LocalSupabase(database, postgrest="14", pool_size=2, pool_wait=0.2) as project:
        answers = [in_background(lambda: rpc(project, "fails", code="40P01")) for _ in range(2)]
        assert wait_until(lambda: rpc(project, "quick").status_code == 504)
        assert rpc(project, "quick").json()["code"] == "PGRST003"
        terminate_repeated(admin)
        assert [answer().status_code for answer in answers] == [503, 503]
        assert rpc(project, "quick").json() == 1


def test_14_reads_the_schema_anew_when_the_database_was_down(
    cluster: Cluster, database: Database, admin: psycopg.Connection[Any], failing: LocalSupabase
) -> None:
    """PGRST000 while it is down as 16 says, and PGRST002 after that for a while."""
    with LocalSupabase(database, postgrest="14", catch_up=0.5) as project:
        cluster.stop("immediate")
        assert wait_until(lambda: rpc(project, "quick").json()["code"] == "PGRST000")
        cluster.start()
        answer = rpc(project, "quick")
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "PGRST002", "0")
        assert wait_until(lambda: rpc(project, "quick").status_code == 200)


@pytest.mark.parametrize(
    ("version", "number", "vary"), [("14", "14.17", None), ("16", "16.2", "Accept, Prefer, Range")]
)
def test_each_version_answers_with_its_own_number_and_headers(
    database: Database, version: str, number: str, vary: str | None
) -> None:
    with LocalSupabase(database, postgrest=version) as project:
        root = httpx.get(f"{project.url}/rest/v1/", headers={"apikey": project.service_key})
        error = rpc(project, "nope")
    assert root.json()["info"]["version"] == number
    assert root.headers["server"] == f"postgrest/{number}"
    assert root.headers.get("vary") == vary
    assert "vary" not in error.headers


Level = Callable[..., Any]


@pytest.fixture
def level(admin: psycopg.Connection[Any], supabase: LocalSupabase) -> Level:
    """Calls a function with these settings; returns its transaction's isolation level."""

    def call(settings: str = "") -> Any:
        define(
            admin,
            f"level() returns text language sql {settings} as $$ select current_setting('transaction_isolation') $$",
        )
        assert wait_until(lambda: known(supabase, "level"))
        answer = rpc(supabase, "level").json()
        admin.execute("drop function public.level()")
        assert wait_until(lambda: not known(supabase, "level"))
        return answer

    return call


@pytest.mark.parametrize("postgrest", POSTGREST_VERSIONS)
def test_the_isolation_level_is_the_functions_or_the_roles(
    cluster: Cluster, database: Database, level: Level, postgrest: str
) -> None:
    """As PostgREST's documentation says ("Transactions", section "Isolation Level"); the database's own is overridden."""
    with cluster.connect() as superuser:
        superuser.execute(f"alter database {database.name} set default_transaction_isolation = 'serializable'".encode())
        assert level() == "read committed"
        assert level("set default_transaction_isolation = 'serializable'") == "serializable"
        try:
            superuser.execute("alter role service_role set default_transaction_isolation = 'repeatable read'")
            assert level() == "repeatable read"
            assert level("set default_transaction_isolation = 'read committed'") == "read committed"
        finally:
            superuser.execute("alter role service_role reset default_transaction_isolation")
