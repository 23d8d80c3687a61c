"""What those try who have a right or two: a role that may create things in public, one that owns a table, one that shares a
session. What they make must never run as the database's owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from local_supabase import Cluster, Database, LocalSupabase
from postgrest.exceptions import APIError
from rpc_migrations.client import RpcClient
from rpc_migrations.rebuilt_table import read_table
from rpc_migrations.step_file import read_migration
from step_runner import DB, GIVE_UP, MIGRATION, ROLLBACK, Connection, deploy, read, rebuild_file, run, run_file
from supabase import create_client

APP = "customer_app"
# Whoever runs a function of theirs is noted.
LOOT = """
create table public.loot (who text);
grant insert on public.loot to public;
"""
NOTE_WHO = "insert into public.loot values (current_user)"


@pytest.fixture(scope="module", autouse=True)
def role(cluster: Cluster) -> Iterator[None]:
    """A role of the application."""
    with cluster.connect() as connection:
        connection.execute(f"create role {APP} login".encode())
        yield
        connection.execute(f"drop role {APP}".encode())


@pytest.fixture
def app(database: Database, admin: Connection) -> Iterator[Connection]:
    """A session of the application's role, which may create things in public."""
    admin.execute(f"{LOOT}; grant usage, create on schema public to {APP}".encode())
    with database.connect(APP) as connection:
        yield connection


def answered(admin: Connection, query: str) -> Any:
    """The rows of a query that execute_sql runs."""
    answer = admin.execute("select public.execute_sql(%s)", [query]).fetchone()
    return answer and answer[0]


def loot(admin: Connection) -> set[str]:
    """The roles as which something of theirs has run."""
    return {who for (who,) in admin.execute("select who from public.loot")}


IMPOSTORS = {
    "function public.to_jsonb(bigint)": (
        "create function public.to_jsonb(bigint) returns jsonb language plpgsql as $$ begin {note}; return 'null'; end $$",
        "create table if not exists public.made ()",
    ),
    "function public.array_append(jsonb[],jsonb)": (
        "create function public.array_append(jsonb[], jsonb) returns jsonb[] language plpgsql as $$ begin {note}; return $1; end $$",
        "select 1 as one",
    ),
    "function public.lower(name)": (
        "create function public.lower(name) returns text language plpgsql as $$ begin {note}; return ''; end $$",
        "select lower(relname) from pg_class limit 1",
    ),
    "operator public.=(oid,regnamespace)": (
        "create function public.same(oid, regnamespace) returns boolean language plpgsql as $$ begin {note}; return true; end $$; "
        "create operator public.= (function = public.same, leftarg = oid, rightarg = regnamespace)",
        "select relname from pg_class where relnamespace = 'public'::regnamespace",
    ),
    "cast from public.mood to text by function public.spell(public.mood)": (
        "create type public.mood as enum ('sad'); "
        "create function public.spell(public.mood) returns text language plpgsql as $$ begin {note}; return ''; end $$; "
        "create cast (public.mood as text) with function public.spell(public.mood)",
        "select 'sad'::public.mood::text",
    ),
}


@pytest.mark.parametrize("deployed_before", [True, False], ids=["deployed", "not yet deployed"])
@pytest.mark.parametrize("what", IMPOSTORS)
def test_what_could_be_taken_for_postgresqls_own(
    admin: Connection, app: Connection, what: str, deployed_before: bool
) -> None:
    """A text is refused while it is there, by its name and its owner's."""
    definition, text = IMPOSTORS[what]
    if deployed_before:
        deploy(admin)
    app.execute(definition.format(note=NOTE_WHO).encode())
    if not deployed_before:
        deploy(admin)
    for step in ("null", "'s'"):
        with pytest.raises(psycopg.Error) as refused:
            admin.execute(f"select public.execute_sql($text${text}$text$, 'm', {step}, 'c')".encode())
        assert refused.value.sqlstate == "RM001"
        assert f"{what} of role {APP}" in str(refused.value)
    assert loot(admin) == set()


# What the owner or an extension has, what theirs is, and a text that would call it.
TAKEN_FOR_YOURS = {
    "function public.token()": (
        "create function extensions.token() returns text language sql return ''",
        "create function public.token() returns text language plpgsql as $$ begin {note}; return ''; end $$",
        "create table public.made (token text default token())",
    ),
    "function public.tidy(character varying)": (
        "create function public.tidy(text) returns text language sql return $1",
        "create function public.tidy(varchar) returns text language plpgsql as $$ begin {note}; return $1; end $$",
        "select tidy('a'::varchar(3)) as one",
    ),
    "operator public.<=>(numeric,integer)": (
        "create function extensions.far(numeric, numeric) returns numeric language sql return 1; "
        "create operator extensions.<=> (function = extensions.far, leftarg = numeric, rightarg = numeric)",
        "create function public.far_off(numeric, int) returns numeric language plpgsql as $$ begin {note}; return 1; end $$; "
        "create operator public.<=> (function = public.far_off, leftarg = numeric, rightarg = int)",
        "select 1.5 <=> 1 as one",
    ),
    "domain public.address": (
        "create type extensions.address as enum ('a')",
        "create function public.is_one(text) returns boolean language plpgsql as $$ begin {note}; return true; end $$; "
        "create domain public.address as text check (public.is_one(value))",
        "select 'a'::address as one",
    ),
}


@pytest.mark.parametrize("what", TAKEN_FOR_YOURS)
def test_what_could_be_taken_for_yours(admin: Connection, app: Connection, what: str) -> None:
    """The same, where the owner or an extension has one of that name."""
    deploy(admin)
    yours, theirs, text = TAKEN_FOR_YOURS[what]
    admin.execute(yours.encode())
    app.execute(theirs.format(note=NOTE_WHO).encode())
    with pytest.raises(psycopg.Error) as refused:
        admin.execute("select public.execute_sql(%s)", [text])
    assert refused.value.sqlstate == "RM001"
    assert f"{what} of role {APP}" in str(refused.value)
    assert loot(admin) == set()


WAIT_FOR_THEIRS = (
    "perform pg_advisory_xact_lock(4711); while clock_timestamp() < now() + interval '1 second' or not exists "
    "(select from pg_proc where proname = 'lower' and pronamespace = 'public'::regnamespace) loop end loop;"
)
CALL = "perform lower(relname) from pg_class limit 1;"


@pytest.mark.parametrize(
    ("statements", "has_run"),
    [([f"do $$ begin {WAIT_FOR_THEIRS} end $$", f"do $$ begin {CALL} end $$"], False),
     ([f"do $$ begin {WAIT_FOR_THEIRS} {CALL} end $$"], True)],
    ids=["before a statement", "during the last one"],
)  # fmt: skip
def test_theirs_comes_while_a_text_runs(
    database: Database, admin: Connection, app: Connection, statements: list[str], has_run: bool
) -> None:
    """A later statement does not run; what has called it already is undone."""
    deploy(admin)
    app.execute(
        "create sequence public.called; grant all on public.called to public"
    )  # no rollback takes a number back
    separator = "; -- next"
    text = separator.join(["create table public.made ()", *statements])
    with database.connect() as watcher, ThreadPoolExecutor() as pool:
        with app.transaction():
            app.execute(
                "create function public.lower(name) returns text language plpgsql as "
                "$$ begin perform nextval('public.called'); return ''; end $$"
            )
            call = "select public.execute_sql(%s, 'm', 's', 'c', separator => %s)"
            running = pool.submit(admin.execute, call, [text, separator])
            held = (
                "select from pg_locks where locktype = 'advisory' and objid = 4711 "
                "and database = (select oid from pg_database where datname = current_database())"
            )
            while not running.done() and not watcher.execute(held).fetchall():
                pass
        with pytest.raises(psycopg.Error, match=f"public.lower\\(name\\) of role {APP}") as refused:
            running.result()
    assert refused.value.sqlstate == "RM001"
    assert admin.execute("select to_regclass('public.made'), (select is_called from public.called)").fetchone() == (
        None,
        has_run,
    )


@pytest.mark.parametrize("owner", [APP, "postgres"])
def test_a_schema_called_as_the_owner(database: Database, admin: Connection, app: Connection, owner: str) -> None:
    """Names are looked up there before they are in public: a table of somebody else's would be written to, and its triggers run as us."""
    deploy(admin)
    admin.execute(f"grant create on database {database.name} to {APP}".encode())
    (app if owner == APP else admin).execute("create schema postgres")
    admin.execute("create table public.orders (id integer)")
    if owner == "postgres":
        admin.execute(f"grant all on schema postgres to {APP}".encode())
    app.execute(
        f"create function postgres.lower(name) returns text language plpgsql as $$ begin {NOTE_WHO}; return ''; end $$".encode()
    )
    with pytest.raises(psycopg.Error) as refused:
        admin.execute(
            "select public.execute_sql('insert into orders select 1 from pg_class where lower(relname) = relname limit 1')"
        )
    assert refused.value.sqlstate == "RM001"
    assert (f"schema postgres of role {APP}" in str(refused.value)) == (owner == APP)
    assert f"function postgres.lower(name) of role {APP}" in str(refused.value)
    assert loot(admin) == set()


@pytest.mark.parametrize("what", list(IMPOSTORS)[:2])
def test_nothing_of_ours_takes_them(admin: Connection, app: Connection, what: str) -> None:
    """Even if they were let pass: what is not the caller's text looks in no schema of theirs."""
    deploy(admin, [("    if impostors is not null then", "    if false then")])
    definition, text = IMPOSTORS[what]
    app.execute(definition.format(note=NOTE_WHO).encode())
    for step in ("null", "'s'"):
        admin.execute(f"select public.execute_sql($text${text}$text$, 'm', {step}, 'c')".encode())
    two = f"create table public.two (); -- and {text}"
    admin.execute(f"select public.execute_sql($text${two}$text$, 'm', 'two', 'c', separator => '; -- and ')".encode())
    assert loot(admin) == set()


def test_the_bootstrap_takes_none_of_them(admin: Connection, app: Connection) -> None:
    """A person runs it as the owner, with the owner's search_path."""
    bootstrap = (DB / "bootstrap.sql").read_bytes()
    app.execute(IMPOSTORS["operator public.=(oid,regnamespace)"][0].format(note=NOTE_WHO).encode())
    admin.execute(bootstrap)
    assert loot(admin) == set()
    admin.execute("drop function public.execute_sql(text)")
    app.execute("create function public.execute_sql(integer) returns integer language sql return 1")
    app.execute("create function public.obj_description(oid, text) returns text language sql return 'rpc_migrations 0'")
    with pytest.raises(psycopg.Error, match="another execute_sql is there"):
        admin.execute(bootstrap)


# What a role makes under the name of a tool's table of applied migrations; all but the first could run something of theirs.
HISTORIES = {
    "a plain table": "create table public.schema_migrations (version bigint, dirty boolean)",
    "in a schema of theirs": "create schema theirs; grant usage on schema theirs to public; "
    "create table theirs.schema_migrations (version bigint, dirty boolean); grant select on theirs.schema_migrations to public",
    "the CLI's, as a view": "create schema supabase_migrations; grant usage on schema supabase_migrations to public; "
    "create view supabase_migrations.schema_migrations as select public.note() as version; "
    "grant select on supabase_migrations.schema_migrations to public",
}
NOTE_AS_INDEXED = (
    f"create function public.note() returns text language plpgsql as $$ begin {NOTE_WHO}; return '1'; end $$; "
    "create function public.planned(integer) returns boolean language plpgsql immutable as "
    "$$ begin perform public.note(); return true; end $$"
)


@pytest.mark.parametrize("made", HISTORIES.values(), ids=HISTORIES)
def test_the_history_of_another_tool(database: Database, admin: Connection, app: Connection, made: str) -> None:
    """Not read, however harmless it looks."""
    deploy(admin)
    admin.execute(f"grant create on database {database.name} to {APP}".encode())
    app.execute(f"{NOTE_AS_INDEXED}; {made}; grant select on all tables in schema public to postgres".encode())
    with pytest.raises(psycopg.Error, match=f"is in the hands of role {APP}"):
        admin.execute("select public.execute_sql('select rpc_migrations.history()')")
    assert loot(admin) == set()


def test_the_history_is_changed_after_the_look(database: Database, admin: Connection, app: Connection) -> None:
    """The look is with the snapshot of the statement, the query's plan is by what is there then."""
    deploy(admin)
    app.execute(
        f"{NOTE_AS_INDEXED}; {HISTORIES['a plain table']}; grant select on public.schema_migrations to public".encode()
    )
    with database.connect() as other, other.transaction():
        other.execute("set transaction isolation level repeatable read")
        other.execute("select")
        app.execute("create index on public.schema_migrations (version) where public.planned(1)")
        with pytest.raises(psycopg.Error, match=f"is in the hands of role {APP}"):
            other.execute("select rpc_migrations.history()")
    assert loot(admin) <= {APP}


def test_the_history_of_a_role_whose_rights_we_have(cluster: Cluster, admin: Connection, app: Connection) -> None:
    """Supabase's guide to Prisma makes such a role."""
    deploy(admin)
    app.execute(f"{HISTORIES['a plain table']}; insert into public.schema_migrations values (1, false)".encode())
    with cluster.connect() as superuser:
        superuser.execute(f"grant {APP} to postgres".encode())
        try:
            history = admin.execute("select rpc_migrations.history() -> 'by_others' -> 'golang-migrate'").fetchone()
        finally:
            superuser.execute(f"revoke {APP} from postgres".encode())
    assert history == ([["1", "false"]],)


def test_a_trigger_on_the_clis_history(admin: Connection, app: Connection) -> None:
    """Whoever has that privilege adds one to our table: nothing is written there, and reading goes on."""
    deploy(admin)
    admin.execute(
        "create schema supabase_migrations; "
        "create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text); "
        f"grant usage on schema supabase_migrations to {APP}; grant trigger on supabase_migrations.schema_migrations to {APP}".encode()
    )
    app.execute(
        f"create function public.note() returns trigger language plpgsql as $$ begin {NOTE_WHO}; return old; end $$; "
        "create trigger note before insert or delete on supabase_migrations.schema_migrations "
        "for each statement execute function public.note()".encode()
    )
    call = 'select rpc_migrations.record_for_cli(\'{"version": "1", "name": "a", "statements": []}\')'
    with pytest.raises(psycopg.Error, match=f"is in the hands of role {APP}"):
        admin.execute(f"select public.execute_sql($text${call}$text$)".encode())
    assert loot(admin) == set()
    assert admin.execute("select rpc_migrations.history() -> 'by_cli'").fetchone() == ([],)


def test_functions_that_are_no_danger_are_left_alone(admin: Connection, app: Connection) -> None:
    """The owner's own, and names that PostgreSQL does not have."""
    deploy(admin)
    admin.execute("create function public.lower(name) returns text language sql return ''")
    app.execute("create function public.theirs(integer) returns integer language sql return 1")
    assert admin.execute("select public.execute_sql('select 1 as one')").fetchone() == ([{"one": 1}],)


@pytest.mark.parametrize("type_name", ["jsonb", "text", "uuid", "oid"])
def test_a_type_left_in_the_session(database: Database, admin: Connection, app: Connection, type_name: str) -> None:
    """The pool gives everybody the same sessions, and an empty search_path looks for types among temporary ones first."""
    deploy(admin)
    admin.execute(
        "create function public.report(query text) returns void language plpgsql as 'begin execute query; end'; "
        "grant execute on function public.report(text) to authenticated"
    )
    with LocalSupabase(database, pool_size=1) as api:
        user = create_client(api.url, api.authenticated_key("00000000-0000-4000-8000-000000000001"))
        user.rpc("report", {"query":
            f"create function pg_temp.note(pg_catalog.{type_name}) returns boolean language plpgsql as "
            f"$$ begin {NOTE_WHO}; return true; end $$; "
            f"create domain pg_temp.{type_name} as pg_catalog.{type_name} check (pg_temp.note(value))"
        }).execute()  # fmt: skip
        service = create_client(api.url, api.service_key)
        step = {"migration": "m", "step": "s", "checksum": "c", "following": []}
        # A REST layer that takes their type for its own has lost already, but to the caller's role.
        with nullcontext() if type_name != "text" else pytest.raises(APIError):
            assert service.rpc("execute_sql", {"query": "select 1 as one"}).execute().data == [{"one": 1}]
            answer: Any = service.rpc("execute_sql", {"query": "select 2 as two", **step}).execute().data
            assert answer["state"] == "done"
    assert "postgres" not in loot(admin)


def test_settings_left_in_the_session(database: Database, admin: Connection, app: Connection) -> None:
    """With these a swap would never come, would not wait for older statements, or would hold its locks for long."""
    deploy(admin)
    admin.execute(
        "create function public.plant(name text) returns text language sql as $$ select set_config(name, '1', false) $$; "
        "grant execute on function public.plant(text) to authenticated"
    )
    with LocalSupabase(database, pool_size=1) as api:
        user = create_client(api.url, api.authenticated_key("00000000-0000-4000-8000-000000000001"))
        service = create_client(api.url, api.service_key)
        for setting in ("replayed", "asked_to_commit", "ignore_snapshots", "lock_budget"):
            user.rpc("plant", {"name": f"rpc_migrations.{setting}"}).execute()
            query = f"select current_setting('rpc_migrations.{setting}') as value"
            assert service.rpc("execute_sql", {"query": query}).execute().data == [{"value": ""}]


MADE_BEFOREHAND = {
    "the schema": ("create schema rpc_migrations", f"schema rpc_migrations belongs to {APP}"),
    "a table in it": (
        "create table rpc_migrations.journal (id integer)",
        f"table rpc_migrations.journal belongs to {APP}",
    ),
    "a function in it": (
        "create function rpc_migrations.lock_key(text) returns bigint language sql return 1",
        f"function rpc_migrations.lock_key(text) belongs to {APP}",
    ),
    "a type in it": ("create type rpc_migrations.journal as (n integer)", "rpc_migrations.journal belongs to"),
    "a domain in it": ("create domain rpc_migrations.d as integer", f"type rpc_migrations.d belongs to {APP}"),
    "a trigger on the journal": (
        "create function public.note() returns trigger language plpgsql as $$ begin {note}; return new; end $$; "
        "create trigger note before insert on rpc_migrations.journal for each row execute function public.note()",
        f"trigger note on table rpc_migrations.journal of rpc_migrations.journal calls a function of {APP}",
    ),
    "the function, with a comment like ours": (
        "create function public.execute_sql(query text) returns jsonb language plpgsql as $$ begin {note}; return '[]'; end $$; "
        "comment on function public.execute_sql(text) is 'rpc_migrations 0123456789abcdef'",
        f"function public.execute_sql(text) of role {APP}",
    ),
}


@pytest.mark.parametrize("what", MADE_BEFOREHAND)
def test_what_others_made_beforehand(database: Database, admin: Connection, app: Connection, what: str) -> None:
    """Nothing is deployed into it; it is named, and its owner."""
    definition, message = MADE_BEFOREHAND[what]
    admin.execute(f'grant create on database "{database.name}" to {APP}'.encode())
    if "trigger" in what:
        deploy(admin)
        admin.execute(
            f"grant usage on schema rpc_migrations to {APP}; grant trigger on rpc_migrations.journal to {APP}".encode()
        )
    elif "in it" in what:
        admin.execute(f"create schema rpc_migrations; grant usage, create on schema rpc_migrations to {APP}".encode())
    app.execute(definition.format(note=NOTE_WHO).encode())
    with pytest.raises(psycopg.Error) as refused:
        deploy(admin)
    assert refused.value.sqlstate == "RM001"
    assert message in str(refused.value)
    assert loot(admin) == set()


TABLES = {
    "a table of theirs": (
        "create table public.user_clusters (id uuid primary key default public.note_uuid(), user_id uuid, cluster_type text, "
        "n integer default public.note_integer() check (public.note_integer() > 0)); "
        "create index on public.user_clusters (public.note_text(cluster_type)) where public.note_integer() > 0; "
        "insert into public.user_clusters (user_id, cluster_type) values (null, 'a')",
        f"it belongs to {APP}, not to postgres",
    ),
    "a view of theirs": (
        "create view public.user_clusters as select public.note_uuid() as id, public.note_uuid() as user_id, 'a' as cluster_type "
        "where public.note_integer() > 0",
        "it is not an ordinary table",
    ),
}
NOTING = (
    "create function public.note_{0}({1}) returns {0} language plpgsql immutable as $$ begin {2}; return {3}; end $$"
)


@pytest.mark.parametrize("what", TABLES)
@pytest.mark.parametrize("is_member", [True, False], ids=["we have its rights", "we do not"])
def test_a_table_that_others_own(
    cluster: Cluster, admin: Connection, app: Connection, what: str, is_member: bool
) -> None:
    """What it calls would run as us while it is copied, checked or counted: it is not even read."""
    definition, message = TABLES[what]
    deploy(admin)
    app.execute(f"create function public.note() returns void language plpgsql as $$ begin {NOTE_WHO}; end $$".encode())
    for type_name, takes, value in (("uuid", "", "gen_random_uuid()"), ("integer", "", "1"), ("text", "text", "$1")):
        app.execute(NOTING.format(type_name, takes, "perform public.note()", value).encode())
    app.execute(definition.encode())
    with cluster.connect() as superuser:
        superuser.execute(
            f"{'grant' if is_member else 'revoke'} {APP} {'to' if is_member else 'from'} postgres".encode()
        )
        try:
            with pytest.raises(psycopg.Error) as refused:
                run_file(admin, MIGRATION)
            answered(admin, (DB / "verify_user_clusters.sql").read_text())
            doctors = SimpleNamespace(row=lambda query, shape: answered(admin, query)[0])
            read_table(cast(RpcClient, doctors), read_migration(DB / "migrate_user_clusters.sql"))
        finally:
            superuser.execute(f"revoke {APP} from postgres".encode())
    assert refused.value.sqlstate == "RM001"
    assert message in str(refused.value)
    assert loot(admin) <= {APP}


def test_a_view_in_the_place_of_realtimes_subscriptions(database: Database, admin: Connection, app: Connection) -> None:
    """A project without Realtime leaves that name to whoever may create schemas: nobody counts what it returns."""
    deploy(admin)
    admin.execute(
        f"grant create on database {database.name} to {APP}; create table public.things (id int primary key)".encode()
    )
    app.execute(
        "create function public.note() returns oid language plpgsql as "
        f"$$ begin {NOTE_WHO}; return 0; end $$; create schema realtime; grant usage on schema realtime to public; "
        "create view realtime.subscription as select public.note()::regclass as entity; grant all on realtime.subscription to public".encode()
    )
    run(admin, rebuild_file("things", "id bigint primary key"))
    run(admin, read(ROLLBACK))
    assert loot(admin) == set()


@pytest.mark.parametrize("what", ["table", "view"])
def test_a_prompt_refinements_that_others_own(admin: Connection, app: Connection, what: str) -> None:
    """What the Supervisor writes would be theirs: refused before anything changes, not at the last step."""
    deploy(admin)
    app.execute(
        f"create {what} public.prompt_refinements {'(id uuid)' if what == 'table' else 'as select 1 as id'}".encode()
    )
    with pytest.raises(
        psycopg.Error, match=r"public\.prompt_refinements is there, and is not a table of postgres"
    ) as refused:
        run_file(admin, MIGRATION)
    assert refused.value.sqlstate == "RM001"
    assert admin.execute("select to_regclass('rpc_migrations.user_clusters')").fetchone() == (None,)


LOOKING_UP = """
create function public.cut(text) returns text language sql immutable as 'select left($1, 3)';
create function public.short(varchar) returns text language plpgsql immutable as 'begin return cut($1); end';
create table public.things (id bigint primary key, name varchar, kind text);
insert into public.things values (1, 'abcdef');
"""
THEIRS = f"create function public.cut(varchar) returns text language plpgsql immutable as $$ begin {NOTE_WHO}; return 'x'; end $$"
# What calls the function that looks names up, and what the new table is: where its rows are made, and where one value is asked for.
CALLED_BY = {
    "a column": (
        "alter table public.things add short text generated always as (public.short(name)) stored",
        "like public.things including generated, more text",
    ),
    "a default": (
        "select",
        "id bigint, name varchar, kind text not null default public.short('abcdef')",
    ),
}


@pytest.mark.parametrize(("made", "columns"), CALLED_BY.values(), ids=CALLED_BY)
def test_what_a_function_of_the_table_looks_up(admin: Connection, app: Connection, made: str, columns: str) -> None:
    """The table's function calls one that somebody else's would fit better: neither is called, and nothing is changed."""
    deploy(admin)
    admin.execute(LOOKING_UP.encode())
    admin.execute(made.encode())
    app.execute(THEIRS.encode())
    with pytest.raises(psycopg.Error, match=rf"function public\.cut\(character varying\) of role {APP}") as refused:
        run(admin, rebuild_file("things", columns))
    assert refused.value.sqlstate == "RM001"
    assert admin.execute("select to_regclass('public.things_backup')").fetchone() == (None,)
    assert loot(admin) == set()


@pytest.mark.parametrize("until", ["begin the copy", "compare", "swap"])
def test_theirs_comes_in_the_middle(admin: Connection, app: Connection, until: str) -> None:
    """Going on is refused, although nothing else has the name; back to where everything was it goes as long as no row has to be made for that."""
    deploy(admin)
    admin.execute(LOOKING_UP.encode())
    admin.execute(CALLED_BY["a column"][0].encode())
    text = rebuild_file("things", CALLED_BY["a column"][1])
    run(admin, text, until=until)
    app.execute(THEIRS.replace("public.cut", "public.carve").encode())
    if until != "swap":
        with pytest.raises(psycopg.Error, match="could find something that others made"):
            run(admin, text)
        run(admin, read(ROLLBACK))
        assert admin.execute("select to_regclass('public.things_backup')").fetchone() == (None,)
    else:
        with pytest.raises(psycopg.Error, match="could find something that others made"):
            run(admin, read(ROLLBACK))
        run(admin, read(GIVE_UP))
        app.execute("drop function public.carve(varchar)")
        run(admin, read(ROLLBACK))
    assert admin.execute("select short from public.things").fetchone() == ("abc",)
    assert loot(admin) == set()
