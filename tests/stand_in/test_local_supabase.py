"""The local Supabase itself: roles and rights, faults, keys, the other SQL endpoints, and leaving nothing
behind.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from conftest import TESTS
from local_supabase import Cluster, Database, LocalSupabase, create_old_table
from rest_calls import REAL_ONE, define, in_background, known, rpc, wait_until

stand_in_only = pytest.mark.skipif(REAL_ONE, reason="about the stand-in")
API_ROLES = ("anon", "authenticated", "service_role")


# --- roles and rights


def test_postgres_is_no_superuser_and_owns_the_database(admin: psycopg.Connection[Any]) -> None:
    row = admin.execute(
        "select rolsuper, rolcreaterole, rolbypassrls, pg_get_userbyid(datdba), current_setting('TimeZone')"
        " from pg_roles, pg_database where rolname = current_user and datname = current_database()"
    ).fetchone()
    assert row == (False, True, True, "postgres", "UTC")


@pytest.mark.parametrize("default_grants", ["all", "none"])
def test_default_privileges_are_those_of_the_project(admin: psycopg.Connection[Any], default_grants: str) -> None:
    admin.execute("create table public.fresh (id bigserial primary key)")
    define(admin, "fresh_function() returns int language sql as 'select 1'")
    expected = default_grants == "all"
    for role in API_ROLES:
        row = admin.execute(
            "select has_table_privilege(%(r)s, 'public.fresh', 'select, insert, update, delete, truncate'),"
            " has_sequence_privilege(%(r)s, 'public.fresh_id_seq', 'usage'),"
            " exists (select from pg_proc, aclexplode(proacl)"
            "  where proname = 'fresh_function' and grantee = %(r)s::regrole),"
            " has_function_privilege(%(r)s, 'public.fresh_function()', 'execute')",
            {"r": role},
        ).fetchone()
        # PUBLIC may execute a new function in either case: that is PostgreSQL's own default.
        assert row == (expected, expected, expected, True), role


def test_the_users_table_can_be_referenced_but_belongs_to_the_auth_service(
    admin: psycopg.Connection[Any],
) -> None:
    owner = admin.execute("select tableowner from pg_tables where tablename = 'users'").fetchone()
    assert owner == ("supabase_auth_admin",)
    admin.execute("create table public.child (user_id uuid references auth.users (id) on delete cascade)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        admin.execute("alter table auth.users add column mine int")


def test_roles_have_the_timeouts_of_hosted_projects(database: Database) -> None:
    with database.connect("authenticator") as connection:
        row = connection.execute(
            "select current_setting('statement_timeout'), current_setting('lock_timeout')"
        ).fetchone()
    assert row == ("8s", "8s")


def test_postgres_uses_the_publication_without_being_its_superuser(admin: psycopg.Connection[Any]) -> None:
    admin.execute("create table public.t (id int primary key)")
    admin.execute("alter publication supabase_realtime add table public.t")


@pytest.mark.parametrize("variant", ["full", "minimal", "extra"])
def test_the_old_table_is_made_in_each_variant(
    admin: psycopg.Connection[Any], supabase: LocalSupabase, variant: Any
) -> None:
    create_old_table(admin, 200, variant)
    row = admin.execute("select count(*), count(distinct user_id) from public.user_clusters").fetchone()
    assert row == (200, 20)
    user = admin.execute("select user_id from public.user_clusters limit 1").fetchone()
    assert wait_until(lambda: seen(supabase, supabase.service_key) == 200)
    assert seen(supabase, supabase.authenticated_key(str((user or [""])[0]))) == 10
    assert seen(supabase, supabase.anon_key) == 0


def seen(project: LocalSupabase, key: str) -> int:
    """How many rows of user_clusters a key sees, -1 while the table is not known."""
    answer = httpx.get(f"{project.url}/rest/v1/user_clusters?select=id", headers={"apikey": key})
    return len(answer.json()) if answer.status_code == 200 else -1


# --- the REST layer beyond the recorded requests


@stand_in_only
def test_a_new_function_is_unknown_until_the_cache_is_reloaded(database: Database) -> None:
    with LocalSupabase(database, reload_delay=0.3) as project, database.connect() as connection:
        connection.execute("create function public.late() returns int language sql as 'select 1'")
        assert rpc(project, "late").json()["code"] == "PGRST202"
        assert wait_until(lambda: known(project, "late"))
        connection.execute("drop function public.late()")
        assert wait_until(lambda: not known(project, "late"))


def test_functions_without_names_for_their_arguments_do_no_harm(database: Database) -> None:
    """PostgreSQL makes such functions for a range type."""
    with database.connect() as connection:
        connection.execute("create type public.span as range (subtype = float8)")
        define(connection, "total(variadic integer[]) returns integer language sql as 'select 1'")
        define(connection, "one() returns integer language sql as 'select 1'")
    with LocalSupabase(database) as running:
        assert known(running, "one")


def test_overloads_are_told_apart_and_each_result_has_its_shape(
    admin: psycopg.Connection[Any], supabase: LocalSupabase
) -> None:
    define(admin, "twice(a int) returns int language sql as 'select a * 2'")
    define(admin, "twice(a text, b text default '') returns text language sql as 'select a || a || b'")
    define(admin, "one_column() returns table (x int) language sql as 'select 1'")
    define(admin, "out_argument(a int, out b int) language sql as 'select a + 1'")
    admin.execute("create function public.sum_of(variadic numbers int[]) returns bigint language sql"
                  " as 'select sum(n) from unnest(numbers) as n'")  # fmt: skip
    define(admin, "body(json) returns json language sql as 'select $1'")
    assert wait_until(lambda: known(supabase, "one_column"))
    ambiguous = rpc(supabase, "twice", a=1)
    assert (ambiguous.status_code, ambiguous.json()["code"]) == (300, "PGRST203")
    assert "public.twice(a => integer), public.twice(a => text, b => text)" in ambiguous.json()["message"]
    assert rpc(supabase, "twice", a="x", b="y").json() == "xxy"
    assert rpc(supabase, "one_column").json() == [{"x": 1}]
    assert rpc(supabase, "out_argument", a=1).json() == {"b": 2}
    assert rpc(supabase, "sum_of", numbers=[1, 2]).json() == 3
    assert rpc(supabase, "body", any=1).json() == {"any": 1}


def test_tables_are_read_and_written_through_the_client(
    admin: psycopg.Connection[Any], supabase: LocalSupabase
) -> None:
    from supabase import create_client

    admin.execute("create table public.notes (id int primary key, note text default 'none', tags jsonb)")
    client: Any = create_client(supabase.url, supabase.service_key)
    assert wait_until(
        lambda: httpx.get(f"{supabase.url}/rest/v1/notes", headers={"apikey": supabase.anon_key}).is_success
    )
    notes = client.table("notes")
    added = notes.insert([{"id": 1, "tags": ["a"]}, {"id": 2, "tags": None}]).execute().data
    assert [row["note"] for row in added] == ["none", "none"]
    assert notes.insert({"id": 3}).execute().data == [{"id": 3, "note": "none", "tags": None}]
    assert notes.update({"note": "x, (y)"}).eq("id", 1).execute().data[0]["note"] == "x, (y)"
    assert notes.upsert({"id": 1, "note": "z"}).execute().data[0]["note"] == "z"
    notes.update({"note": None}).eq("id", 2).execute()
    listed = notes.select("id").in_("note", ["z", "none"]).order("id", desc=True).execute().data
    assert listed == [{"id": 3}, {"id": 1}]
    counted = notes.select("id", count="exact").gte("id", 2).is_("note", "null").limit(1).execute()
    assert (counted.count, counted.data) == (1, [{"id": 2}])
    assert notes.select("note").eq("id", 3).single().execute().data == {"note": "none"}
    assert len(notes.delete().neq("id", 1).execute().data) == 2
    answer = httpx.get(f"{supabase.url}/rest/v1/note", headers={"apikey": supabase.service_key})
    assert (answer.status_code, answer.json()["code"]) == (404, "PGRST205")
    assert answer.json()["hint"] == "Perhaps you meant the table 'public.notes'"


def test_anon_is_cut_at_three_seconds_and_sees_what_its_token_says(
    admin: psycopg.Connection[Any], supabase: LocalSupabase
) -> None:
    define(admin, "timeout() returns text language sql as $$ select current_setting('statement_timeout') $$")
    define(admin, "who() returns jsonb language sql as 'select jsonb_build_array(auth.uid(), auth.role())'")
    user = "00000000-0000-4000-8000-000000000001"
    assert wait_until(lambda: known(supabase, "who"))
    timeouts = [rpc(supabase, "timeout", supabase.make_key(role)).json() for role in API_ROLES]
    assert timeouts == ["3s", "8s", "8s"]
    assert rpc(supabase, "who", supabase.authenticated_key(user)).json() == [user, "authenticated"]


# --- faults


def slow_function(admin: psycopg.Connection[Any], project: LocalSupabase) -> None:
    define(admin, "slow(s float default 5) returns int language sql as 'select 1 from pg_sleep(s)'")
    define(admin, "quick() returns int language sql as 'select 1'")
    assert wait_until(lambda: known(project, "quick"))


def sleeping(admin: psycopg.Connection[Any]) -> list[int]:
    rows = admin.execute(
        "select pid from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
    )
    return [pid for (pid,) in rows.fetchall()]


def test_a_backend_that_is_terminated(admin: psycopg.Connection[Any], supabase: LocalSupabase) -> None:
    slow_function(admin, supabase)
    answer = in_background(lambda: rpc(supabase, "slow"))
    assert wait_until(lambda: bool(sleeping(admin)))
    admin.execute("select pg_terminate_backend(%s)", sleeping(admin))
    assert answer().status_code == 503
    assert answer().json() == {
        "code": "PGRST001",
        "details": "no connection to the server\n",
        "hint": None,
        "message": "Database client error. Retrying the connection.",
    }
    assert answer().headers["retry-after"] == "0"
    assert rpc(supabase, "quick").json() == 1


def test_a_stopped_database(cluster: Cluster, admin: psycopg.Connection[Any], supabase: LocalSupabase) -> None:
    slow_function(admin, supabase)
    cluster.stop("immediate")
    answers = [rpc(supabase, "quick") for _ in range(2)]
    cluster.start()
    assert [answer.status_code for answer in answers] == [503, 503]
    assert answers[1].json()["code"] == "PGRST000"
    assert answers[1].headers["proxy-status"] == "PostgREST; error=PGRST000"
    assert wait_until(lambda: rpc(supabase, "quick").status_code == 200, 3)


@stand_in_only
def test_a_full_pool(admin: psycopg.Connection[Any], database: Database) -> None:
    with LocalSupabase(database, pool_size=1, pool_wait=0.2) as project:
        slow_function(admin, project)
        answer = in_background(lambda: rpc(project, "slow", s=1))
        assert wait_until(lambda: bool(sleeping(admin)))
        refused = rpc(project, "quick")
        assert (refused.status_code, refused.json()["code"]) == (504, "PGRST003")
        assert answer().json() == 1


def test_it_starts_without_a_database(cluster: Cluster, database: Database) -> None:
    if REAL_ONE:
        pytest.skip("PostgREST only becomes ready with a database")
    cluster.stop("immediate")
    with LocalSupabase(database) as project:
        assert rpc(project, "quick").json()["code"] == "PGRST002"
        cluster.start()
        assert wait_until(lambda: rpc(project, "quick").json()["code"] == "PGRST202", 3)


def test_a_statement_ends_when_the_server_stops(admin: psycopg.Connection[Any], supabase: LocalSupabase) -> None:
    slow_function(admin, supabase)

    def call() -> httpx.Response:
        try:
            return rpc(supabase, "slow", s=20)
        except httpx.TransportError:
            return httpx.Response(0)

    answer = in_background(call)
    assert wait_until(lambda: bool(sleeping(admin)))
    supabase.stop()
    assert not sleeping(admin)
    assert answer().status_code in (0, 500)
    port = supabase.port
    supabase.start()
    assert supabase.port == port
    assert rpc(supabase, "quick").json() == 1


# --- keys


@pytest.mark.parametrize("kind", ["service_key", "secret_key", "anon_key", "publishable_key"])
def test_keys_stand_for_roles(admin: psycopg.Connection[Any], supabase: LocalSupabase, kind: str) -> None:
    define(admin, "me() returns text language sql as 'select current_user::text'")
    assert wait_until(lambda: known(supabase, "me"))
    role = "service_role" if kind in ("service_key", "secret_key") else "anon"
    key = getattr(supabase, kind)
    assert rpc(supabase, "me", key).json() == role
    both = {"apikey": key, "Authorization": f"Bearer {key}"}
    assert httpx.post(f"{supabase.url}/rest/v1/rpc/me", headers=both, json={}).json() == role


def test_the_gateways_refusals(supabase: LocalSupabase) -> None:
    def refusal_of(key: str, **headers: str) -> Any:
        answer = httpx.get(f"{supabase.url}/rest/v1/", headers={"apikey": key, **headers})
        assert answer.status_code == 401
        assert "code" not in answer.json()
        return answer.json()["message"]

    foreign = supabase.make_key("service_role", secret="the secret of quite another project")
    assert refusal_of(foreign) == "Invalid API key"
    assert refusal_of("nonsense") == "Invalid API key"
    assert refusal_of("sb_secret_nonsense") == "Unregistered API key"
    browser = {"User-Agent": "Mozilla/5.0"}
    assert refusal_of(supabase.secret_key, **browser) == "Forbidden use of secret API key in browser"


def test_disabled_legacy_keys_are_refused_as_supabase_words_it(database: Database) -> None:
    with LocalSupabase(database, legacy_keys_disabled=True) as project:
        answer = httpx.get(f"{project.url}/rest/v1/", headers={"apikey": project.service_key})
        assert (answer.status_code, answer.json()["message"]) == (401, "Legacy API keys are disabled")
        assert "were disabled on 2026" in answer.json()["hint"]
        assert httpx.get(f"{project.url}/rest/v1/", headers={"apikey": project.secret_key}).status_code == 200


# --- the other ways to run SQL


def meta(project: LocalSupabase, query: str, key: str | None = None) -> httpx.Response:
    return httpx.post(f"{project.url}/pg/query", headers={"apikey": key or project.service_key}, json={"query": query})


def test_postgres_meta(admin: psycopg.Connection[Any], supabase: LocalSupabase) -> None:
    answer = meta(
        supabase,
        "create table public.t (a int); insert into public.t values (1); select a, current_user as u from public.t",
    )
    assert (answer.status_code, answer.json()) == (200, [{"a": 1, "u": "supabase_admin"}])
    assert meta(supabase, "select '{\"a\": 1}'::jsonb as j, array['x'] as r, 1.50 as n, null as z").json() == [
        {"j": {"a": 1}, "r": ["x"], "n": "1.50", "z": None}
    ]
    failed = meta(supabase, "insert into public.t values (2); select * from public.nope")
    assert failed.status_code == 400
    assert failed.json()["code"] == "42P01"
    assert failed.json()["formattedError"].startswith('ERROR:  42P01: relation "public.nope" does not exist\nLINE 1: ')
    # Several statements are one transaction.
    assert admin.execute("select count(*) from public.t").fetchone() == (1,)
    assert meta(supabase, "begin; insert into public.t values (2); commit").json() == []
    assert admin.execute("select count(*) from public.t").fetchone() == (2,)
    assert meta(supabase, "select 1", supabase.anon_key).status_code == 403
    assert meta(supabase, "select 1", supabase.secret_key).status_code == 200


def test_a_hosted_project_has_no_postgres_meta(database: Database) -> None:
    with LocalSupabase(database, meta=False) as project:
        assert meta(project, "select 1").status_code == 404


def test_the_management_api(database: Database) -> None:
    with LocalSupabase(database, management_limit=3) as project:
        url = f"{project.url}/v1/projects/{project.ref}/database/query"

        def run(query: str, token: str = project.access_token) -> httpx.Response:
            return httpx.post(url, headers={"Authorization": f"Bearer {token}"}, json={"query": query})

        assert run("select 1", "sbp_wrong").status_code == 401
        answer = run("select 1 as one")
        assert (answer.status_code, answer.json()) == (201, [{"one": 1}])
        failed = run("select * from nope")
        assert failed.status_code == 400
        assert failed.json()["message"].startswith(
            'Failed to run sql query: ERROR:  42P01: relation "nope" does not exist'
        )
        run("select 1")
        assert run("select 1").status_code == 429


# --- beginning and end


def test_in_a_process_of_its_own(admin: psycopg.Connection[Any], database: Database) -> None:
    with LocalSupabase(database, subprocess=True) as project:
        answer = httpx.get(f"{project.url}/rest/v1/", headers={"apikey": project.anon_key})
        assert answer.status_code == 200
    with pytest.raises(httpx.TransportError):
        httpx.get(project.url)


@stand_in_only
def test_the_program_in_postgrest_is_put_behind_the_gateway(
    database: Database, admin: psycopg.Connection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "postgrest"
    program.write_text(LOOKALIKE.format(python=sys.executable, tests=TESTS))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("POSTGREST", str(program))
    define(admin, "path() returns text language sql as $$ select current_setting('request.path') $$")
    with LocalSupabase(database) as project:
        assert rpc(project, "path", project.secret_key).json() == "/rpc/path"
        assert rpc(project, "nope").headers["proxy-status"] == "PostgREST; error=PGRST202"


# Takes PostgREST's settings and serves the stand-in with them.
LOOKALIKE = """#!{python}
import os, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
sys.path.insert(0, "{tests}")
import uvicorn
from local_supabase.rest import RestOptions, rest_app

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if server.started else 503)
        self.end_headers()
    def log_message(self, *arguments):
        pass

options = RestOptions(os.environ["PGRST_DB_URI"], os.environ["PGRST_JWT_SECRET"])
port = int(os.environ["PGRST_SERVER_PORT"])
server = uvicorn.Server(uvicorn.Config(rest_app(options), port=port, log_level="critical"))
admin = HTTPServer(("127.0.0.1", int(os.environ["PGRST_ADMIN_SERVER_PORT"])), Ready)
threading.Thread(target=admin.serve_forever, daemon=True).start()
server.run()
"""


def start_command(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "local_supabase", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_report(process: subprocess.Popen[str]) -> tuple[dict[str, str], str]:
    """The variables that the command printed, and the connection string of its database."""
    assert process.stdout is not None
    variables: dict[str, str] = {}
    for line in process.stdout:
        if line.startswith("# Its database"):
            return variables, line.split('"')[1]
        if not line.startswith("#"):
            name, _, value = line.strip().partition("=")
            variables[name] = value
    raise AssertionError(process.stderr.read() if process.stderr else "")


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_leaves_nothing_behind(ended_by: signal.Signals) -> None:
    process = start_command("--rows", "100")
    variables, dsn = read_report(process)
    assert list(variables) == ["SUPABASE_URL", "SUPABASE_SERVICE_KEY", "SUPABASE_ANON_KEY"]
    headers = {"apikey": variables["SUPABASE_SERVICE_KEY"]}
    rows = httpx.get(variables["SUPABASE_URL"] + "/rest/v1/user_clusters?select=id", headers=headers).json()
    assert len(rows) == 100
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select current_setting('unix_socket_directories'), current_setting('data_directory')"
        ).fetchone()
    directories = [Path(path) for path in row or ()]
    server = int((directories[0] / "pids").read_text())
    process.send_signal(ended_by)
    process.communicate(timeout=30)
    assert process.returncode == (0 if ended_by != signal.SIGKILL else -signal.SIGKILL)
    assert wait_until(lambda: not any(path.exists() for path in directories))
    assert not is_running(server)


def is_running(pid: int) -> bool:
    """Whether the process is there and more than an entry that nobody has waited for."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
