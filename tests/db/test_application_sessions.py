"""Sessions of the application that were open before the swap: what they keep of the table's type is made anew."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from local_supabase import Database
from projects import one
from rest_calls import wait_until
from step_runner import ROLLBACK, Connection, calls, deploy, read, run, short_way

TABLE = """
create table public."My Orders" (id integer primary key, a text, b text);
insert into public."My Orders" values (1, 'a1', 'b1'), (2, 'a2', 'b2');
"""
CHANGE = 'alter table public."My Orders" drop column a, add column c text;'
WAITS = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
SWAP = "-- step: swap the tables"
# What a function declares and does with the rows of the table; each answers column b of the first one.
BODIES = {
    "array": """v public."My Orders"[]; begin select array_agg(o order by o.id) into v from public."My Orders" as o; return v[1].b""",
    "array by its own name": """v public."_My Orders"; begin v := array(select o from public."My Orders" as o order by o.id); return v[1].b""",
    "array in a loop": """v public."My Orders"[]; r public."My Orders"; begin
        for r in select * from public."My Orders" order by id loop v := v || r; end loop; return v[1].b""",
    "row as JSON": """r public."My Orders"; begin select * into r from public."My Orders" where id = 1; return to_jsonb(r) ->> 'b'""",
    "rows in a loop": """r record; begin for r in select o from public."My Orders" as o where id = 1 loop return (r.o).b; end loop""",
    "row from JSON": """r public."My Orders"; begin
        r := jsonb_populate_record(null::public."My Orders", '{"b": "b1", "c": "c1"}'); return r.b""",
}  # fmt: skip
NEW_COLUMN = """begin return to_jsonb(jsonb_populate_record(null::public."My Orders", '{"c": "c1"}')) ->> 'c'"""


def function(name: str, body: str) -> bytes:
    return f"create function public.{name}() returns text language plpgsql as $$ {'declare' * (not body.startswith('begin'))} {body}; end $$".encode()


def answers(connection: Connection) -> Any:
    """What the function f answers; more than once, because a plan is kept from the second time on."""
    found = {one(connection, "select public.f()") for _ in range(3)}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize("kind", BODIES)
def test_a_function_that_was_called_before(admin: Connection, database: Database, tmp_path: Path, kind: str) -> None:
    """It sees the rows as they are, after the swap and after the rollback."""
    deploy(admin)
    admin.execute(TABLE.encode())
    admin.execute(function("f", BODIES[kind]))
    with database.connect() as old:
        assert answers(old) == "b1"
        run(admin, short_way(tmp_path / "rebuild.sql", 'public."My Orders"', CHANGE))
        assert answers(old) == "b1"
        run(admin, read(ROLLBACK))
        assert answers(old) == "b1"


def test_a_new_column_from_json(admin: Connection, database: Database, tmp_path: Path) -> None:
    """No value is dropped on its way into the new column; by a prepared statement neither."""
    deploy(admin)
    admin.execute(TABLE.encode())
    admin.execute(function("f", NEW_COLUMN))
    with database.connect() as old:
        old.execute(
            """prepare p as select to_jsonb(jsonb_populate_record(null::public."My Orders", '{"c": "c1"}')) ->> 'c'"""
        )
        assert answers(old) is None
        assert one(old, "execute p") is None
        run(admin, short_way(tmp_path / "rebuild.sql", 'public."My Orders"', CHANGE))
        assert answers(old) == "c1"
        assert one(old, "execute p") == "c1"


@pytest.mark.parametrize("kind", ["row as JSON", "rows in a loop"])
def test_a_call_that_waits_for_the_swap(admin: Connection, database: Database, tmp_path: Path, kind: str) -> None:
    """It goes on as after ALTER TABLE, with a function that was compiled before."""
    deploy(admin)
    admin.execute(TABLE.encode())
    admin.execute(function("f", BODIES[kind]))
    steps = short_way(tmp_path / "rebuild.sql", 'public."My Orders"', CHANGE)
    before, swap = steps.split(SWAP)
    run(admin, before)
    with database.connect() as old, ThreadPoolExecutor(1) as pool:
        assert answers(old) == "b1"
        with admin.transaction():
            run(admin, SWAP + swap.split("-- step: ")[0])
            waiting = pool.submit(answers, old)
            assert wait_until(lambda: admin.execute(WAITS, [old.info.backend_pid]).fetchone() == (True,))
        assert waiting.result(20) == "b1"


def test_functions_stay_as_they_are(admin: Connection, database: Database, tmp_path: Path) -> None:
    """Owner, rights, settings and all else; those of another role are not touched, and no hindrance."""
    deploy(admin)
    admin.execute(TABLE.encode())
    for name in ("f", "g", "h"):
        admin.execute(function(name, BODIES["array"]))
    admin.execute(
        "alter function public.g() set search_path = '' set geqo_seed = 0.5 cost 7 security definer stable; "
        "grant execute on function public.g() to anon; comment on function public.g() is 'mine'; "
        "create procedure public.p() language plpgsql set statement_timeout = '5s' as "
        """$$ declare v public."My Orders"[]; begin null; end $$"""
    )
    with database.connect("supabase_admin") as keeper:
        keeper.execute("alter function public.h() owner to supabase_admin")
    every = (
        "select array_agg(to_jsonb(p) order by p.oid) from pg_proc as p where p.pronamespace = 'public'::regnamespace"
    )
    before = one(admin, every)
    run(admin, short_way(tmp_path / "rebuild.sql", 'public."My Orders"', CHANGE))
    assert one(admin, every) == before
    run(admin, read(ROLLBACK))
    assert one(admin, every) == before


def test_a_function_that_somebody_replaces(admin: Connection, database: Database, tmp_path: Path) -> None:
    """Both swaps wait for the end of that transaction, and nobody waits for them."""
    deploy(admin)
    admin.execute(TABLE.encode())
    admin.execute(function("f", BODIES["array"]))
    for text in (short_way(tmp_path / "rebuild.sql", 'public."My Orders"', CHANGE), read(ROLLBACK)):
        with database.connect() as other, other.transaction():
            other.execute(function("f", BODIES["array"]).replace(b"create", b"create or replace"))
            waiting = next(call.answer for call in calls(admin, text) if call.answer["state"] == "waiting")
            assert (
                waiting["result"]["message"]
                == "the next attempt, as function public.f() is being altered by another session"
            )
            assert one(other, """select count(*) from public."My Orders" """) == 2
        run(admin, text)
        assert answers(admin) == "b1"


@pytest.mark.parametrize(
    "by", [function("f", BODIES["array"]).replace(b"create", b"create or replace"), b"drop function public.f()"]
)
def test_a_function_that_is_another_by_then(admin: Connection, database: Database, by: bytes) -> None:
    """What another session has committed while the swap waited for it: the attempt is undone, and the next one finds it as it is."""
    deploy(admin)
    admin.execute(TABLE.encode())
    admin.execute(function("f", BODIES["array"]))
    renew = """select rpc_migrations.renew_functions('public."My Orders"'::regclass)"""
    with database.connect() as other, database.connect() as waiting, ThreadPoolExecutor(1) as pool:
        with other.transaction():
            other.execute(by)
            attempt = pool.submit(waiting.execute, renew)
            assert wait_until(lambda: admin.execute(WAITS, [waiting.info.backend_pid]).fetchone() == (True,))
        with pytest.raises(psycopg.errors.LockNotAvailable, match=r"^function \S+ is being altered by another session"):
            attempt.result(20)
        waiting.execute(renew)


def test_a_function_that_is_gone_by_then(admin: Connection, database: Database) -> None:
    """As above, where it was dropped before it was looked at."""
    deploy(admin)
    admin.execute(TABLE.encode())
    for name in ("f", "g"):
        admin.execute(function(name, BODIES["array"]))
    with database.connect("supabase_admin") as superuser:
        superuser.execute(
            "create function public.drops() returns event_trigger language plpgsql as 'begin drop function if exists public.f(), public.g(); end'; "
            "create event trigger drops on ddl_command_end when tag in ('ALTER ROUTINE', 'ALTER FUNCTION') execute function public.drops()"
        )
    with pytest.raises(psycopg.errors.LockNotAvailable):
        admin.execute("""select rpc_migrations.renew_functions('public."My Orders"'::regclass)""")
