"""Two runs of one migration at once, and runs that were killed, suspended, interrupted or left behind an orphan."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from bench import Bench
from faults.proxy import Exchange
from rest_calls import wait_until
from rpc_migrations.errors import Blocked
from rpc_migrations.journal import RUN_PATIENCE
from rpc_migrations.journal_words import moment

# Fails at once where another session is inside a step, and counts each time it takes effect.
_STEP = """
do $step$
begin
    if not pg_try_advisory_lock(99) then
        raise exception 'two runs are inside a step at once';
    end if;
    perform pg_sleep({seconds});
    update public.counter set n = n + 1 where step = '{name}';
    perform pg_advisory_unlock(99);
end;
$step$;
"""
STEPS = ("first", "second", "third")
pytestmark = pytest.mark.slow


def slow(bench: Bench, *seconds: float) -> None:
    """Write a file of three steps; how long each of them takes."""
    bench.write({name: _STEP.format(name=name, seconds=length) for name, length in zip(STEPS, seconds, strict=True)})


def counts(bench: Bench) -> list[int]:
    """How often each step took effect."""
    return [row[0] for row in bench.ask("select n from public.counter order by place")]


@pytest.fixture
def bench(bench: Bench) -> Bench:
    """With a counter for each of three steps."""
    with bench.database.connect() as connection:
        connection.execute(
            "create table public.counter as select step, 0 as n, place "
            "from unnest(array['first', 'second', 'third']) with ordinality as s (step, place)"
        )
    bench.file = bench.file.with_name("slow.sql")
    slow(bench, 0.3, 0.3, 0.3)
    return bench


def test_two_runs_at_once(bench: Bench) -> None:
    """One works; the other says who is at it and since when, waits, and finds everything done."""

    def until_the_other_has_asked(exchange: Exchange) -> None:
        wait_until(lambda: bench.asked_to_start >= 2, 30)
        exchange.pass_on()

    bench.when("second", until_the_other_has_asked)
    one = bench.start()
    bench.wait_for("select from rpc_migrations.runs")
    other = bench.start()
    _, one_said = one.communicate(timeout=60)
    other_out, other_said = other.communicate(timeout=60)
    assert (one.returncode, other.returncode) == (0, 0), one_said + other_said
    assert counts(bench) == [1, 1, 1]
    # It may meet the other one's question for a moment, which holds the same lock; it never waits for that run.
    assert "waiting for another run to end" not in one_said
    (started,) = bench.ask(
        "select to_jsonb(r) ->> 'started_at' from rpc_migrations.runs as r where r.pid = %s", one.pid
    )
    assert f"waiting for another run to end: {_whoami()} (process {one.pid}), since {moment(started[0])}" in other_said
    assert other_out.count("done before") == len(STEPS)
    ended = bench.ask("select pid, outcome from rpc_migrations.runs order by started_at")
    assert ended == [(one.pid, "done"), (other.pid, "done")]


def test_two_runs_at_the_very_same_time(bench: Bench) -> None:
    """Whoever comes first: both end well, and nothing is done twice."""
    slow(bench, 0.1, 0.1, 0.1)
    both = [bench.start(), bench.start()]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert counts(bench) == [1, 1, 1]


def test_the_other_goes_on_where_the_first_one_failed(bench: Bench) -> None:
    """A run that waits takes up the work of one that ends without having done it."""
    bench.when(
        "third", lambda exchange: exchange.json(400, {"code": "42P01", "message": "no", "details": None, "hint": None})
    )
    one = bench.start()
    bench.wait_for("select from rpc_migrations.runs")
    other = bench.start(bench.supabase.url)
    one.communicate(timeout=60)
    out, _ = other.communicate(timeout=60)
    assert (one.returncode, other.returncode) == (1, 0)
    assert out.count("done before") == 2
    assert counts(bench) == [1, 1, 1]


def run_elsewhere(bench: Bench, seen: str) -> None:
    """A run on another machine, last seen then."""
    with bench.database.connect() as connection:
        connection.execute(
            "insert into rpc_migrations.runs (id, migration, action, client, pid, last_seen_at) "
            f"values (gen_random_uuid(), 'slow', 'migrate', 'ann@elsewhere', 12, {seen})"
        )


def test_a_run_whose_last_sign_of_life_is_to_come(bench: Bench) -> None:
    """The database's clock was set back, and nobody is at it: it would be waited for until then."""
    slow(bench, 0, 0, 0)
    run_elsewhere(bench, seen="now() + interval '1 hour'")
    assert bench.run_past_the_proxy(patience=0.5).exit_code == 0


def test_who_is_inside_is_gone_by_the_time_it_is_looked_for(bench: Bench) -> None:
    """The file for psql said that "another session is inside this migration<NULL>"."""
    with (
        bench.database.connect() as connection,
        pytest.raises(psycopg.Error, match=r"^another session is inside this migration\n"),
    ):
        connection.execute("""select rpc_migrations.before_next_call('{"state": "busy", "holder": null}', null)""")


def test_a_run_on_another_machine(bench: Bench) -> None:
    """It is waited for while it shows signs of life, up to our patience; then its place is taken."""
    slow(bench, 0, 0, 0)
    run_elsewhere(bench, seen="now()")
    outcome = bench.run_past_the_proxy(patience=0.5)
    assert isinstance(outcome.error, Blocked)
    assert "Another run of slow is under way: ann@elsewhere (process 12), since " in outcome.error.message
    assert " UTC, last seen " in outcome.error.message
    assert "backend" not in outcome.error.message, "what asks holds the lock itself, for a moment"
    assert counts(bench) == [0, 0, 0]
    with bench.database.connect() as connection:
        connection.execute(
            "update rpc_migrations.runs set last_seen_at = now() - make_interval(secs => %s) where client = 'ann@elsewhere'",
            [RUN_PATIENCE + 1],
        )
    assert bench.run_past_the_proxy(patience=0.5).exit_code == 0
    assert counts(bench) == [1, 1, 1]
    assert bench.ask("select client, outcome from rpc_migrations.runs order by started_at")[0] == (
        "ann@elsewhere",
        "taken over",
    )


def test_a_killed_run_on_this_machine_is_not_waited_for(bench: Bench) -> None:
    """Its process is gone, so there is nothing to wait for."""
    slow(bench, 0, 0, 0)
    release = threading.Event()
    came = bench.when("second", lambda exchange: release.wait(30))  # never sent on
    killed = bench.start()
    assert came.wait(20)
    killed.kill()
    killed.wait()
    release.set()
    outcome = bench.run_past_the_proxy()
    assert outcome.exit_code == 0, outcome.error
    assert outcome.notes == []
    assert counts(bench) == [1, 1, 1]


def test_an_orphan_of_a_killed_run_is_waited_for(bench: Bench) -> None:
    """kill -9 ends the client, not what it has sent: the next run does not work beside it."""
    slow(bench, 0, 1.5, 0)
    killed = bench.start()
    bench.wait_until_inside()
    killed.kill()
    killed.wait()
    outcome = bench.run_past_the_proxy()
    assert outcome.exit_code == 0, outcome.error
    assert "waiting for another run to end: " in outcome.notes[0]
    assert f"(process {killed.pid})" in outcome.notes[0]
    assert "; backend " in outcome.notes[0]
    assert counts(bench) == [1, 1, 1]


def leave_an_orphan(bench: Bench, seconds: float) -> None:
    """The gateway gives up on the second step, which goes on in the database for so long."""
    slow(bench, 0, seconds, 0)

    def give_up(exchange: Exchange) -> None:
        bench.proxy.in_background(exchange.forward)
        bench.wait_until_inside()
        exchange.page(504)

    bench.when("second", give_up)


def test_an_orphan_of_our_own_is_waited_for(bench: Bench) -> None:
    """The next attempt waits for the lock."""
    leave_an_orphan(bench, 1.0)
    outcome = bench.run()
    assert outcome.exit_code == 0, outcome.error
    assert "HTTP 504" in outcome.notes[0]
    assert "waiting for an earlier attempt, or another run: " in outcome.notes[1]
    assert counts(bench) == [1, 1, 1]


def test_an_orphan_that_does_not_end(bench: Bench) -> None:
    """We wait for as long as we may, and say for whom."""
    leave_an_orphan(bench, 3.0)
    outcome = bench.run(patience=0.5)
    assert isinstance(outcome.error, Blocked)
    assert "Another session is inside slow" in outcome.error.message
    assert "run the same command again" in str(outcome.error.hint)
    bench.proxy.wait()
    assert bench.run_past_the_proxy().exit_code == 0
    assert counts(bench) == [1, 1, 1]


@pytest.mark.parametrize("is_sent_on", [False, True], ids=["request lost", "request comes late"])
def test_a_suspended_run_that_was_taken_over_stops(bench: Bench, is_sent_on: bool) -> None:
    """A laptop's lid was closed, a colleague has finished the work, the lid is opened again."""
    slow(bench, 0, 0, 0)
    resumed = threading.Event()

    def close_the_lid(exchange: Exchange) -> None:
        os.kill(suspended.pid, signal.SIGSTOP)
        resumed.wait(30)
        if is_sent_on:
            exchange.pass_on()
        else:
            exchange.reset()

    came = bench.when("second", close_the_lid)
    suspended = bench.start()
    assert came.wait(20)
    with bench.database.connect() as connection:
        connection.execute("update rpc_migrations.runs set last_seen_at = last_seen_at - interval '1 hour'")
    colleague = bench.run_past_the_proxy()
    assert colleague.exit_code == 0, colleague.error
    os.kill(suspended.pid, signal.SIGCONT)
    resumed.set()
    _, said = suspended.communicate(timeout=60)
    assert suspended.returncode == 1
    assert f"A newer run of slow has taken over: {_whoami()} (process {os.getpid()}), since " in said
    assert "--status" in said
    assert "Traceback" not in said
    assert counts(bench) == [1, 1, 1]
    assert bench.ask("select outcome from rpc_migrations.runs order by started_at") == [("taken over",), ("done",)]


def test_a_run_that_somebody_has_ended_says_how_to_go_on(bench: Bench) -> None:
    """In the journal, by hand: there is no newer run to wait for. The same command goes on."""
    slow(bench, 0, 0, 0)

    def end_it(exchange: Exchange) -> None:
        with bench.database.connect() as connection:
            connection.execute("update rpc_migrations.runs set ended_at = clock_timestamp(), outcome = 'failed'")
        exchange.pass_on()

    bench.when("first", end_it)
    ended = bench.run()
    assert ended.error is not None
    assert str(ended.error) == "This run of slow counts as ended, and no newer one has begun."
    assert ended.error.hint == "Somebody has ended it in the journal. To go on, run the same command again."
    assert bench.run().exit_code == 0
    assert counts(bench) == [1, 1, 1]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_says_what_is_done_and_how_to_go_on(bench: Bench, sent: signal.Signals) -> None:
    """It says which steps are done, that nothing is half done, and the command that goes on; which does."""
    slow(bench, 0, 3.0, 0)
    process = bench.start()
    bench.wait_until_inside()
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert bench.ask("select from pg_stat_activity where wait_event = 'PgSleep'"), "it waited for the step"
    assert "Interrupted after 1 of 3 steps of slow. Nothing is half done." in said
    assert "Done: first." in said
    assert f"run_migration.py {bench.file}" in said
    assert "Traceback" not in said
    slow(bench, 0, 3.0, 0)
    again = bench.start()
    _, said = again.communicate(timeout=60)
    assert again.returncode == 0, said
    assert counts(bench) == [1, 1, 1]


def test_a_run_interrupted_while_it_waits_changes_nothing(bench: Bench) -> None:
    """Before its own first step: nothing is changed, and the other run goes on."""
    slow(bench, 0, 0, 0)
    gone = threading.Event()

    def until_the_other_is_gone(exchange: Exchange) -> None:
        gone.wait(60)
        exchange.pass_on()

    came = bench.when("second", until_the_other_is_gone)
    one = bench.start()
    assert came.wait(20)
    other = bench.start()
    assert wait_until(lambda: bench.asked_to_start >= 2, 30)
    other.send_signal(signal.SIGINT)
    _, said = other.communicate(timeout=60)
    gone.set()
    assert other.returncode == 130
    assert "Nothing is half done" in said
    one.communicate(timeout=60)
    assert one.returncode == 0
    assert counts(bench) == [1, 1, 1]


def test_interrupted_between_requests_says_how_it_ended(bench: Bench) -> None:
    """Where the database is free to take it, the journal has it."""
    slow(bench, 0, 0, 0)
    hanging = threading.Event()
    came = bench.when("second", lambda exchange: hanging.wait(30))  # never sent on
    process = bench.start()
    assert came.wait(20)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    hanging.set()
    assert process.returncode == 130
    assert bench.ask("select outcome, message from rpc_migrations.runs") == [("interrupted", "stopped by the user")]
    assert bench.run_past_the_proxy().exit_code == 0
    assert counts(bench) == [1, 1, 1]


def test_a_terminated_backend_and_a_restarted_database(bench: Bench) -> None:
    """In the middle of a step: what it did is gone, and it is done anew."""
    slow(bench, 0, 0.5, 0.5)
    process = bench.start()
    bench.wait_until_inside()
    bench.ask("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'")
    bench.wait_for(
        "select from rpc_migrations.journal where step = 'third' or finished_at is not null and step = 'second'"
    )
    bench.wait_until_inside()
    bench.database.cluster.restart("immediate")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert said.count("trying again in") >= 2
    assert counts(bench) == [1, 1, 1]


def _whoami() -> str:
    from rpc_migrations.runner import _user

    return f"{_user()}@{os.uname().nodename}"


# --- a step file that changed, and plans -----------------------------------------------------------------------------


def test_a_step_edited_after_it_was_done(bench: Bench) -> None:
    """Stops the run by name before anything is run, and says the way out."""
    slow(bench, 0, 0, 0)
    bench.when("third", lambda exchange: exchange.page(401))
    assert bench.run().exit_code == 1
    assert counts(bench) == [1, 1, 0]

    text = bench.file.read_text()
    bench.file.write_text(text.replace("where step = 'first'", "where step = 'first' and n = 0"))
    bench.proxy.choose = lambda request: None
    bench.proxy.requests.clear()
    before = bench.ask("select count(*) from rpc_migrations.runs")
    outcome = bench.run()
    assert outcome.error is not None
    assert outcome.exit_code == 1
    assert 'Steps that were done have been edited since: "first" (slow.sql:' in outcome.error.message
    assert "second" not in outcome.error.message
    for way in (
        "Put the old text back",
        "the change into a new step or file",
        "add --accept-edits",
        "Under another name, the file runs again",
        "Nothing was run",
    ):
        assert way in str(outcome.error.hint)
    assert "roll the migration back" not in str(outcome.error.hint), "it has no way back"
    assert [request.step for request in bench.proxy.requests] == [None], "it sent a step"
    assert counts(bench) == [1, 1, 0]
    assert bench.ask("select count(*) from rpc_migrations.runs") == before

    # A step that was never done may be edited.
    bench.file.write_text(text.replace("where step = 'third'", "where step = 'third' and n = 0"))
    assert bench.run_past_the_proxy().exit_code == 0
    assert counts(bench) == [1, 1, 1]


def test_a_step_edited_while_the_run_is_under_way(bench: Bench) -> None:
    """The database itself refuses it, whoever sends it."""
    slow(bench, 0, 0, 0)
    assert bench.run_past_the_proxy().exit_code == 0
    with (
        bench.database.connect() as connection,
        pytest.raises(psycopg.Error, match='step "first" of slow was run with another text') as refusal,
    ):
        connection.execute("select rpc_migrations.run_step('select 1', 'slow', 'first', 'another checksum')")
    assert refusal.value.sqlstate == "RM002"


def test_a_dry_run_sends_reads_alone(bench: Bench) -> None:
    """Each step, done or to do, and its SQL; and the database is as it was."""
    slow(bench, 0, 0, 0)
    bench.when("third", lambda exchange: exchange.page(401))
    bench.run()
    bench.proxy.requests.clear()
    states = (
        "select to_jsonb(j) from rpc_migrations.journal as j union all select to_jsonb(r) from rpc_migrations.runs as r"
    )
    before = sorted(map(str, bench.ask(states)))
    outcome = bench.run(dry_run=True)
    assert outcome.exit_code == 0
    assert [(step["name"], step["state"]) for step in outcome.report["steps"]] == [
        ("first", "done"),
        ("second", "done"),
        ("third", "to do"),
    ]
    assert all(step["sql"].startswith("do $step$") for step in outcome.report["steps"])
    queries = [request.query for request in bench.proxy.requests]
    assert len(queries) == 1
    assert all(request.step is None for request in bench.proxy.requests)
    # Not even a read can hide a write: the same queries run in a transaction that allows none.
    with bench.database.connect(autocommit=False) as connection:
        connection.execute("set transaction read only")
        for query in queries:
            connection.execute(query)
    assert sorted(map(str, bench.ask(states))) == before


@pytest.mark.parametrize("key", [None, ""])
def test_a_dry_run_without_credentials_sends_nothing(
    bench: Bench, scripts: Callable[..., Any], key: str | None
) -> None:
    """And prints the plan all the same."""
    done = scripts(
        "run_migration.py",
        str(bench.file),
        "--dry-run",
        env={"SUPABASE_URL": bench.proxy.url, "SUPABASE_SERVICE_KEY": key},
    )
    assert done.returncode == 0, done.stderr
    for name in STEPS:
        assert name in done.stdout
    assert "pg_try_advisory_lock(99)" in done.stdout
    assert bench.proxy.requests == []


def test_who_has_no_run_of_that_name_is_not_said_to_be_in_the_sql_editor(bench: Bench) -> None:
    """A run of a folder is registered under the folder's name, and is inside its migrations all the same."""
    with bench.database.connect() as other:
        other.execute("select pg_advisory_lock(rpc_migrations.lock_key('slow'))")
        error = bench.run(patience=0.3).error
    assert isinstance(error, Blocked)
    assert "a run of several files, the SQL Editor or psql; backend" in error.message
