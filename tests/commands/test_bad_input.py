"""Bad input: each is told in words that name the next step, with the right exit code, and nothing is changed.

The scripts are run as a user runs them, against a real database and real HTTP.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from checkout import FUNCTION_FILE, MIGRATION_FILE, Checkout, Completed, Environment, said
from conftest import script_environment
from local_supabase import Cluster, LocalSupabase
from local_supabase.server import listen
from projects import is_migrated, one, project, table_as_it_is

OTHER_REF = "abcdefghijklmnopqrst"
HOSTED = "https://zyxwvutsrqponmlkjihg.supabase.co"
DEPLOY, MIGRATE = "deploy_sql_function.py", "migrate_clusters.py"

pytestmark = pytest.mark.slow
Keys = Callable[[LocalSupabase], dict[str, str]]


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[LocalSupabase]:
    """A Supabase with the old table, where execute_sql is deployed; none of these tests may change anything."""
    with project(cluster) as running:
        yield running


@pytest.fixture(scope="module")
def bare(cluster: Cluster) -> Iterator[LocalSupabase]:
    """The same of a hosted kind, where execute_sql is not deployed."""
    with project(cluster, deployed=False, meta=False) as running:
        yield running


@contextmanager
def nothing_changes(running: LocalSupabase) -> Iterator[None]:
    """Assert that the old table is the same afterwards, with all that belongs to it, and that no backup is made."""

    def state() -> Any:
        with running.database.connect() as connection:
            others = connection.execute(
                "select oid::regclass::text from pg_class where relnamespace = 'public'::regnamespace and relkind <> 'i' order by 1"
            ).fetchall()
        return others, table_as_it_is(running.database)

    before = state()
    yield
    assert state() == before


def no_key_shown(done: Completed, environment: Environment) -> None:
    """Assert that the output has the value of no key."""
    values = [value for name, value in environment.items() if name.endswith(("KEY", "TOKEN")) and value]
    assert values
    assert not [value for value in values if value.strip() in done.stdout + done.stderr]


def refused(done: Completed, *texts: str, code: int = 1) -> None:
    """Assert that it was refused in these words, on standard error, with a next step."""
    said(done, code=code)
    missing = [text for text in ("Error: ", "What to do: ", *texts) if text not in done.stderr]
    assert not missing, done.stdout + done.stderr


# --- settings: nothing is sent


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"SUPABASE_URL": "my project"}, ["SUPABASE_URL is not a URL", "YOUR-PROJECT.supabase.co"]),
        ({"SUPABASE_URL": "http://example.com"}, ["http:// to example.com", "unencrypted", "--allow-http"]),
        ({"SUPABASE_SERVICE_KEY": "{service_key} x"}, ["SUPABASE_SERVICE_KEY has white space", "Copy the key again"]),
        ({"SUPABASE_SERVICE_KEY": "{expired}"}, ["SUPABASE_SERVICE_KEY expired on 2001-09-09", "Copy the current one"]),
        ({"SUPABASE_SERVICE_KEY": "{anon_key}"}, ["SUPABASE_SERVICE_KEY holds an anon", "Copy the right one"]),
        ({"SUPABASE_SERVICE_KEY": "{publishable_key}"}, ["SUPABASE_SERVICE_KEY holds an anon", "Copy the right one"]),
        (
            {"SUPABASE_URL": HOSTED, "SUPABASE_SERVICE_KEY": "{foreign}"},
            [f"is for project {OTHER_REF}", HOSTED[8:28], "same project"],
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("script", [DEPLOY, MIGRATE])
def test_a_wrong_setting(
    checkout: Checkout, shared: LocalSupabase, script: str, changes: dict[str, str], texts: list[str]
) -> None:
    keys = {
        "expired": shared.make_key("service_role", exp=1_000_000_000),
        "foreign": shared.make_key("service_role", ref=OTHER_REF),
    } | {name: getattr(shared, name) for name in ("service_key", "anon_key", "publishable_key")}
    environment = shared.environment() | {name: value.format(**keys) for name, value in changes.items()}
    done = checkout.run(script, "--verbose", env=environment)
    refused(done, *texts, code=2)
    no_key_shown(done, environment)
    assert checkout.written() == set()


@pytest.mark.parametrize(("script", "file"), [(DEPLOY, FUNCTION_FILE), (MIGRATE, MIGRATION_FILE)])
@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        ({"SUPABASE_SERVICE_KEY": "sb_secret_x"}, "SUPABASE_URL is not set."),
        ({"SUPABASE_URL": HOSTED}, "SUPABASE_SERVICE_KEY (or SUPABASE_ANON_KEY) is not set."),
        (
            {"SUPABASE_ACCESS_TOKEN": "sbp_x"},
            "SUPABASE_URL and SUPABASE_SERVICE_KEY (or SUPABASE_ANON_KEY) are not set.",
        ),
        ({"CI": "true"}, "SUPABASE_URL and SUPABASE_SERVICE_KEY (or SUPABASE_ANON_KEY) are not set."),
    ],
    ids=["no URL", "no key", "only a token", "CI"],
)
def test_what_is_missing_where_credentials_are_meant_is_no_success(
    checkout: Checkout, script: str, file: str, environment: dict[str, str], missing: str
) -> None:
    """An empty secret in a pipeline must not leave it green with nothing migrated."""
    done = checkout.run(script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, capture_output=False)
    assert done.returncode == 2
    assert done.stdout.index(f"Error: {missing}") < done.stdout.index("What to do: ") < done.stdout.index("Written: ")
    assert checkout.written() == {file}
    report = json.loads(checkout.run(script, "--json", env=environment).stdout)
    assert (report["outcome"], report["exit_code"], report["files"]) == ("failed", 2, [file])


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ([DEPLOY], {}),
        ([MIGRATE], {}),
        (["remove_sql_function.py"], {}),
        (["rollback_clusters.py"], {"CI": "false"}),
        ([MIGRATE, "--write-sql"], {"CI": "true", "SUPABASE_URL": HOSTED}),
    ],
)
def test_a_file_by_hand_or_on_demand_is_the_outcome_written(
    checkout: Checkout, arguments: list[str], environment: dict[str, str]
) -> None:
    report = json.loads(checkout.run(*arguments, "--json", env=environment).stdout)
    assert (report["outcome"], report["exit_code"], len(report["files"])) == ("written", 0, 1)


@pytest.mark.parametrize(
    ("package", "text"),
    [
        ("raise ModuleNotFoundError('', name='supabase')", "The Python package supabase is not installed."),
        ("create_client = 1", "supabase cannot be used: cannot import name 'SyncClientOptions'"),
        ("import supabase_auth.http_clients", "The Python package supabase_auth.http_clients is not installed."),
        (
            "class SyncClientOptions: ...\ndef create_client(url, key, options): ...",
            "supabase cannot be used: SyncClient",
        ),
    ],
    ids=["none", "1.2", "2.22.0, withdrawn", "2.15"],
)
def test_a_release_of_supabase_that_cannot_be_used(
    checkout: Checkout, shared: LocalSupabase, tmp_path: Path, package: str, text: str
) -> None:
    """The environment is another project's, say. What those releases lack is told by name."""
    for name in ("supabase", "supabase/lib", "supabase/lib/client_options"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(package)
    done = checkout.run("migrate_clusters.py", env=shared.environment() | {"PYTHONPATH": str(tmp_path)})
    refused(done, text, "What to do: Run: python -m pip install --upgrade -r requirements.txt", code=2)


def test_an_environment_that_nobody_has_entered(checkout: Checkout) -> None:
    """As make uses it. On many systems there is no `python` outside of it, and no package may be installed there."""

    def run(*arguments: str, **environment: str) -> str:
        command = [str(checkout.root / ".venv/bin/python"), *arguments]
        done = subprocess.run(
            command, env=script_environment(environment), cwd=checkout.root, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    (checkout.root / ".venv").symlink_to(sys.prefix)
    write = ("scripts/migrate_clusters.py", "--write-sql")
    assert "(.venv/bin/python scripts/deploy_sql_function.py)" in run(*write, VIRTUAL_ENV="")
    assert "(python scripts/deploy_sql_function.py)" in run(*write, VIRTUAL_ENV=str(checkout.root / ".venv"))
    missing = run("-S", "scripts/doctor.py", "a b")
    assert "package is missing (rich, dotenv). Run: .venv/bin/python scripts/doctor.py 'a b'\n" in missing


def test_what_is_told_holds_in_the_folder_where_it_is_read(tmp_path: Path) -> None:
    """Commands are pasted where they are read, which may be another folder than the project's."""
    checkout = Checkout(tmp_path / "the project")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = script_environment({"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    done = checkout.run(MIGRATE, "--write-sql", cwd=elsewhere)
    said(done, f"Written: {checkout.root / MIGRATION_FILE}\n")
    for folder in (elsewhere, checkout.root):
        command = re.findall(
            r"\((.*deploy_sql_function.py.*)\)", checkout.run(MIGRATE, "--write-sql", cwd=folder).stdout
        )[0]
        done = subprocess.run(
            ["sh", "-c", command], env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        said(done, "Written: ", FUNCTION_FILE)


def test_a_python_without_packages_is_told_a_way_that_leads_on(checkout: Checkout, tmp_path: Path) -> None:
    """Outside of any environment there may be no `python`, and a system's refuses to install packages."""
    (tmp_path / "empty").mkdir()

    def told(python: str) -> str:
        command = [python, "-S", str(checkout.root / "scripts/doctor.py")]
        return subprocess.run(command, cwd=tmp_path / "empty", capture_output=True, text=True, check=False).stderr

    outside = "Make an environment, in the project's folder:\npython3 -m venv --clear .venv && .venv/bin/python -m pip install"
    assert outside in told(str(Path(sys.base_prefix) / "bin" / "python3"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = str(tmp_path / "env/bin/python")
    done = subprocess.run(
        [python, checkout.root / "scripts/doctor.py"],
        cwd=tmp_path / "empty",
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"Run: {python} -m pip install -r ../project/requirements.txt" in done.stderr


def test_another_folder_s_env_file_is_not_read_and_that_is_said(checkout: Checkout, tmp_path: Path) -> None:
    """An application's, where the project is a folder within it."""
    (tmp_path / ".env").write_text(
        "SUPABASE_URL=https://zyxwvutsrqponmlkjihg.supabase.co\nSUPABASE_SERVICE_KEY=sb_secret_x\n"
    )
    read = f"(not read here: .env; read: {checkout.root.relative_to(tmp_path)}/.env)"
    said(checkout.run(MIGRATE, cwd=tmp_path), f"are not set {read}.", "Written: project/db/")
    said(checkout.run("doctor.py", cwd=tmp_path), "in the environment or in project/.env (see .env.example)", code=2)


def test_a_project_ref_in_place_of_the_url_is_answered_with_the_url(checkout: Checkout) -> None:
    done = checkout.run(MIGRATE, env={"SUPABASE_URL": HOSTED[8:28], "SUPABASE_SERVICE_KEY": "sb_secret_x"})
    refused(done, "SUPABASE_URL is not a URL", f"Set SUPABASE_URL={HOSTED[:40]}", code=2)


def test_white_space_around_settings_does_no_harm(checkout: Checkout, shared: LocalSupabase) -> None:
    environment = {name: f" {value}\n" for name, value in shared.environment().items()}
    said(checkout.run(MIGRATE, "--dry-run", env=environment), "Plan of migrate_user_clusters")


@pytest.mark.parametrize("arguments", [["verify_clusters.py"], ["doctor.py"], [MIGRATE, "--status"]], ids=" ".join)
def test_what_cannot_go_without_credentials_says_so(checkout: Checkout, arguments: list[str]) -> None:
    refused(checkout.run(*arguments), "SUPABASE_URL and SUPABASE_SERVICE_KEY", ".env", code=2)


# --- the network


class Page(BaseHTTPRequestHandler):
    """Answers everything with one status and one body."""

    status = 200
    kind = "text/html"
    body = b"<!doctype html><title>Welcome</title>"

    def do_POST(self) -> None:
        """Answer."""
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        if 300 <= self.status < 400:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def web_server(**attributes: Any) -> Iterator[str]:
    """A web server that is not Supabase; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("ThisPage", (Page,), attributes))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("script", "file"), [(DEPLOY, FUNCTION_FILE), (MIGRATE, MIGRATION_FILE)])
def test_nobody_listens(checkout: Checkout, shared: LocalSupabase, script: str, file: str) -> None:
    with listen() as bound:  # bound, and not listening: nobody else gets the port
        environment = shared.environment() | {"SUPABASE_URL": f"http://127.0.0.1:{bound.getsockname()[1]}"}
        done = checkout.run(script, env=environment | {"MIGRATION_PATIENCE": "1"})
    refused(done, "attempt", "Check SUPABASE_URL")
    said(done, f"Written: {file}", code=1)
    no_key_shown(done, environment)


@pytest.mark.parametrize(
    "page",
    [
        {},
        {"status": 404},
        {"status": 404, "kind": "application/json", "body": b'{"detail":"Not Found"}'},
        {"status": 301},
        {"status": 405, "kind": "text/plain", "body": b""},
    ],
    ids=["200 HTML", "404 HTML", "404 JSON", "301", "405"],
)
def test_an_address_that_is_not_supabase(checkout: Checkout, shared: LocalSupabase, page: dict[str, Any]) -> None:
    with web_server(**page) as url:
        environment = shared.environment() | {"SUPABASE_URL": url}
        done = checkout.run(MIGRATE, "--patience", "2", env=environment)
    refused(
        done, "The address in SUPABASE_URL answers", "not as Supabase does", "Set SUPABASE_URL to the project's URL"
    )
    said(done, f"Written: {MIGRATION_FILE}", code=1)
    no_key_shown(done, environment)


# --- keys that the other side refuses


@pytest.mark.parametrize(
    ("keys", "texts"),
    [
        (lambda s: {"SUPABASE_SERVICE_KEY": s.make_key("service_role", secret="x" * 40)}, ["Invalid API key", "Copy the key again"]),
        (
            lambda s: {"SUPABASE_SERVICE_KEY": s.make_key("service_role", secret="x" * 40, ref=OTHER_REF)},
            ["Invalid API key", "Copy the key again"],
        ),
        (lambda _: {"SUPABASE_SECRET_KEY": "sb_secret_nobody_knows_this"}, ["Unregistered API key", "belongs to another project"]),
        (lambda _: {"SUPABASE_SERVICE_KEY": "mistyped"}, ["Invalid API key", "Copy the key again"]),
        (lambda s: {"SUPABASE_ANON_KEY": s.anon_key}, ["may not execute execute_sql", "SUPABASE_SERVICE_KEY"]),
        (lambda s: {"SUPABASE_PUBLISHABLE_KEY": s.publishable_key}, ["may not execute execute_sql", "SUPABASE_SERVICE_KEY"]),
    ],
    ids=["wrong signature", "another project", "unregistered", "mistyped", "anon key", "publishable key"],
)  # fmt: skip
def test_a_key_that_is_refused(checkout: Checkout, shared: LocalSupabase, keys: Keys, texts: list[str]) -> None:
    environment = {"SUPABASE_URL": shared.url, **keys(shared)}
    with nothing_changes(shared):
        done = checkout.run(MIGRATE, "--verbose", env=environment)
    refused(done, *texts)
    said(done, f"Written: {MIGRATION_FILE}", "SQL Editor", code=1)
    no_key_shown(done, environment)


def test_a_disabled_legacy_key(checkout: Checkout, cluster: Cluster) -> None:
    with project(cluster, legacy_keys_disabled=True) as running, nothing_changes(running):
        done = checkout.run(DEPLOY, env=running.environment())
        refused(done, "Legacy API keys are disabled", "2026-10-01", "sb_secret_")
        said(done, f"Written: {FUNCTION_FILE}", code=1)
        no_key_shown(done, running.environment())
        environment = {"SUPABASE_URL": running.url, "SUPABASE_SECRET_KEY": running.secret_key}
        said(checkout.run(DEPLOY, env=environment), "up to date", "service key (secret key", code=0)


# --- execute_sql is not there, or not ours


@pytest.mark.parametrize(
    ("arguments", "file"),
    [([MIGRATE], MIGRATION_FILE), (["rollback_clusters.py"], "db/rollback_migrate_user_clusters_output.sql")],
    ids=["migrate", "roll back"],
)
def test_it_is_not_deployed(checkout: Checkout, bare: LocalSupabase, arguments: list[str], file: str) -> None:
    with nothing_changes(bare):
        done = checkout.run(*arguments, env=bare.environment())
    refused(done, "The function execute_sql is not deployed", "python scripts/deploy_sql_function.py")
    said(done, f"Written: {file}", code=1)


@pytest.mark.parametrize("arguments", [["verify_clusters.py"], [MIGRATE, "--status"]], ids=" ".join)
def test_what_only_reads_says_that_it_is_not_deployed(
    checkout: Checkout, bare: LocalSupabase, arguments: list[str]
) -> None:
    done = checkout.run(*arguments, env=bare.environment())
    refused(done, "The function execute_sql is not deployed", "python scripts/deploy_sql_function.py")
    assert checkout.written() == set()


def test_the_schema_is_closed_to_the_api(checkout: Checkout, cluster: Cluster) -> None:
    """By a file that has made a clean sweep, say: the owner of execute_sql may do all that it needs to."""
    with project(cluster) as running:
        with running.database.connect("supabase_admin") as connection:
            connection.execute("revoke all on schema public from public, anon, authenticated, service_role")
        with nothing_changes(running):
            done = checkout.run(MIGRATE, env=running.environment())
    refused(done, "service_role may not use the schema public", "grant usage on schema public to service_role;")


def test_nobody_lets_us_deploy(checkout: Checkout, bare: LocalSupabase) -> None:
    with nothing_changes(bare):
        done = checkout.run(DEPLOY, env=bare.environment())
    refused(done, "no way in over HTTPS is open", "SUPABASE_ACCESS_TOKEN")
    said(
        done, "postgres-meta (/pg/query): not open here", "the Management API: not open", "press Run",
        f"https://supabase.com/dashboard/project/{bare.ref}/sql/new", code=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    "function",
    [
        "(sql text) returns void language plpgsql as 'begin execute sql; end'",
        "(query text) returns void language plpgsql as 'begin execute query; end'",
        "(query text) returns text language plpgsql as 'begin execute query; return ''ok''; end'",
        "(query text) returns jsonb language plpgsql as 'begin execute query; return ''{\"success\": true}''; end'",
        "(query text) returns setof text language sql as 'select query'",
        "(query text) returns jsonb language plpgsql as 'declare r jsonb; begin "
        "execute ''select json_agg(t) from ('' || query || '') as t'' into r; return r; end'",
        "(query text, params jsonb default null) returns integer language sql as 'select 1'",
        "(query text) returns json language plpgsql as 'begin raise ''Only SELECT queries are allowed''; end'",
        "(query text) returns setof json language plpgsql as 'begin return query execute query; end'",
        "(query text) returns json language plpgsql as "
        "'declare r json; begin execute ''with t as ('' || query || '';) table t'' into r; return r; end'",
    ],
    ids=[
        "sql text",
        "void",
        "text",
        "object",
        "setof text",
        "rows",
        "integer",
        "allows no such query",
        "other rows",
        "within another",
    ],
)
def test_somebody_elses_function_is_left_alone(checkout: Checkout, cluster: Cluster, function: str) -> None:
    with project(cluster, deployed=False) as running:
        with running.database.connect() as connection:
            connection.execute(f"create function public.execute_sql{function}".encode())
        with nothing_changes(running):
            done = checkout.run(MIGRATE, env=running.environment())
            # One that takes no "query" is invisible to us until we deploy.
            refused(done, "that this project did not make" if "(query" in function else "is not deployed", DEPLOY)
            done = checkout.run(DEPLOY, env=running.environment())
            refused(done, "did not make", "drop routine" if "(sql" in function else "drop function")
        with running.database.connect() as connection:
            assert one(connection, "select count(*) from pg_proc where proname = 'execute_sql'") == 1
            assert one(connection, "select to_regnamespace('rpc_migrations')") is None


def test_somebody_elses_function_beside_ours(checkout: Checkout, cluster: Cluster) -> None:
    with project(cluster) as running:
        with running.database.connect() as connection:
            connection.execute("create function public.execute_sql(query text) returns void language sql as ''")
        with nothing_changes(running):
            refused(
                checkout.run(MIGRATE, env=running.environment()),
                "that this project did not make",
                "deploy_sql_function.py",
            )
            refused(checkout.run(DEPLOY, env=running.environment()), "execute_sql(text)", "drop routine")


@pytest.mark.parametrize("parameters", ["sql_query text", "query text, params jsonb"])
def test_somebody_elses_function_that_the_api_hints_at(checkout: Checkout, cluster: Cluster, parameters: str) -> None:
    """On a hosted project, the SQL Editor would refuse the file as well: nobody is to paste it in vain."""
    with project(cluster, deployed=False, meta=False) as running:
        with running.database.connect() as connection:
            connection.execute(
                f"create function public.execute_sql({parameters}) returns void begin atomic; end".encode()
            )
        with nothing_changes(running):
            for command in (DEPLOY, MIGRATE, "remove_sql_function.py"):
                done = checkout.run(command, env=running.environment())
                refused(done, "that this project did not make", "drop function")
                assert "not there" not in done.stdout + done.stderr


def test_a_function_with_a_name_like_it(checkout: Checkout, cluster: Cluster) -> None:
    with project(cluster, deployed=False, meta=False) as running:
        with running.database.connect() as connection:
            connection.execute("create function public.execute_sql_v2(query text) returns void begin atomic; end")
        with nothing_changes(running):
            refused(checkout.run(MIGRATE, env=running.environment()), "The function execute_sql is not deployed")
            said(checkout.run(DEPLOY, env=running.environment()), "press Run", code=1)


def test_half_of_the_function_is_made_whole(checkout: Checkout, cluster: Cluster) -> None:
    with project(cluster) as running:
        with running.database.connect() as connection:
            connection.execute("drop schema rpc_migrations cascade")
        refused(checkout.run(MIGRATE, env=running.environment()), "not all that it needs", "deploy_sql_function.py")
        said(checkout.run(DEPLOY, env=running.environment()), "Deployed through postgres-meta")
        said(checkout.run(MIGRATE, env=running.environment()), "is applied")


# --- tables that cannot be migrated

ANY_USER = "(select id from auth.users limit 1)"
NO_FOREIGN_KEY = "alter table public.user_clusters drop constraint user_clusters_user_id_fkey;"
NO_POLICIES = "".join(
    f'drop policy "Users can {verb} their own clusters" on public.user_clusters;'
    for verb in ("view", "insert", "update")
)
TABLES = {
    "a backup is there": (
        "create table public.user_clusters_backup (only_copy text)",
        ["public.user_clusters_backup is already there", "Rename it"],
    ),
    "the guide was left after its third step": (
        "create table public.user_clusters_backup as select * from public.user_clusters; delete from public.user_clusters; "
        "alter table public.user_clusters add learning_style_factor jsonb, add technical_depth_factor jsonb, "
        "add quiz_performance_factor jsonb, add feedback_pattern_factor jsonb",
        ["public.user_clusters_backup was made by hand", "all rows of the backup"],
    ),
    "no primary key": (
        "alter table public.user_clusters drop constraint user_clusters_pkey, add doc json",
        ["public.user_clusters cannot be rebuilt", "primary key", "cannot be compared", "doc"],
    ),
    "user_id is text": (
        f"{NO_POLICIES} {NO_FOREIGN_KEY} alter table public.user_clusters alter user_id type text",
        ["column user_id is text and cannot become uuid"],
    ),
    "score is jsonb": (
        "alter table public.user_clusters alter cluster_score drop default, alter cluster_score type jsonb using '1'",
        ["column cluster_score is jsonb and cannot become double precision"],
    ),
    "no user_id": (
        f"{NO_POLICIES} alter table public.user_clusters drop column user_id",
        ["column user_id", "not null"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_cannot_be_rebuilt(checkout: Checkout, cluster: Cluster, case: str) -> None:
    sql, texts = TABLES[case]
    with project(cluster) as running:
        with running.database.connect() as connection:
            connection.execute(sql.encode())
        with nothing_changes(running):
            refused(checkout.run(MIGRATE, env=running.environment()), *texts, "run the same command again")


ROWS = {
    "no user": (
        f"{NO_FOREIGN_KEY} alter table public.user_clusters alter user_id drop not null;"
        "insert into public.user_clusters (user_id, cluster_type)"
        " values (gen_random_uuid(), 'x'), (gen_random_uuid(), 'x'), (null, 'x')",
        {"is not in auth.users": 2},
        "delete from public.user_clusters where cluster_type = 'x'",
    ),
    "NULL": (
        "alter table public.user_clusters alter user_id drop not null, alter cluster_type drop not null;"
        f"insert into public.user_clusters (user_id, cluster_type) values (null, 'x'), ({ANY_USER}, null), ({ANY_USER}, null)",
        {"user_id may not be null": 1, "cluster_type may not be null": 2},
        "delete from public.user_clusters where user_id is null or cluster_type is null",
    ),
    "too long": (
        "alter table public.user_clusters alter cluster_type type text;"
        f"insert into public.user_clusters (user_id, cluster_type) values ({ANY_USER}, repeat('ü', 51)),"
        f"({ANY_USER}, repeat('y', 50)), ({ANY_USER}, repeat('z', 99))",
        {"cluster_type": 2},
        "update public.user_clusters set cluster_type = left(cluster_type, 50) where length(cluster_type) > 50",
    ),
}
QUERY = re.compile(r"(select \* from public\.user_clusters\b.*?)(?=; | \[RM001\]|\. |$)")


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_the_new_table_cannot_hold(checkout: Checkout, cluster: Cluster, case: str) -> None:
    sql, counts, mend = ROWS[case]
    with project(cluster) as running:
        with running.database.connect() as connection:
            connection.execute(sql.encode())
        with nothing_changes(running):
            done = checkout.run(MIGRATE, env=running.environment())
            refused(done, *counts, "Nothing was changed", "run the same command again")
            queries = [match[1] for line in done.stderr.splitlines() for match in QUERY.finditer(line)]
            with running.database.connect() as connection:
                found = [len(connection.execute(query.encode()).fetchall()) for query in queries]
        assert sorted(found) == sorted(counts.values()), done.stderr
        assert all(re.search(rf"\b{count} rows?\b|auth\.users: {count}\b", done.stderr) for count in counts.values())
        # What the message says works: mend the rows, and run the same command again.
        with running.database.connect() as connection:
            connection.execute(mend.encode())
            said(checkout.run(MIGRATE, env=running.environment()), "is applied")
            assert is_migrated(connection)


# --- step files


def test_a_step_file_edited_after_its_steps_ran(checkout: Checkout, shared: LocalSupabase) -> None:
    first = "-- step: make it\ncreate schema edited_file;\n"
    second = "-- step: use it\ncreate table edited_file.t (a int);\nselect 1 / 0;\n"
    file = checkout.step_file("edited.sql", first + second)
    refused(
        checkout.run("run_migration.py", file, env=shared.environment()), 'Step "use it"', "division by zero", "22012"
    )
    # The step that failed may be mended; the one that was done may not be changed.
    checkout.step_file("edited.sql", first.replace("edited_file", "other_file") + second)
    done = checkout.run("run_migration.py", file, env=shared.environment())
    refused(done, 'edited since: "make it" (edited.sql:1)', "Put the old text back", "Nothing was run")
    checkout.step_file("edited.sql", first + second.replace("1 / 0", "1"))
    said(checkout.run("run_migration.py", file, env=shared.environment()), "is applied")
    with shared.database.connect() as connection:
        assert one(connection, "select to_regnamespace('other_file')") is None
        assert one(connection, "select to_regclass('edited_file.t')") is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "There is no file db/mine.sql"),
        ("-- step: a\n\n-- step: b\n", 'step "a" is empty'),
    ],
    ids=["no file", "empty step"],
)
def test_what_is_no_step_file(checkout: Checkout, shared: LocalSupabase, text: str | None, message: str) -> None:
    if text is not None:
        checkout.step_file("mine.sql", text)
    refused(checkout.run("run_migration.py", "db/mine.sql", env=shared.environment()), message, code=2)


def test_a_rollback_of_what_has_no_backup(checkout: Checkout, shared: LocalSupabase) -> None:
    file = checkout.step_file("plain.sql", "-- step: one\nselect 1;\n")
    done = checkout.run("run_migration.py", file, "--rollback", env=shared.environment())
    refused(done, "makes no online copy of a table", "undoes")


# --- files and arguments


@pytest.mark.parametrize(("script", "file"), [(DEPLOY, FUNCTION_FILE), (MIGRATE, MIGRATION_FILE)])
def test_a_file_that_cannot_be_written(checkout: Checkout, script: str, file: str) -> None:
    (checkout.root / file).mkdir()  # root may write anything, but not in a directory's place
    done = checkout.run(script)
    refused(done, f"{Path(file).name} cannot be written: Is a directory", "run the same command again")
    assert not list((checkout.root / "db").glob(".*")), "half a file is left"


def test_a_file_that_cannot_be_written_does_not_hide_why_it_was_wanted(checkout: Checkout, bare: LocalSupabase) -> None:
    (checkout.root / MIGRATION_FILE).mkdir()
    done = checkout.run(MIGRATE, env=bare.environment())
    refused(done, "The function execute_sql is not deployed", "cannot be written")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([MIGRATE, "--nonsense"], "unrecognized arguments: --nonsense"),
        ([MIGRATE, "--online"], "--online needs --write-sql"),
        ([MIGRATE, "--dry-run", "--status"], "not allowed with argument"),
        ([MIGRATE, "--quiet", "--verbose"], "not allowed with argument"),
        ([MIGRATE, "--patience", "0"], "--patience takes a positive number"),
        ([MIGRATE, "--patience", "nan"], "--patience takes a positive number"),
        ([DEPLOY, "--via", "telnet"], "invalid choice"),
        (["run_migration.py"], "required: PATH"),
        (
            ["run_migration.py", "db/migrate_user_clusters.sql", "--fi"],
            "unrecognized arguments: --fi",
        ),  # it might be --finish
        (["run_migration.py", ""], "the path is empty"),  # a variable that is not set; not the folder where one is
        (["run_migration.py", "db/rollback.sql", "--discard-changes"], "--discard-changes needs --rollback"),
        (
            ["run_migration.py", "db/rollback.sql", "--record", "--rollback"],
            "--record and --accept-edits cannot be combined with --rollback",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_told(checkout: Checkout, arguments: list[str], message: str) -> None:
    done = checkout.run(*arguments)
    said(done, message, "usage: ", code=2)
    assert done.stdout == ""


# As where a locale is not UTF-8, such as ISO-8859-1: each reads the bytes of a name as other letters.
NOT_UTF_8 = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("name", "locale", "texts"),
    [
        ("20260101000000_caf\udce9.sql", {}, ["is not UTF-8", "Rename the file."]),
        ("20260101000000_café.sql", NOT_UTF_8, ["read differently elsewhere", "PYTHONUTF8=1"]),
    ],
    ids=["bytes", "locale"],
)
def test_a_file_name_that_is_another_one_elsewhere(
    checkout: Checkout, shared: LocalSupabase, name: str, locale: dict[str, str], texts: list[str]
) -> None:
    """By it the journal knows what is applied: under another name it would be applied again. (Red before: a traceback, or that.)"""
    (checkout.root / "mine").mkdir()
    (checkout.root / "mine" / name).write_text("select 1;\n")
    for options in ((), ("--dry-run",), ("--status",)):
        done = checkout.run("run_migration.py", "mine", *options, env=shared.environment() | locale)
        said(done, *texts, code=2)


@pytest.mark.parametrize("script", [("new_migration.py",), (MIGRATE, "--until"), ("run_migration.py",)], ids=str)
@pytest.mark.parametrize(("text", "locale"), [("caf\udce9", {}), ("café", NOT_UTF_8)], ids=["bytes", "locale"])
def test_an_argument_that_is_no_text(
    checkout: Checkout, script: tuple[str, ...], text: str, locale: dict[str, str]
) -> None:
    done = checkout.run(*script, text, env=locale)
    said(done, "usage: ", "is not text in the encoding", "PYTHONUTF8=1" if locale else "utf-8", code=2)


def test_a_user_whose_name_is_no_text(checkout: Checkout, shared: LocalSupabase) -> None:
    file = checkout.step_file("user_name.sql", "-- step: one\nselect 1;\n")
    said(checkout.run("run_migration.py", file, env=shared.environment() | {"LOGNAME": "caf\udce9"}), "is applied")


def test_a_refusal_is_not_tried_again(checkout: Checkout, shared: LocalSupabase) -> None:
    done = checkout.run(MIGRATE, env={"SUPABASE_URL": shared.url, "SUPABASE_SECRET_KEY": "sb_secret_unknown"})
    said(done, "The key was refused", code=1)
    assert "trying again" not in done.stderr
