"""What pg-safeupdate refuses on a hosted project is refused here, however deep the statement is, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from bench import Outcome, run_here, settings_for
from local_supabase import Database, LocalSupabase
from local_supabase.safeupdate import refusal, refused, unqualified_writes
from rest_calls import REAL_ONE, define, known, rpc, wait_until
from step_runner import deploy

if REAL_ONE:
    pytest.skip("the server has no pg-safeupdate", allow_module_level=True)

UPDATE_ALL = "update public.customers set name = 'z'"
REFUSED_UPDATE, REFUSED_DELETE = "UPDATE requires a WHERE clause", "DELETE requires a WHERE clause"


@pytest.fixture
def project(database: Database, admin: psycopg.Connection[Any]) -> Iterator[LocalSupabase]:
    """A project with execute_sql, and two customers with an order each."""
    deploy(admin)
    admin.execute(
        "create table public.customers (id integer primary key, name text);"
        "create table public.orders ("
        "    id integer primary key,"
        "    customer integer references public.customers (id) on update cascade on delete cascade);"
        "insert into public.customers values (1, 'a'), (2, 'b');"
        "insert into public.orders values (10, 1), (20, 2);"
    )
    with LocalSupabase(database) as running:
        yield running


def customers(admin: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return admin.execute("select id, name from public.customers order by id").fetchall()


def as_refused(answer: httpx.Response, message: str) -> None:
    """The answer that was recorded of a project with pg-safeupdate."""
    assert (answer.status_code, answer.json()) == (
        400,
        {"code": "21000", "details": None, "hint": None, "message": message},
    )


def run_steps(project: LocalSupabase, folder: Path, *steps: str) -> Outcome:
    """Run a migration file with these steps, named by their numbers."""
    file = folder / "steps.sql"
    file.write_text("".join(f"-- step: {number}\n{step};\n" for number, step in enumerate(steps, 1)))
    return run_here(settings_for(project.url, project.service_key), file)


# As users write them: none of them has the statement as it stands in the request.
IN_DEPTH = {
    "alone": (UPDATE_ALL, REFUSED_UPDATE),
    "after others": (f"select 1; {UPDATE_ALL}; select 2", REFUSED_UPDATE),
    "delete": ("delete from public.orders", REFUSED_DELETE),
    "delete using": ("delete from public.orders using public.customers", REFUSED_DELETE),
    "in a data-modifying CTE": (
        "with gone as (delete from public.orders returning id) select id from gone",
        REFUSED_DELETE,
    ),
    "in a do block": (f"do $$ begin {UPDATE_ALL}; end $$", REFUSED_UPDATE),
    "in a text that a do block puts together": (
        "do $$ begin execute format('%s public.customers set name = %L', 'update', 'z'); end $$",
        REFUSED_UPDATE,
    ),
    "in a function that the text creates and calls": (
        "do $do$ begin"
        f" create function public.f() returns void language plpgsql as $$ begin {UPDATE_ALL}; end $$;"
        " perform public.f(); end $do$",
        REFUSED_UPDATE,
    ),
    "in a function that another one calls": (
        "do $do$ begin"
        f" create function public.f() returns void language plpgsql as $$ begin {UPDATE_ALL}; end $$;"
        " create function public.g() returns void language plpgsql as $$ begin perform public.f(); end $$;"
        " perform public.g(); end $do$",
        REFUSED_UPDATE,
    ),
    "in an SQL function, when it is created": (
        f"create function public.f() returns void language sql as $$ {UPDATE_ALL} $$",
        REFUSED_UPDATE,
    ),
    "in a trigger": (
        f"create function public.f() returns trigger language plpgsql as $$ begin {UPDATE_ALL}; return null; end $$;"
        "create trigger t after insert on public.orders for each row execute function public.f();"
        "insert into public.orders values (30, 1)",
        REFUSED_UPDATE,
    ),
    "in a deferred trigger": (
        f"create function public.f() returns trigger language plpgsql as $$ begin {UPDATE_ALL}; return null; end $$;"
        "create constraint trigger t after insert on public.orders deferrable initially deferred"
        " for each row execute function public.f();"
        "insert into public.orders values (30, 1)",
        REFUSED_UPDATE,
    ),
    "before another error": (f"{UPDATE_ALL}; select 1 / 0", REFUSED_UPDATE),
    "where messages are turned off": (f"set client_min_messages = error; {UPDATE_ALL}", REFUSED_UPDATE),
}


# Of these a step file shows that every row is meant, and they are sent with `where true`.
PLAIN_TO_SEE = {
    "alone", "after others", "delete", "delete using", "in a data-modifying CTE", "in a do block", "where messages are turned off"
}  # fmt: skip


@pytest.mark.parametrize("name", IN_DEPTH)
def test_refused_however_deep(
    project: LocalSupabase, admin: psycopg.Connection[Any], tmp_path: Path, name: str
) -> None:
    """In plain use, each time that it is sent, and in a step that does not show it; nothing of it remains."""
    text, message = IN_DEPTH[name]
    for _ in range(2):
        as_refused(rpc(project, "execute_sql", query=text), message)
    outcome = run_steps(project, tmp_path, text)
    if name in PLAIN_TO_SEE or name == "in an SQL function, when it is created":
        assert not outcome.error  # a step makes the function, and looks into none
    elif name == "before another error":
        assert outcome.error and outcome.error.code == "22012"
        assert customers(admin) == [(1, "a"), (2, "b")]
    else:
        assert outcome.error
        assert (outcome.error.code, outcome.exit_code) == ("21000", 1)
        assert message in outcome.error.message
        assert customers(admin) == [(1, "a"), (2, "b")]
    assert rpc(project, "execute_sql", query="select 1 as one").json() == [{"one": 1}]


def test_a_plan_in_the_sessions_cache_is_refused_as_well(database: Database, project: LocalSupabase) -> None:
    """With one session for all requests: what was analysed once is not analysed again."""
    with LocalSupabase(database, pool_size=1) as one_session, database.connect() as connection:
        define(connection, f"reset() returns void language plpgsql as $$ begin {UPDATE_ALL}; end $$")
        assert wait_until(lambda: known(one_session, "reset"))
        for _ in range(3):
            as_refused(rpc(one_session, "reset"), REFUSED_UPDATE)
        assert customers(connection) == [(1, "a"), (2, "b")]


PASSES = (
    "update public.customers set name = 'z' where true",
    "with gone as (delete from public.orders where id = 10 returning id) select id from gone",
    "insert into public.customers values (1, 'z') on conflict (id) do update set name = excluded.name",
    "delete from public.customers where id = 1",
    "update public.customers set id = 3 where id = 1",
    "do $$ declare c cursor for select from public.customers for update; begin open c; move next from c;"
    " update public.customers set name = 'z' where current of c; end $$",
    f"create function public.f() returns void language plpgsql as $$ begin {UPDATE_ALL}; end $$",
    f"select '{{QUERY :commandType 2 :jointree {{FROMEXPR :quals <>}}}}', $${UPDATE_ALL}$$",
    "truncate public.orders",
    f"set client_min_messages = error; select $${UPDATE_ALL}$$",
)


@pytest.mark.parametrize("text", PASSES)
def test_what_has_a_condition_or_is_not_run_passes(project: LocalSupabase, text: str) -> None:
    """Foreign keys' cascades among them: their statements have a WHERE."""
    answer = rpc(project, "execute_sql", query=text)
    assert answer.status_code == 200, answer.json()


def test_functions_of_users(project: LocalSupabase, admin: psycopg.Connection[Any]) -> None:
    """Also those that run what they are given, at one remove and under any name of the argument."""
    define(admin, "inner_one(sql text) returns void language plpgsql as $$ begin execute inner_one.sql; end $$")
    define(admin, "outer_one(anything jsonb) returns void language plpgsql as"
                  " $$ begin perform public.inner_one(outer_one.anything ->> 'x'); end $$")  # fmt: skip
    define(admin, f"reset() returns void language plpgsql as $$ begin {UPDATE_ALL}; end $$")
    assert wait_until(lambda: rpc(project, "inner_one", sql="select 1").is_success)
    assert wait_until(lambda: known(project, "reset"))
    as_refused(rpc(project, "reset"), REFUSED_UPDATE)
    as_refused(rpc(project, "inner_one", sql=UPDATE_ALL), REFUSED_UPDATE)
    as_refused(rpc(project, "outer_one", anything={"x": UPDATE_ALL}), REFUSED_UPDATE)
    assert customers(admin) == [(1, "a"), (2, "b")]
    assert rpc(project, "outer_one", anything={"x": f"{UPDATE_ALL} where id = 1"}).is_success
    assert customers(admin) == [(1, "z"), (2, "b")]


@pytest.mark.parametrize(("method", "message"), [("PATCH", REFUSED_UPDATE), ("DELETE", REFUSED_DELETE)])
def test_requests_to_tables(project: LocalSupabase, admin: psycopg.Connection[Any], method: str, message: str) -> None:
    headers = {"apikey": project.service_key}
    body = {"name": "z"} if method == "PATCH" else None
    url = f"{project.url}/rest/v1/customers"
    as_refused(httpx.request(method, url, headers=headers, json=body), message)
    assert customers(admin) == [(1, "a"), (2, "b")]
    assert httpx.request(method, f"{url}?id=eq.1", headers=headers, json=body).is_success
    assert customers(admin) != [(1, "a"), (2, "b")]


def test_other_ways_to_the_database_do_not_load_it(project: LocalSupabase, admin: psycopg.Connection[Any]) -> None:
    """The SQL Editor and the Management API come as postgres, and pg-safeupdate is set up for authenticator."""
    answer = httpx.post(f"{project.url}/pg/query", headers={"apikey": project.service_key}, json={"query": UPDATE_ALL})
    assert answer.status_code == 200
    assert customers(admin) == [(1, "z"), (2, "z")]


# --- how it is seen


def test_in_the_servers_parse_tree() -> None:
    """The statement itself and its CTEs count; names and texts that look like a tree do not."""
    update = (
        "{QUERY :commandType 2 :cteList <> :jointree {FROMEXPR :fromlist ({RANGETBLREF :rtindex 1})\n:quals %s} :x <>}"
    )
    assert refused(update % "<>") == REFUSED_UPDATE
    assert refused(update % "{CONST :consttype 16}") is None
    cte = "{QUERY :commandType 1 :cteList ({COMMONTABLEEXPR :ctequery %s}) :jointree {FROMEXPR :fromlist <> :quals <>}}"
    assert refused(cte % update % "<>") == REFUSED_UPDATE
    assert refused(cte % update % "{CONST :consttype 16}") is None
    assert refused(r"{QUERY :commandType 1 :arg \{QUERY\ :commandType\ 2 :jointree {FROMEXPR :quals <>}}") is None


def test_statements_without_where_are_found_in_a_text() -> None:
    assert refusal("update t set a = 1 where true") is None
    assert refusal("select 1; with d as (delete from t returning 1) select * from d") == REFUSED_DELETE
    assert refusal("do $$ begin update t set a = 1; end $$") == REFUSED_UPDATE
    assert refusal("this is no SQL; delete from t") is None
    assert refusal("select $$ update t set a = 1 $$") is None


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("declare r other.table%rowtype; begin delete from t; end", ["DELETE"]),
        ("begin update t set a = (select 1 from u where true); end", ["UPDATE"]),
        ("begin delete from t using u where t.id = u.id; update t set a = 1 where b; end", []),
        ("begin with d as (delete from t) insert into u select * from d where true; end", ["DELETE"]),
        ("begin insert into t values (1) on conflict (id) do update set a = 1; end", []),
        ("begin perform 1 from t for update; execute 'delete from t'; -- delete from t\n end", []),
    ],
)
def test_writes_without_where_are_found_in_functions(body: str, found: list[str]) -> None:
    function = f"create function f() returns void language plpgsql as $body$ {body} $body$"
    assert refusal(function) is None
    assert unqualified_writes(function) == found
