"""Until when execute_sql is open, and what is on record of what it was called with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from checkout import Checkout, said
from conftest import Scripts
from local_supabase import Database, LocalSupabase, create_old_table
from projects import one
from rpc_migrations.ways_in import OPENED_BY_HAND
from step_runner import Connection, deploy

CLOSE = "update rpc_migrations.access set open_until = clock_timestamp() where true"
LONG_AGO = "update rpc_migrations.runs set last_seen_at = last_seen_at - interval '15 minutes', ended_at = ended_at - interval '15 minutes' where true"
SECRET = "hunter2-is-no-password"
OPEN_AGAIN = "What to do: Open it again: python scripts/deploy_sql_function.py --for 2h"


def call(api: LocalSupabase, query: str, key: str | None = None, **arguments: Any) -> httpx.Response:
    """execute_sql, called over HTTP from an address that the gateway names."""
    key = key or api.service_key
    headers = {"apikey": key, "Authorization": f"Bearer {key}", "X-Forwarded-For": "203.0.113.7"}
    return httpx.post(f"{api.url}/rest/v1/rpc/execute_sql", headers=headers, json={"query": query, **arguments})


@pytest.fixture
def deployed(admin: Connection) -> Connection:
    deploy(admin)
    return admin


@pytest.fixture
def log_file(database: Database) -> Path:
    """The server's log, with what the REST layer's sessions say in it, as by default."""
    with database.connect("supabase_admin") as superuser:
        setting = f'alter role authenticator in database "{database.name}" set log_min_messages = warning'
        superuser.execute(setting.encode())
    return database.cluster.log_file


# --- open for a time


def test_after_its_time_it_refuses_everyone(deployed: Connection, supabase: LocalSupabase) -> None:
    assert call(supabase, "select 1").status_code == 200
    deployed.execute(CLOSE.encode())
    refused = call(supabase, "create table public.made ()")
    assert (refused.status_code, refused.json()["code"]) == (400, "RM007")
    assert refused.json()["message"].startswith("execute_sql has been closed since 20")
    assert refused.json()["hint"] == OPEN_AGAIN.removeprefix("What to do: ")
    assert call(supabase, "select 1", step="s", migration="m", checksum="c").json()["code"] == "RM007"
    assert call(supabase, "select 1", supabase.anon_key).json()["code"] == "42501"
    assert one(deployed, "select to_regclass('public.made')::text") is None


def test_every_command_says_how_to_open_it_again(
    checkout: Checkout, deployed: Connection, supabase: LocalSupabase
) -> None:
    create_old_table(deployed, rows=5)
    deployed.execute(CLOSE.encode())
    environment = supabase.environment()
    for command in ("migrate_clusters.py", "rollback_clusters.py", "verify_clusters.py", "remove_sql_function.py"):
        said(checkout.run(command, env=environment), "Error: execute_sql has been closed since", OPEN_AGAIN, code=1)
    said(
        checkout.run("doctor.py", env=environment),
        "execute_sql has been closed since",
        " UTC. Open it again: ",
        "deploy_sql_function.py --for 2h",
        code=1,
    )
    opened = checkout.run("deploy_sql_function.py", "--for", "2h", env=environment)
    said(
        opened,
        "execute_sql itself: not open (execute_sql has been closed since",
        "through postgres-meta",
        "It is open until 20",
    )
    said(checkout.run("migrate_clusters.py", env=environment), "is applied")


def test_where_no_way_in_is_open_a_link_opens_it(checkout: Checkout, database: Database, deployed: Connection) -> None:
    """One click in the SQL Editor opens it for a quarter of an hour; the same command then says for how long it is open."""
    deployed.execute(CLOSE.encode())
    with LocalSupabase(database, meta=False) as hosted:
        deploy_half_an_hour = ("deploy_sql_function.py", "--for", "30m")
        refused = checkout.run(*deploy_half_an_hour, env=hosted.environment())
        said(refused, "no way in over HTTPS is open", f"It holds {OPENED_BY_HAND}", code=1)
        assert f"content={quote(OPENED_BY_HAND)}" in refused.stderr
        deployed.execute(OPENED_BY_HAND.encode())
        said(checkout.run(*deploy_half_an_hour, env=hosted.environment()), "It is open until 20")
        assert one(
            deployed, "select open_until - opened_at between '29 minutes' and '31 minutes' from rpc_migrations.access"
        )


def test_deployed_for_a_time_or_until_it_is_taken_away(
    checkout: Checkout, deployed: Connection, supabase: LocalSupabase
) -> None:
    """The last deployment says for how long."""
    length = "select (extract(epoch from open_until - opened_at) / 60)::integer from rpc_migrations.access"
    environment = supabase.environment()
    said(checkout.run("deploy_sql_function.py", env=environment), "Nothing to do", "open until you remove it")
    for time, minutes in (("90m", 90), ("2h", 120), ("1d", 1440)):
        opened = checkout.run("deploy_sql_function.py", "--for", time, env=environment)
        said(opened, "was deployed before and is up to date", "It is open until 20")
        assert one(deployed, length) == minutes
    said(checkout.run("deploy_sql_function.py", env=environment), "open until you remove it")
    assert one(deployed, length) is None
    wrong = checkout.run("deploy_sql_function.py", "--for", "soon", env=environment)
    assert (wrong.returncode, "'soon' is not a time such as 30m, 2h or 7d" in wrong.stderr) == (2, True)


def test_a_migration_that_runs_does_not_stop_for_it(
    scripts: Scripts, tmp_path: Path, deployed: Connection, supabase: LocalSupabase
) -> None:
    """A quarter of an hour after its last sign of life it is closed."""
    file = tmp_path / "late.sql"
    file.write_text(
        f"-- step: the time is over\n{CLOSE};\n\n-- step: it goes on\ncreate table public.late (id integer);\n"
    )
    run = scripts("run_migration.py", str(file), env=supabase.environment())
    said(run, "is applied")
    assert call(supabase, "select 1").status_code == 200
    deployed.execute(LONG_AGO.encode())
    assert call(supabase, "select 1").json()["code"] == "RM007"


def test_a_run_from_before_it_was_opened_does_not_count(deployed: Connection, supabase: LocalSupabase) -> None:
    deployed.execute("select rpc_migrations.start_run(gen_random_uuid(), 'm', 'migrate', 'me', 1, 60)")
    deployed.execute("select rpc_migrations.open_access('0 seconds', false)")
    assert call(supabase, "select 1").json()["code"] == "RM007"


@pytest.mark.parametrize("first", ["migrated before", "first run"])
def test_it_is_taken_away_when_the_migration_is_done(
    scripts: Scripts, deployed: Connection, supabase: LocalSupabase, first: str
) -> None:
    create_old_table(deployed, rows=5)
    if first == "migrated before":
        said(scripts("migrate_clusters.py", env=supabase.environment()), "is applied")
    done = scripts("migrate_clusters.py", "--remove-when-done", env=supabase.environment())
    said(done, "execute_sql was removed; the journal is kept", "deploy_sql_function.py --for 1h")
    assert one(deployed, "select to_regproc('public.execute_sql')::text") is None
    assert one(deployed, "select count(*) from rpc_migrations.journal where finished_at is not null") > 10


def test_it_stays_when_the_migration_fails(
    scripts: Scripts, tmp_path: Path, deployed: Connection, supabase: LocalSupabase
) -> None:
    file = tmp_path / "wrong.sql"
    file.write_text("-- step: wrong\nselect 1 / 0;\n")
    assert scripts("run_migration.py", str(file), "--remove-when-done", env=supabase.environment()).returncode == 1
    assert one(deployed, "select to_regproc('public.execute_sql')::text") == "execute_sql"


# --- on record


def calls(connection: Connection) -> list[dict[str, Any]]:
    """The record, the oldest first."""
    rows = connection.execute("select to_jsonb(c) from rpc_migrations.calls as c order by c.id").fetchall()
    return [row[0] for row in rows]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_text_is_on_record_by_its_hash(log_file: Path, deployed: Connection, supabase: LocalSupabase) -> None:
    """Whose it was, what kinds of statement, what came of it; and the text, with what may be secret in it, is nowhere."""
    deployed.execute("create table public.made (a text)")
    text = f"comment on table public.made is '{SECRET}'; insert into public.made values ('{SECRET}'); -- {SECRET}"
    user_of_key = supabase.make_key("service_role", sub="00000000-0000-4000-8000-000000000001")
    assert call(supabase, text, user_of_key).json() == 1
    assert call(supabase, "select 7 as seven from public.made").json() == [{"seven": 7}]
    made, read = calls(deployed)
    expected = {
        "role": "service_role", "jwt_role": "service_role", "sub": "00000000-0000-4000-8000-000000000001", "forwarded_for": "203.0.113.7",
        "migration": None, "step": None, "sha256": sha256(text), "kinds": ["COMMENT", "INSERT"], "outcome": "done", "rows": 1,
        "changed": True, "query": None,
    }  # fmt: skip
    assert {key: made[key] for key in expected} == expected
    assert (read["kinds"], read["rows"], read["changed"], read["sub"]) == (["SELECT"], 1, False, None)
    log = log_file.read_text()
    # With its context and statement; behind it the stand-in for the REST layer has its own words, the real one none.
    entries = (entry.partition("] LOG: ")[0] for entry in log.split("rpc_migrations: ")[1:])
    [entry] = [entry for entry in entries if f'"sha256": "{sha256(text)}"' in entry]
    assert SECRET not in entry


def test_steps_are_on_record_each(deployed: Connection, supabase: LocalSupabase) -> None:
    names = {"migration": "m", "checksum": "c"}
    following = [{"query": "select 2", "step": "two", "checksum": "c", "batch": False}]
    call(supabase, "create table rpc_migrations.one ()", step="one", following=following, **names)
    call(supabase, "create table rpc_migrations.one ()", step="one", **names)
    found = [(c["step"], c["sha256"], c["outcome"]) for c in calls(deployed)]
    one_text = sha256("create table rpc_migrations.one ()")
    assert found == [("one", one_text, "done"), ("two", sha256("select 2"), "done"), ("one", one_text, "done")]


def test_what_failed_is_in_the_log(log_file: Path, deployed: Connection, supabase: LocalSupabase) -> None:
    """Its transaction is undone, and a row with it."""
    text = "select 1 / 0 as failed_text"
    assert call(supabase, text).json()["code"] == "22012"
    assert calls(deployed) == []
    [line] = [line for line in log_file.read_text().splitlines() if sha256(text) in line]
    noted = json.loads(line.partition("rpc_migrations: ")[2])
    assert (noted["role"], noted["forwarded_for"], noted["kinds"]) == ("service_role", "203.0.113.7", ["SELECT"])


def test_what_conflicts_is_on_record(deployed: Connection, supabase: LocalSupabase) -> None:
    text = "do $$ begin raise exception 'not now' using errcode = '40001'; end $$"
    call(supabase, text, step="one", migration="m", checksum="c")
    assert [(c["step"], c["outcome"], c["kinds"]) for c in calls(deployed)] == [("one", "conflict", ["DO"])]


def test_whole_texts_where_they_are_asked_for(scripts: Scripts, deployed: Connection, supabase: LocalSupabase) -> None:
    said(scripts("deploy_sql_function.py", "--keep-texts", env=supabase.environment()), "up to date")
    call(supabase, f"select '{SECRET}'")
    assert calls(deployed)[-1]["query"] == f"select '{SECRET}'"
    said(scripts("doctor.py", env=supabase.environment()), "keeps whole texts", code=0)


def test_the_record_goes_back_90_days(deployed: Connection, supabase: LocalSupabase) -> None:
    call(supabase, "select 1")
    for days in (91, 89):
        deployed.execute(
            "insert into rpc_migrations.calls (role, sha256, outcome, changed, called_at) "
            f"values ('old', '', 'done', true, clock_timestamp() - interval '{days} days')".encode()
        )
    call(supabase, "select 2")
    assert (
        one(deployed, "select count(*) filter (where role = 'old') || ' of ' || count(*) from rpc_migrations.calls")
        == "1 of 3"
    )


def test_it_needs_no_write_where_none_is_possible(deployed: Connection, supabase: LocalSupabase) -> None:
    deployed.execute(f'alter database "{deployed.info.dbname}" set default_transaction_read_only = on'.encode())
    with LocalSupabase(supabase.database) as read_only:
        assert call(read_only, "select 1 as one").json() == [{"one": 1}]


def test_the_last_calls_are_shown(scripts: Scripts, deployed: Connection, supabase: LocalSupabase) -> None:
    create_old_table(deployed, rows=5)
    said(scripts("migrate_clusters.py", env=supabase.environment()), "is applied")
    call(supabase, "create table public.made (a text)")
    assert "CREATE TABLE" not in scripts("migrate_clusters.py", "--status", env=supabase.environment()).stdout
    shown = scripts("migrate_clusters.py", "--status", "--verbose", env=supabase.environment())
    said(
        shown,
        "service_role from 203.0.113.7",
        "CREATE TABLE",
        'migrate_user_clusters: "swap the tables"',
        "calls on record in all",
    )
    document = json.loads(
        scripts("migrate_clusters.py", "--status", "--verbose", "--json", env=supabase.environment()).stdout
    )
    assert document["calls"]["calls"][0]["kinds"] == ["CREATE TABLE"]
    doctor = json.loads(scripts("doctor.py", "--json", env=supabase.environment()).stdout)
    checks = {check["check"]: check["detail"] for check in doctor["checks"]}
    assert "service_role" in checks["last calls"]
    assert checks["open"].startswith("since 20")


KINDS = {
    "create or replace function f() returns int language sql as $$ select 1; drop table x $$; update t set a = 1": [
        "CREATE FUNCTION",
        "UPDATE",
    ],
    "insert into t values ('a; drop table t'); -- c; drop\n/* drop table; */ delete from \"x;y\" where true": [
        "DELETE",
        "INSERT",
    ],
    "with x as (select 1) select * from x": ["WITH"],
    "create unique index i on t (a); drop materialized view v": ["CREATE INDEX", "DROP VIEW"],
    "do $a$ begin x; end $a$; GRANT select on t to b": ["DO", "GRANT"],
    " ; -- nothing": None,
}


@pytest.mark.parametrize("text", KINDS)
def test_a_text_is_on_record_by_its_kinds_of_statement(deployed: Connection, text: str) -> None:
    row = deployed.execute("select rpc_migrations.kinds_of(%s)", [text]).fetchone()
    assert row == (KINDS[text],)
