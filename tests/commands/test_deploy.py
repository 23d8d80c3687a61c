"""deploy_sql_function.py: each way in, their order, versions, the REST layer that learns late, and other open doors."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest
from checkout import FUNCTION_FILE, Checkout, said
from faults.proxy import Exchange, Fault, FaultProxy, Request
from local_supabase import Cluster, Database, LocalSupabase
from projects import GIVES_AWAY, deploy, one, project
from rpc_migrations import deployment, ways_in
from rpc_migrations.client import RpcClient
from rpc_migrations.console import Console
from rpc_migrations.deployment import current_version, opening_sql
from rpc_migrations.errors import NotDeployed
from rpc_migrations.keys import read_key
from rpc_migrations.settings import Settings

DEPLOY = "deploy_sql_function.py"
RPC, META, MANAGEMENT = "execute_sql itself", "postgres-meta (/pg/query)", "the Management API"
EVERY_ARGUMENT = {
    "query": "select 1 as one", "migration": None, "step": None, "checksum": None, "batch": False, "run": None, "shrink": 0,
}  # fmt: skip


def call(running: LocalSupabase, key: str, function: str = "execute_sql", **arguments: Any) -> httpx.Response:
    """Call a function through the API."""
    return httpx.post(f"{running.url}/rest/v1/rpc/{function}", headers={"apikey": key}, json=arguments, timeout=30)


def management(running: LocalSupabase, **changes: str) -> dict[str, str]:
    """The environment of somebody who has a personal access token; its address is the local one."""
    token = {"SUPABASE_ACCESS_TOKEN": running.access_token, "MIGRATION_MANAGEMENT_URL": running.url}
    return running.environment() | token | changes


def version(running: LocalSupabase) -> str | None:
    """The comment of execute_sql."""
    with running.database.connect() as connection:
        value = one(connection, "select obj_description(oid, 'pg_proc') from pg_proc where proname = 'execute_sql'")
        return None if value is None else str(value)


def owner(running: LocalSupabase) -> str:
    """Whose execute_sql is."""
    with running.database.connect() as connection:
        return str(one(connection, "select proowner::regrole from pg_proc where proname = 'execute_sql'"))


def make_older(connection: psycopg.Connection[Any], *, other_arguments: bool) -> None:
    """Put an older version of this project there, with a journal that has an entry."""
    deploy(connection)
    if other_arguments:
        connection.execute("drop function public.execute_sql")
        connection.execute(
            "create function public.execute_sql(query text, step text default null) returns jsonb language plpgsql security definer "
            "as 'begin return rpc_migrations.run_sql(query); end'"
        )
        connection.execute("revoke all on function public.execute_sql from public, anon, authenticated")
        connection.execute("grant execute on function public.execute_sql to service_role")
    connection.execute("comment on function public.execute_sql is 'rpc_migrations 0000000000000000'")
    connection.execute(
        "insert into rpc_migrations.runs (id, migration, action, client) values (gen_random_uuid(), 'old', 'migrate', 'me@here')"
    )


# --- the ways in


def test_it_is_deployed_through_postgres_meta_and_then_there_is_nothing_to_do(
    checkout: Checkout, cluster: Cluster
) -> None:
    with project(cluster, rows=None, deployed=False) as running:
        done = checkout.run(DEPLOY, env=management(running))
        said(done, f"{RPC}: not open", f"Deployed through {META}", "The REST layer knows the function")
        assert MANAGEMENT not in done.stdout, "the safest way comes first"
        assert version(running) == current_version()
        assert owner(running) == "postgres", "postgres-meta is supabase_admin"
        assert call(running, running.service_key, query="select 1 as one").json() == [{"one": 1}]
        assert call(running, running.anon_key, query="select 1").json()["code"] == "42501"
        assert call(running, running.authenticated_key("u"), query="select 1").json()["code"] == "42501"

        with running.database.connect() as connection:
            before = one(connection, "select xmin from pg_proc where proname = 'execute_sql'")
            done = checkout.run(DEPLOY, env=management(running))
            said(done, "Nothing to do. execute_sql is deployed and up to date.")
            assert done.stderr == ""
            assert one(connection, "select xmin from pg_proc where proname = 'execute_sql'") == before
        assert checkout.written() == set()


@pytest.mark.parametrize("by_hand", [False, True], ids=["by postgres-meta", "by the written file"])
def test_what_a_superuser_has_deployed_is_given_to_postgres(
    checkout: Checkout, cluster: Cluster, by_hand: bool
) -> None:
    """As earlier versions were by way of postgres-meta: whoever called it had all rights. The journal is kept, so no file runs again."""
    file = checkout.step_file(
        "seed.sql", "create table if not exists public.seeds (n int);\ninsert into public.seeds values (1);\n"
    )
    with project(cluster, rows=None, meta=not by_hand) as running:
        said(checkout.run("run_migration.py", file, env=running.environment()), "is applied")
        make_of_a_superuser(running.database)
        done = checkout.run(DEPLOY, env=running.environment())
        said(done, f"{RPC}: not open (it belongs to supabase_admin, a superuser", code=int(by_hand))
        if by_hand:
            assert "Paste the written file" in done.stderr
            with running.database.connect("supabase_admin") as editor:
                editor.execute(checkout.read(FUNCTION_FILE).encode())
        assert owner(running) == "postgres"
        said(checkout.run("run_migration.py", file, env=running.environment()), "is applied already")
        with running.database.connect() as connection:
            assert one(connection, "select count(*) from public.seeds") == 1
            assert {
                row[2] for row in connection.execute(OF_OURS.replace("o.owner", "o.owner::regrole::text", 1).encode())
            } == {"postgres"}


OF_OURS = """
select i.type, i.identity, o.owner
from (
    select 'pg_namespace'::regclass, n.oid, n.nspowner from pg_namespace as n where n.nspname = 'rpc_migrations'
    union all
    select 'pg_class'::regclass, c.oid, c.relowner from pg_class as c where c.relnamespace = 'rpc_migrations'::regnamespace and c.relkind = 'r'
    union all
    select 'pg_type'::regclass, t.oid, t.typowner from pg_type as t inner join pg_class as c on c.oid = t.typrelid and c.relkind = 'c'
    where t.typnamespace = 'rpc_migrations'::regnamespace
    union all
    select 'pg_proc'::regclass, p.oid, p.proowner from pg_proc as p
    where p.pronamespace = 'rpc_migrations'::regnamespace or p.proname = 'execute_sql'
) as o (class, object, owner)
cross join lateral pg_identify_object(o.class, o.object, 0) as i
"""


def make_of_a_superuser(database: Database) -> None:
    """Give all of ours to supabase_admin, in an older version."""
    with database.connect("supabase_admin") as superuser:
        for kind, name, _ in superuser.execute(OF_OURS.encode()).fetchall():
            superuser.execute(f"alter {kind} {name} owner to supabase_admin".encode())
        superuser.execute("comment on function public.execute_sql is 'rpc_migrations 0000000000000000'")


@pytest.mark.parametrize(
    ("arguments", "meta"), [([], False), (["--via", "management"], True)], ids=["the only one open", "asked for"]
)
def test_it_is_deployed_through_the_management_api(
    checkout: Checkout, cluster: Cluster, arguments: list[str], meta: bool
) -> None:
    with project(cluster, rows=None, deployed=False, meta=meta) as running:
        done = checkout.run(DEPLOY, *arguments, env=management(running))
        said(done, f"Deployed through {MANAGEMENT}")
        assert (f"{META}: not open here (HTTP 404" in done.stdout) == (not meta)
        assert version(running) == current_version()
        assert running.access_token not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({"SUPABASE_ACCESS_TOKEN": ""}, {}, "it needs SUPABASE_ACCESS_TOKEN"),
        ({"SUPABASE_ACCESS_TOKEN": "sbp_wrong"}, {}, "refused (HTTP 401, Unauthorized)"),
        ({}, {"management_limit": 0}, "not open here (HTTP 429, ThrottlerException: Too Many Requests)"),
        ({"SUPABASE_SERVICE_KEY": "{secret_key}"}, {}, "a project's name in SUPABASE_URL or in the key"),
        ({"MIGRATION_MANAGEMENT_URL": "http://127.0.0.1:9"}, {}, "not reachable"),
    ],
    ids=["no token", "wrong token", "too many requests", "no project", "nobody there"],
)
def test_a_closed_way_says_why(
    checkout: Checkout, cluster: Cluster, changes: dict[str, str], options: dict[str, Any], reason: str
) -> None:
    with project(cluster, rows=None, deployed=False, **options) as running:
        changes = {name: value.format(secret_key=running.secret_key) for name, value in changes.items()}
        done = checkout.run(DEPLOY, "--via", "management", env=management(running, **changes))
        said(
            done,
            MANAGEMENT,
            reason,
            "no way in over HTTPS is open",
            "What to do: ",
            f"Written: {FUNCTION_FILE}",
            code=1,
        )
        assert META not in done.stdout, "--via names the only way"
        assert version(running) is None


@pytest.mark.parametrize("is_done", [True, False], ids=["answer lost", "504"])
@pytest.mark.parametrize("way", [META, MANAGEMENT])
def test_a_way_whose_answer_is_lost_is_not_closed(
    checkout: Checkout, cluster: Cluster, way: str, is_done: bool
) -> None:
    """It was said that no way in was open, when the function was there already."""
    faults: list[Fault] = [lost if is_done else lambda exchange: exchange.page(504)]
    path = "/pg/query" if way == META else "/database/query"

    def choose(request: Request) -> Fault | None:
        return faults.pop() if faults and request.path.endswith(path) else None

    with (
        project(cluster, rows=None, deployed=False, meta=way == META) as running,
        FaultProxy(running.url, choose) as proxy,
    ):
        address = {"SUPABASE_URL": proxy.url, "MIGRATION_MANAGEMENT_URL": proxy.url}
        done = checkout.run(DEPLOY, env=management(running, **address))
        said(done, "attempt 1 failed", f"Deployed through {way}")
        assert version(running) == current_version()


def lost(exchange: Exchange) -> None:
    """All is done, and nobody is told."""
    exchange.forward()
    exchange.close()


def test_via_rpc_needs_an_older_version(checkout: Checkout, cluster: Cluster) -> None:
    with project(cluster, rows=None, deployed=False) as running:
        done = checkout.run(DEPLOY, "--via", "rpc", env=running.environment())
        said(done, f"{RPC}: not open (it is not there yet)", "could not be deployed", code=1)
        assert version(running) is None


def test_the_anon_key_opens_no_way(checkout: Checkout, cluster: Cluster) -> None:
    with project(cluster, rows=None, deployed=False) as running:
        done = checkout.run(DEPLOY, env={"SUPABASE_URL": running.url, "SUPABASE_ANON_KEY": running.anon_key})
        said(done, "with the anon key", f"{META}: refused (HTTP 403", "no way in", f"Written: {FUNCTION_FILE}", code=1)
        assert version(running) is None


def test_an_sql_error_is_told_as_it_is(checkout: Checkout, cluster: Cluster) -> None:
    with project(cluster, rows=None, deployed=False) as running:
        with running.database.connect("supabase_admin") as connection:
            connection.execute(f'alter database "{running.database.name}" owner to supabase_admin'.encode())
        for via, message in (("meta", "[42501]"), ("management", "Failed to run sql query: ERROR:  42501")):
            done = checkout.run(DEPLOY, "--via", via, env=management(running))
            said(done, "permission denied for database", message, "What to do: Nothing was changed", code=1)
        assert version(running) is None


# --- older versions


@pytest.mark.parametrize("other_arguments", [False, True], ids=["same arguments", "other arguments"])
def test_an_older_version_is_brought_up_to_date_through_itself(
    checkout: Checkout, cluster: Cluster, other_arguments: bool
) -> None:
    # A hosted project, without a token; and a REST layer that learns of the new arguments late.
    with project(cluster, deployed=False, meta=False) as running:
        with running.database.connect() as connection:
            make_older(connection, other_arguments=other_arguments)
        done = checkout.run("migrate_clusters.py", env=running.environment())
        said(done, "An older version of execute_sql is deployed", "python scripts/deploy_sql_function.py", code=1)

        running._options.rest.reload_delay = 0.7
        done = checkout.run(DEPLOY, env=running.environment())
        said(done, f"Brought up to date through {RPC}", "The REST layer knows the function")
        assert call(running, running.service_key, **EVERY_ARGUMENT).json() == [{"one": 1}]
        assert version(running) == current_version()
        with running.database.connect() as connection:
            assert one(connection, "select migration from rpc_migrations.runs") == "old", "the journal is kept"
            assert one(connection, "select count(*) from pg_proc where proname = 'execute_sql'") == 1


def test_an_older_version_can_be_updated_by_another_way(checkout: Checkout, cluster: Cluster) -> None:
    with project(cluster, rows=None, deployed=False) as running:
        with running.database.connect() as connection:
            make_older(connection, other_arguments=False)
        done = checkout.run(DEPLOY, "--via", "meta", env=running.environment())
        said(done, f"Brought up to date through {META}")
        assert version(running) == current_version()


# What somebody has dropped or altered, and the way in that is left.
CHANGES = {
    "a function is dropped": ("drop function rpc_migrations.swap", RPC),
    "a function is altered": ("alter function rpc_migrations.replay reset timezone", RPC),
    "a function is made strict": ("alter function rpc_migrations.log_call strict", RPC),
    "the function that tells it": ("drop function rpc_migrations.is_as_deployed", RPC),
    "a function that every call needs": ("drop function rpc_migrations.run_text", META),
    "the journal": ("drop table rpc_migrations.journal cascade", RPC),
    "another table": ("drop table rpc_migrations.copies cascade", RPC),
}


@pytest.mark.parametrize(("statement", "way"), CHANGES.values(), ids=CHANGES)
def test_what_was_dropped_is_deployed_again(checkout: Checkout, cluster: Cluster, statement: str, way: str) -> None:
    """It said that everything is up to date."""
    with project(cluster) as running, running.database.connect() as connection:
        connection.execute(statement.encode())
        said(checkout.run("doctor.py", env=running.environment()), "FAILED  execute_sql", DEPLOY, code=1)
        if "swap" in statement:
            failed = checkout.run("migrate_clusters.py", env=running.environment())
            said(
                failed,
                "rpc_migrations.swap() does not exist",
                f"somebody has dropped it. Run: python scripts/{DEPLOY}",
                code=1,
            )
        said(checkout.run(DEPLOY, env=running.environment()), f"through {way}.")
        said(checkout.run(DEPLOY, env=running.environment()), "Nothing to do.")
        said(checkout.run("migrate_clusters.py", env=running.environment()), "is applied")


@pytest.mark.parametrize("how", ["strict", "security invoker"])
def test_what_was_altered_is_deployed_over(checkout: Checkout, cluster: Cluster, how: str) -> None:
    """Loops over all functions do that. It was told to be another project's, or to lack a right, and nothing could be deployed over it."""
    with project(cluster) as running, running.database.connect() as connection:
        connection.execute(f"alter function public.execute_sql {how}".encode())
        for command in ("doctor.py", "migrate_clusters.py", DEPLOY):
            way = ("--via", "rpc") if command == DEPLOY else ()
            done = checkout.run(command, *way, env=running.environment())
            told = (
                ("it is not as it was deployed",)
                if way
                else ("execute_sql was altered since it was deployed", f"`{how}`")
            )
            said(done, *told, code=1)
        said(checkout.run(DEPLOY, env=running.environment()), f"through {META}.")
        said(checkout.run("migrate_clusters.py", env=running.environment()), "is applied")


def test_the_right_of_the_service_key_is_revoked(checkout: Checkout, cluster: Cluster) -> None:
    """It was told to be another key."""
    with project(cluster, rows=None) as running, running.database.connect() as connection:
        connection.execute("revoke execute on function public.execute_sql from service_role")
        done = checkout.run(DEPLOY, env=running.environment())
        said(done, "If this is the service key, its right was revoked", code=1)
        connection.execute(re.sub(r"\s+", " ", done.stderr).partition("run there: ")[2].partition(";")[0].encode())
        said(checkout.run(DEPLOY, env=running.environment()), "Nothing to do.")


# --- the REST layer learns of it late


def test_all_arguments_are_tried(admin: psycopg.Connection[Any]) -> None:
    """A REST layer that knows an earlier version only would take a call with fewer of them."""
    admin.execute(deployment.deployment_sql().encode())
    names = one(admin, "select proargnames from pg_proc where oid = 'public.execute_sql'::regproc")
    assert names == ["query", *deployment.EVERY_ARGUMENT]


def test_it_waits_until_the_rest_layer_knows(checkout: Checkout, cluster: Cluster) -> None:
    delay = 1.0
    with project(cluster, rows=None, deployed=False, reload_delay=delay) as running:
        began = time.monotonic()
        done = checkout.run(DEPLOY, "--verbose", env=running.environment())
        assert time.monotonic() - began > delay
        said(done, "Deployed through", "The function execute_sql is not deployed", "The REST layer knows the function")
        assert call(running, running.service_key, **EVERY_ARGUMENT).status_code == 200


def settings_for(running: LocalSupabase) -> Settings:
    """Settings for calls from within the test."""
    key = read_key(running.service_key, "SUPABASE_SERVICE_KEY")
    return Settings(running.url, key, running.ref, None, running.url, patience=5, request_timeout=10)


def test_a_rest_layer_that_does_not_learn_of_it_is_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways_in, "RELOAD_PATIENCE", 0.5)
    with project(cluster, rows=None, deployed=False, reload_delay=60) as running:
        settings, console = settings_for(running), Console("test")
        client = RpcClient(settings, console.retrying)
        with pytest.raises(NotDeployed, match="the REST layer does not know it yet") as error:
            ways_in.deploy(client, settings, console, None, opening_sql(None, keep_texts=False))
        client.close()
        assert "notify pgrst, 'reload schema'" in (error.value.hint or "")
        assert version(running) == current_version()


# --- other doors

Warned = Callable[[str], list[str]]
DOOR = "returns jsonb language plpgsql security definer as $$ begin execute {0}; return '[]'; end $$"
REVOKE = re.compile(r"revoke execute on function .*?;")


@pytest.mark.parametrize("default_grants", ["all", "none"])
def test_other_open_doors_are_named_with_what_closes_them(
    checkout: Checkout, supabase: LocalSupabase, database: Database, admin: psycopg.Connection[Any]
) -> None:
    deploy(admin)
    doors = {"exec_sql": "(sql text)", '"Run_SQL"': '("text" text, n integer)', "query": "(q text, more jsonb)"}
    for name, arguments in doors.items():
        body = DOOR.format({"exec_sql": "sql", "query": "q"}.get(name, '"text"'))
        admin.execute(f"create function public.{name}{arguments} {body}".encode())
    # None of these opens anything.
    admin.execute("create function public.execute_query(sql text) returns int language sql as 'select 1'")
    admin.execute("revoke all on function public.execute_query from public, anon, authenticated")
    admin.execute("create function public.run_query(n integer) returns int language sql as 'select 1'")
    admin.execute("create procedure public.exec_ddl(sql text) language plpgsql as 'begin execute sql; end'")
    assert call(supabase, supabase.anon_key, "exec_sql", sql="select 1").status_code == 200

    done = checkout.run(DEPLOY, "--quiet", env=supabase.environment())
    said(done, "public.exec_sql(text)", 'public."Run_SQL"(text, integer)', "public.query(text, jsonb)")
    statements = REVOKE.findall(done.stderr)
    assert (done.stderr.count("Warning: "), len(statements)) == (3, 3), done.stderr
    for statement in statements:
        admin.execute(statement.encode())

    assert call(supabase, supabase.anon_key, "exec_sql", sql="select 1").json()["code"] == "42501"
    done = checkout.run(DEPLOY, "--quiet", env=supabase.environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.usefixtures("keeper")
def test_an_event_trigger_that_gives_new_functions_to_another_role(cluster: Cluster, checkout: Checkout) -> None:
    """execute_sql would act as that one, and the next deployment would take it for somebody else's."""
    with project(cluster, deployed=False) as running, running.database.connect("supabase_admin") as superuser:
        superuser.execute(GIVES_AWAY)
        env = running.environment()
        said(
            checkout.run("deploy_sql_function.py", env=env),
            "belongs to keeper as soon as it is made",
            "event trigger",
            code=1,
        )
        assert version(running) is None
        superuser.execute("alter event trigger give_away disable")
        said(checkout.run("deploy_sql_function.py", env=env), "The REST layer knows the function")
