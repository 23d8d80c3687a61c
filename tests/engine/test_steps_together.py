"""Steps that share a request: quick ones do, and nobody can tell that from a transaction for each."""

from __future__ import annotations

import threading
import time

import pytest
from bench import Bench
from faults.proxy import Exchange, Request
from rpc_migrations.deployment import SIGNATURE
from rpc_migrations.errors import Blocked, SqlError
from step_runner import deploy


@pytest.fixture
def bench(bench: Bench) -> Bench:
    """With tables of ours and of the application."""
    with bench.database.connect() as connection:
        connection.execute("create table rpc_migrations.effects (step text)")
        connection.execute("create table public.used (n integer unique deferrable initially deferred)")
        connection.execute("insert into public.used values (1)")
        connection.execute("create view public.seen as select n from public.used")
        connection.execute("create type public.kind as enum ('one')")
        connection.execute("create table rpc_migrations.unique_ones (n integer unique deferrable initially deferred)")
        connection.execute("insert into rpc_migrations.unique_ones values (1)")
    bench.file = bench.file.with_name("together.sql")
    return bench


def effect(step: str) -> str:
    """A step that takes a moment, and touches nothing that the application uses."""
    return f"insert into rpc_migrations.effects values ('{step}');"


QUICK = {name: effect(name) for name in ("a", "b", "c")}


def test_quick_steps_are_one_request(bench: Bench) -> None:
    """Each has its journal row, and the report tells them apart."""
    outcome = bench.run(QUICK)
    assert outcome.exit_code == 0, outcome.error
    assert bench.sent == ["a"]
    assert bench.journal == {"a": 1, "b": 1, "c": 1}
    assert [(step["name"], step["state"], step["calls"]) for step in outcome.report["steps"]] == [
        ("a", "done", 1),
        ("b", "done", 1),
        ("c", "done", 1),
    ]
    # Looking where it stands, starting and ending the run are requests as well.
    assert (outcome.report["requests"], len(bench.proxy.requests)) == (4, 4)
    assert bench.run(QUICK).report["outcome"] == "nothing to do"


def test_a_batch_step_is_repeated_in_the_same_request(bench: Bench) -> None:
    """As long as there is time."""
    batch = (
        "with noted as (insert into rpc_migrations.effects values ('batch') returning 1)"
        "select count(*) >= 2 as done, 1 as rows from rpc_migrations.effects where step = 'batch'"
    )
    outcome = bench.run({"a": effect("a"), "many (batch)": batch, "c": effect("c")})
    assert outcome.exit_code == 0, outcome.error
    assert bench.sent == ["a"]
    assert bench.journal == {"a": 1, "many": 3, "c": 1}
    assert [step["rows"] for step in outcome.report["steps"]] == [1, 3, 1]


LEFT_BEHIND = {
    "a changed row": "update public.used set n = 2 where n = 1;",
    "a locked row": "do $$ begin perform from public.used for update; end $$;",
    "a locked table": "lock table public.used in share mode;",
    "a dropped view": "drop view public.seen;",
    "a new table": "create table public.fresh (id integer);",
    "a temporary table": "create temporary table fresh (id integer) on commit drop;",
    "an advisory lock": "select pg_advisory_xact_lock(4);",
    "a new value of an enum": "alter type public.kind add value 'two';",
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_what_a_step_leaves_behind_ends_the_request(bench: Bench, what: str) -> None:
    """The application must not wait for a lock while another step runs, and the next step begins with a clean slate."""
    outcome = bench.run({"a": effect("a"), "b": LEFT_BEHIND[what], "c": effect("c"), "d": effect("d")})
    assert outcome.exit_code == 0, outcome.error
    assert bench.sent == ["a", "c"]
    assert bench.journal == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_a_reader_of_a_large_table_ends_the_request(bench: Bench) -> None:
    """What comes next takes long, and whoever truncates or alters the table would wait for it."""
    read = "select count(*) as n from public.used;"
    assert bench.run({"a": read, "b": effect("b")}).exit_code == 0
    assert bench.sent == ["a"]
    with bench.database.connect() as connection:
        deploy(connection, [("> 256000000", "> 0")])
    assert bench.run({"a": read, "b": effect("b"), "c": read, "d": effect("d")}).exit_code == 0
    assert bench.sent == ["a", "d"]


def test_event_triggers_do_not_end_the_request(bench: Bench) -> None:
    """That of pg_graphql takes a number from a sequence at every DDL."""
    with bench.database.connect("supabase_admin") as connection:
        connection.execute(
            "create schema graphql; create sequence graphql.seq_schema_version; grant all on schema graphql to public; "
            "grant all on sequence graphql.seq_schema_version to public; "
            "create function graphql.increment() returns event_trigger language plpgsql "
            "as $$ begin perform nextval('graphql.seq_schema_version'); end $$; "
            "create event trigger graphql_watch_ddl on ddl_command_end execute function graphql.increment()"
        )
    create = "create table rpc_migrations.{} (id integer);"
    outcome = bench.run({name: create.format(name) for name in ("a", "b", "c")})
    assert outcome.exit_code == 0, outcome.error
    assert bench.sent == ["a"]


def test_a_request_carries_only_so_much(bench: Bench) -> None:
    """What is sent along with each step does not grow with the file."""
    text = effect("x") + "--" + 40_000 * "x"
    assert bench.run(dict.fromkeys("abcdef", text)).exit_code == 0
    assert bench.sent == ["a", "d"]
    assert bench.journal == dict.fromkeys("abcdef", 1)


def test_a_request_has_only_so_many_calls(bench: Bench) -> None:
    """A batch step that waits for something does not spin."""
    assert bench.run({f"s{n}": effect("s") for n in range(40)}).exit_code == 0
    assert bench.sent == ["s0", "s30"]


def test_a_run_that_was_ended_begins_no_further_step(bench: Bench) -> None:
    """Ctrl-C while a request is under way: what runs may end, and that is all."""
    ended = threading.Event()

    def end_it(exchange: Exchange) -> None:
        with (
            bench.database.connect("supabase_admin", autocommit=False) as holder,
            bench.database.connect("supabase_admin") as other,
        ):
            holder.execute("select pg_advisory_xact_lock(5)")
            bench.proxy.in_background(exchange.forward)
            while other.execute("select from pg_locks where objid = 5 and not granted").fetchone() is None:
                time.sleep(0.01)
            run = exchange.request.arguments["run"]
            other.execute("select rpc_migrations.end_run(%s, 'interrupted')", [run])
        bench.proxy.wait()
        exchange.close()
        ended.set()

    bench.proxy.choose = lambda request: end_it if request.step and not ended.is_set() else None
    waits = "do $$ begin set local lock_timeout = 0; perform pg_advisory_lock(5), pg_advisory_unlock(5); set local lock_timeout = '100ms'; end $$;"
    outcome = bench.run({"a": effect("a"), "b": waits, "c": effect("c"), "d": effect("d")})
    assert bench.proxy.errors == []
    assert isinstance(outcome.error, Blocked)
    assert bench.journal == {"a": 1, "b": 1}


def test_a_step_that_takes_long_ends_the_request(bench: Bench) -> None:
    """The next one has a request's whole time."""
    outcome = bench.run({"a": effect("a"), "b": "select pg_sleep(2.1);", "c": effect("c")})
    assert outcome.exit_code == 0, outcome.error
    assert bench.sent == ["a", "c"]


FAILING = {
    "an error": ("select 1 / 0;", "22012"),
    "an assertion": ("do $$ begin assert false; end $$;", "P0004"),
    "a timeout": ("select pg_sleep(10);", "57014"),
    "a constraint that is checked at the commit": ("insert into public.used values (1);", "23505"),
    "the same in our own schema": ("insert into rpc_migrations.unique_ones values (1);", "23505"),
    "a refusal of begin": ("do $$ begin execute 'begin'; end $$;", "0A000"),
}


@pytest.mark.parametrize("what", FAILING)
def test_a_step_that_fails_does_not_take_others_with_it(bench: Bench, what: str) -> None:
    """Those before it are done; it is undone, and its error is told as its own."""
    text, code = FAILING[what]
    with bench.database.connect() as connection:
        connection.execute(f"alter function {SIGNATURE} set statement_timeout = '1s'")
    outcome = bench.run({"a": effect("a"), "b": effect("b"), "fails": effect("fails") + text, "d": effect("d")})
    assert isinstance(outcome.error, SqlError)
    assert outcome.error.code == code
    line = 7 if "constraint" in what or "schema" in what else 8
    assert outcome.error.message.startswith(f'Step "fails" (together.sql, line {line}): ')
    assert bench.sent == ["a", "fails"]
    assert bench.journal == {"a": 1, "b": 1}
    with bench.database.connect() as connection:
        assert connection.execute("select step from rpc_migrations.effects").fetchall() == [("a",), ("b",)]

    outcome = bench.run({"a": effect("a"), "b": effect("b"), "fails": effect("fails"), "d": effect("d")})
    assert outcome.exit_code == 0, outcome.error
    assert bench.journal == {"a": 1, "b": 1, "fails": 1, "d": 1}


def test_a_new_value_of_an_enum_can_be_used_in_the_next_step(bench: Bench) -> None:
    """Before the commit it cannot, and a block that catches that would leave out what it makes."""
    made = """do $$ begin
        create function public.second() returns public.kind language sql begin atomic select 'two'::public.kind; end;
    exception when others then null;
    end $$;"""
    added = "do $$ begin alter type public.kind add value 'two'; exception when duplicate_object then null; end $$;"
    outcome = bench.run({"a": effect("a"), "added": added, "made": made})
    assert outcome.exit_code == 0, outcome.error
    with bench.database.connect() as connection:
        assert connection.execute("select public.second()::text").fetchall() == [("two",)]


def test_what_is_deferred_to_the_commit_is_so_in_every_step(bench: Bench) -> None:
    """Checked at once, a row would come before the one that it refers to, and a block that catches that would leave it out."""
    with bench.database.connect() as connection:
        connection.execute(
            "create table public.parent (id integer primary key);"
            "create table public.child (id integer references public.parent deferrable initially deferred)"
        )
    rows = """do $$ begin
        insert into public.child values (1);
        insert into public.parent values (1);
    exception when foreign_key_violation then null;
    end $$;"""
    reads = "select count(*) as n from public.child;"
    outcome = bench.run({"a": effect("a"), "reads": reads, "rows": rows, "d": effect("d")})
    assert outcome.exit_code == 0, outcome.error
    assert bench.sent == ["a", "d"]
    with bench.database.connect() as connection:
        assert connection.execute("select id from public.child").fetchall() == [(1,)]


def test_a_step_that_has_to_wait_does_not_hold_up_others(bench: Bench) -> None:
    """Those before it are done and seen; it is told who is in the way, and is sent again."""
    with bench.database.connect(autocommit=False) as holder:
        holder.execute("lock table public.used in access exclusive mode")
        pid = holder.info.backend_pid

        def let_go(request: Request) -> None:
            if request.step == "waits":
                seen.append(bench.journal)
                holder.rollback()

        seen: list[dict[str, int]] = []
        bench.proxy.choose = let_go
        outcome = bench.run({"a": effect("a"), "waits": "update public.used set n = 3 where n = 1;"})
    assert outcome.exit_code == 0, outcome.error
    assert f"waiting for a lock: pid {pid}" in outcome.notes[0]
    assert bench.sent == ["a", "waits"]
    assert seen == [{"a": 1}]
    assert bench.journal == {"a": 1, "waits": 1}


def test_a_step_that_was_edited_is_not_run_in_passing(bench: Bench) -> None:
    """Also where it follows others: the database knows what it has run."""
    with bench.database.connect() as connection:
        connection.execute("select rpc_migrations.run_step('select 1', 'together', 'b', 'another checksum')")
        row = connection.execute(
            "select rpc_migrations.run_steps('select 1', 'together', 'a', 'checksum', false, null, %s)",
            ['[{"query": "select 2", "step": "b", "checksum": "checksum", "batch": false}]'],
        ).fetchone()
    assert row
    assert (row[0]["state"], row[0]["following"], row[0]["undone"]["code"]) == ("done", [], "RM002")
