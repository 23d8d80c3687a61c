"""What a text leaves in its session: nothing. The next request on that connection is the application's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from local_supabase import Database, LocalSupabase
from postgrest.exceptions import APIError
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb
from rest_calls import define, rpc
from step_runner import Connection, deploy
from supabase import Client, create_client

# What the application sees of its session, as a role that has no settings of its own.
WHAT_IS_THERE = """
create function public.what_is_there() returns jsonb language sql volatile set search_path = '' as $$
    select jsonb_build_object(
        'settings', (
            select jsonb_object_agg(s.name, s.setting) from pg_catalog.pg_settings as s
            where s.name in ('TimeZone', 'lock_timeout', 'work_mem', 'statement_timeout', 'DateStyle', 'default_transaction_read_only',
                'transaction_timeout')
        ),
        'tenant', coalesce(current_setting('app.tenant', true), ''),
        'temporary', (
            select count(*) from pg_catalog.pg_depend as d
            where d.refclassid = 'pg_catalog.pg_namespace'::regclass and d.refobjid = pg_my_temp_schema()
        ),
        'locks', (select count(*) from pg_catalog.pg_locks as l where l.locktype = 'advisory'),
        'prepared', (select count(*) from pg_catalog.pg_prepared_statements as p where p.from_sql),
        'cursors', (select count(*) from pg_catalog.pg_cursors as c where c.is_holdable),
        'channels', (select count(*) from pg_catalog.pg_listening_channels()),
        'backend', pg_backend_pid()
    );
$$;
grant execute on function public.what_is_there() to service_role;
"""
FAIL = "select 1 / 0"
TEXTS = {
    "the time zone": "set timezone = 'Asia/Tokyo'",
    "the time zone by its own statement": "set time zone 'Asia/Tokyo'",
    "a timeout": "set lock_timeout = '1s'",
    "a timeout to what it is for the transaction": "set statement_timeout = '50s'",
    "a timeout that the step has": "set lock_timeout = '100ms'",
    "a setting by a function": "select set_config('work_mem', '9MB', false)",
    "a setting in a block": "do $$ begin execute 'set work' || '_mem = ''9MB'''; end $$",
    "a setting for the transaction": "set local work_mem = '9MB'",
    "the default of transactions": "set session default_transaction_read_only = on",
    "a timeout of newer versions": "do $$ begin if current_setting('server_version_num') >= '170000' then set transaction_timeout = '40s'; end if; end $$",
    "what cannot be reset": "set seed = 0.5",
    "the search path": "set search_path = pg_temp",
    "a setting with a name of its own": "set app.tenant = '7'",
    "one in quotes": 'set "app"."tenant" = \'7\'',
    "one by a function": "select set_config('app.tenant', '7', false)",
    "a table": "create temporary table users (id serial primary key, n integer default 1)",
    "a table that others use": "create temporary table t (n integer); create view pg_temp.v as select n from t",
    "a type": "create domain pg_temp.text as pg_catalog.text",
    "a function": "create function pg_temp.f() returns integer language sql as 'select 1'",
    "a lock": "select pg_advisory_lock(-42)",
    "a lock taken twice": "select pg_advisory_lock(42), pg_advisory_lock(42)",
    "a lock with two keys": "select pg_advisory_lock_shared(-1, 2000000000)",
    "a lock of the transaction": "select pg_advisory_xact_lock(42)",
    "a prepared statement": "prepare mine as select 1",
    "a channel": "listen mine",
    "a channel in a block": "do $$ begin execute 'listen mine'; end $$",
    "a cursor": "declare mine cursor with hold for select 1",
}


@dataclass
class Pool:
    """A project whose REST layer has one connection, and what it saw there before anything ran."""

    service: Client
    before: Any

    def send(self, query: str, *, step: str | None = None) -> Any:
        """A text, or a step, through execute_sql; what it answers."""
        arguments: dict[str, Any] = {"query": query}
        if step:
            arguments |= {"migration": "m", "step": step, "checksum": "c"}
        return self.service.rpc("execute_sql", arguments).execute().data

    def now(self) -> Any:
        """What the application sees now."""
        return self.service.rpc("what_is_there", {}).execute().data


@pytest.fixture
def pool(database: Database, admin: Connection) -> Iterator[Pool]:
    deploy(admin)
    admin.execute(WHAT_IS_THERE.encode())
    with LocalSupabase(database, pool_size=1) as api:
        service = create_client(api.url, api.service_key)
        yield Pool(service, service.rpc("what_is_there", {}).execute().data)


@pytest.mark.parametrize("step", [None, "one"], ids=["plain", "step"])
@pytest.mark.parametrize("what", TEXTS)
def test_nothing_is_left_in_the_session(pool: Pool, what: str, step: str | None) -> None:
    pool.send(TEXTS[what], step=step)
    assert pool.now() == pool.before
    with pytest.raises(APIError) as failed:
        pool.send(f"{TEXTS[what]}; {FAIL}", step=step and "two")
    assert failed.value.code == "22012"
    assert pool.now() == pool.before


def test_a_limit_on_transactions_does_not_end_the_connection(database: Database, admin: Connection) -> None:
    """The server closed it in the middle of a request, which was then told as no answer, and sent again, twenty times."""
    if admin.info.server_version < 170000:
        pytest.skip("a setting of PostgreSQL 17")
    deploy(admin)
    with database.connect("supabase_admin") as superuser:
        limit = SQL("alter role authenticator in database {} set transaction_timeout = '200ms'")
        superuser.execute(limit.format(Identifier(admin.info.dbname)))
    with LocalSupabase(database, pool_size=1) as api:
        service = create_client(api.url, api.service_key)
        assert service.rpc("execute_sql", {"query": "select pg_sleep(0.4)"}).execute().data == [{"pg_sleep": ""}]


def test_a_text_has_its_own_settings_while_it_runs(pool: Pool) -> None:
    """And temporary tables, which are gone when the same text comes again."""
    text = (
        "set timezone = 'Asia/Tokyo'; set app.tenant = '7'; create temporary table t (n integer); "
        "do $$ begin "
        "insert into t values (1); assert current_setting('timezone') = 'Asia/Tokyo' and current_setting('app.tenant') = '7'; "
        "end $$"
    )
    pool.send(text)
    pool.send(text)
    assert pool.now() == pool.before


def test_what_the_session_had_before_stays(admin: Connection) -> None:
    """In a session of somebody's own: a text that does not touch these leaves them alone."""
    deploy(admin)
    admin.execute(
        "set timezone = 'Asia/Tokyo'; set app.tenant = '7'; create temporary table mine (n integer); "
        "select pg_advisory_lock(7); prepare mine as select 1; listen mine"
    )
    admin.execute(
        "select public.execute_sql('listen theirs; set work_mem = ''9MB''; create temporary table theirs (n integer)')"
    )
    row = admin.execute(
        "select current_setting('timezone'), current_setting('app.tenant'), to_regclass('pg_temp.mine') is not null, "
        "to_regclass('pg_temp.theirs') is null, pg_advisory_unlock(7), (select count(*) from pg_prepared_statements where from_sql), "
        "array(select pg_listening_channels())"
    ).fetchone()
    assert row == ("Asia/Tokyo", "7", True, True, True, 1, ["mine"])


def test_a_setting_of_one_step_is_not_the_next_one_s(admin: Connection) -> None:
    """Also where they share a request."""
    deploy(admin)
    look = "select current_setting('work_mem') as memory, coalesce(current_setting('app.tenant', true), '') as tenant"
    following = [{"query": look, "step": "two", "checksum": "c", "batch": False}]
    row = admin.execute(
        "select public.execute_sql('set work_mem = ''9MB''; set local app.tenant = ''7''', 'm', 'one', 'c', following => %s)",
        [Jsonb(following)],
    ).fetchone()
    assert row is not None
    assert [answer["result"] for answer in row[0]["following"]] == [{"memory": "4MB", "tenant": ""}]


def test_what_an_earlier_request_left_hides_no_table(database: Database, admin: Connection) -> None:
    """A function of the application's, run as its owner, may leave a temporary table in the session."""
    deploy(admin)
    admin.execute("create table public.orders (id integer)")
    leave = "leave() returns void language plpgsql security definer as $$ begin create temporary table orders (id integer); end $$"
    define(admin, leave)
    with LocalSupabase(database, pool_size=1) as api:
        assert rpc(api, "leave").is_success
        assert rpc(api, "execute_sql", query="insert into orders values (1)").is_success
    assert admin.execute("select count(*) from public.orders").fetchone() == (1,)


@pytest.fixture
def superuser(database: Database) -> Iterator[Connection]:
    """Takes back what it has granted on the whole server."""
    with database.connect("supabase_admin") as connection:
        yield connection
        connection.execute("revoke set on parameter log_duration from postgres")


@pytest.mark.parametrize("in_steps", [False, True])
def test_writes_without_where_are_allowed_where_they_may_be(
    database: Database, admin: Connection, superuser: Connection, *, in_steps: bool
) -> None:
    """What pg-safeupdate refuses, which is not to be had here: a setting stands in for its own that takes the same right to change."""
    deploy(admin, [("setting constant text := 'safeupdate.enabled'", "setting constant text := 'log_duration'")])
    superuser.execute(SQL("alter database {} set log_duration = on").format(Identifier(database.name)))
    define(
        admin,
        "is_on() returns text language sql volatile set search_path = '' as $$ select current_setting('log_duration') $$",
    )
    seen = "insert into public.seen select current_setting('log_duration')"
    admin.execute("create table public.seen (is_on text)")
    with LocalSupabase(database, pool_size=1) as api:
        for number, expected in enumerate(["on", "off"]):
            step = {"migration": "m", "step": str(number), "checksum": "c"} if in_steps else {}
            assert rpc(api, "execute_sql", query=seen, **step).is_success
            assert rpc(api, "is_on").json() == "on"
            assert rpc(api, "execute_sql", query=FAIL, **(step and step | {"step": "fails"})).status_code == 400
            assert rpc(api, "is_on").json() == "on"
            assert admin.execute("delete from public.seen returning is_on").fetchall() == [(expected,)]
            superuser.execute("grant set on parameter log_duration to postgres")
