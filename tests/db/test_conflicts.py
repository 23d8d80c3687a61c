"""Serialization failures and deadlocks never leave execute_sql: PostgREST 14 would repeat such a transaction without end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from local_supabase import Database
from psycopg.types.json import Jsonb
from step_runner import Connection, deploy, wait_until_blocked

RAISE = "do $$ begin raise exception 'not now' using errcode = '{code}'; end $$"
DEFERRED = """
create table public.checked (id integer);
create function public.refuse() returns trigger language plpgsql as
$$ begin raise exception 'not now' using errcode = '40001'; end $$;
create constraint trigger refuse after insert on public.checked deferrable initially deferred
for each row execute function public.refuse();
"""


def send(connection: Connection, sql: str, *, following: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The answer to a step."""
    row = connection.execute(
        "select public.execute_sql(%s, 'test', 'one', 'checksum', following => %s)",
        (sql, None if following is None else Jsonb(following)),
    ).fetchone()
    assert row is not None
    answer: dict[str, Any] = row[0]
    return answer


@pytest.fixture
def deployed(admin: Connection) -> Connection:
    deploy(admin)
    return admin


@pytest.mark.parametrize("code", ["40001", "40P01"])
@pytest.mark.parametrize("following", [None, []], ids=["alone", "with others"])
def test_a_step_answers_conflict(deployed: Connection, code: str, following: list[dict[str, Any]] | None) -> None:
    """With SQLSTATE, message and place; nothing of it remains, its journal row neither."""
    answer = send(deployed, f"create table public.half (); {RAISE.format(code=code)}", following=following)
    assert answer.pop("details").endswith("Statement 1 of 1")
    assert answer == {"state": "conflict", "code": code, "message": "not now"}
    assert deployed.execute("select to_regclass('public.half'), count(*) from rpc_migrations.journal").fetchone() == (
        None,
        0,
    )


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_a_plain_text_fails_with_a_code_of_ours(deployed: Connection, code: str) -> None:
    """Never a success that means failure; the SQLSTATE is in the detail."""
    with pytest.raises(psycopg.Error) as failed:
        deployed.execute("select public.execute_sql(%s)", (RAISE.format(code=code),))
    assert (failed.value.sqlstate, failed.value.diag.message_primary) == ("RM006", "not now")
    assert failed.value.diag.message_detail == code


@pytest.mark.parametrize("is_step", [True, False])
def test_what_is_deferred_fails_inside(deployed: Connection, is_step: bool) -> None:
    """At the commit nobody could catch it."""
    deployed.execute(DEFERRED.encode())
    if is_step:
        assert send(deployed, "insert into public.checked values (1)")["state"] == "conflict"
    else:
        with pytest.raises(psycopg.Error) as failed:
            deployed.execute("select public.execute_sql('insert into public.checked values (1)')")
        assert failed.value.sqlstate == "RM006"


def test_a_real_deadlock(database: Database, deployed: Connection) -> None:
    """The victim is our step, since only it looks for one; the other transaction goes on."""
    deployed.execute("create table public.pair as select generate_series(1, 2) as id, 0 as n")
    update = "update public.pair set n = n + 1 where id = {}"
    text = f"set local lock_timeout = 0; {update.format(2)}; select pg_advisory_xact_lock(42); {update.format(1)}"
    answers: list[dict[str, Any]] = []
    ours = threading.Thread(target=lambda: answers.append(send(deployed, text)))
    with database.connect() as gate, database.connect("supabase_admin") as other:
        other.execute("set deadlock_timeout = '1h'; begin")
        gate.execute("select pg_advisory_lock(42)")
        other.execute(update.format(1).encode())
        ours.start()
        wait_until_blocked(gate, deployed.info.backend_pid)
        theirs = threading.Thread(target=other.execute, args=(update.format(2).encode(),))
        theirs.start()
        wait_until_blocked(gate, other.info.backend_pid)
        gate.execute("select pg_advisory_unlock(42)")
        ours.join()
        theirs.join()
        other.execute("commit")
    assert [(answer["state"], answer["code"]) for answer in answers] == [("conflict", "40P01")]
    assert deployed.execute("select id, n from public.pair order by id").fetchall() == [(1, 1), (2, 1)]


def test_a_serializable_transaction_is_refused(deployed: Connection) -> None:
    """It may fail at its commit, whatever we catch."""
    with deployed.transaction():
        deployed.execute("set transaction isolation level serializable")
        with pytest.raises(psycopg.Error, match="could fail at its commit"), deployed.transaction():
            send(deployed, "select 1")


def test_a_migration_that_is_done_meanwhile(database: Database, deployed: Connection) -> None:
    """Its rows of the journal become visible within another one's step, which has to do with none of them."""
    text = "set local lock_timeout = 0; select pg_advisory_xact_lock(42)"
    with database.connect() as other, ThreadPoolExecutor(1) as pool:
        with other.transaction():
            other.execute(text.split(";")[1].encode())
            other.execute("select public.execute_sql('select 1', 'other', 'step', 'checksum')")
            ours = pool.submit(send, deployed, text)
            wait_until_blocked(other, deployed.info.backend_pid)
        assert ours.result(20)["state"] == "done"
