"""A model of the journal's protocol, checked against the database's own functions: two runners and their orphans in any
order, answers that get lost, sessions that end before they commit. Each step takes effect exactly once.
"""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from local_supabase import Cluster, Database
from rpc_migrations.deployment import deployment_sql

STEPS = ("one", "many", "last")
# Without making a failing case smaller, which takes minutes where sessions block each other.
PHASES = (Phase.generate,)
FATES = ("answered", "lost", "crashed", "terminated")
BATCH, BATCH_CALLS, BATCH_ROWS = "many", 3, 10
PATIENCE = 1e6  # nobody is taken for dead in a test's time, unless he is named as dead

_EFFECTS = """
create table rpc_migrations.effects (step text, at timestamptz default clock_timestamp());
create table rpc_migrations.queue as select generate_series(1, 30) as id;
"""
_PLAIN = "insert into rpc_migrations.effects (step) values ('{step}')"
_BATCH = f"""
with gone as (delete from rpc_migrations.queue where id in (select id from rpc_migrations.queue order by id limit {BATCH_ROWS}) returning id),
noted as (insert into rpc_migrations.effects (step) select '{BATCH}' where exists (select from gone) returning step)
select (select count(*) from gone) as rows, (select count(*) from rpc_migrations.queue) <= {BATCH_ROWS} as done
"""
_STATE = """
select
    (select coalesce(jsonb_object_agg(e.step, e.times), '{}') from (select step, count(*) as times from rpc_migrations.effects group by step) as e),
    (select coalesce(jsonb_agg(jsonb_build_object('step', j.step, 'calls', j.calls, 'rows', j.rows, 'is_finished', j.finished_at is not null)), '[]')
     from rpc_migrations.journal as j),
    (select count(*) from rpc_migrations.runs where ended_at is null)
"""


class Runner:
    """A client: the run that it has registered, and the step that it is at. It may have requests of its own that go on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.run = uuid.uuid4()
        self.is_known = False  # to the database
        self.is_registered = False  # as far as it knows itself
        self.at = 0
        self.is_stopped = False


class Journal(RuleBasedStateMachine):
    """What may happen. `database` is set by the test."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.admin = self._connect(autocommit=True)
        self.sessions: list[psycopg.Connection[Any]] = []
        self.idle: list[psycopg.Connection[Any]] = []
        self.runners = [Runner("ann"), Runner("bob")]
        # Requests that are under way: done, and not committed.
        self.pending: list[tuple[psycopg.Connection[Any], Runner, list[dict[str, Any]]]] = []

    @initialize()
    def begin(self) -> None:
        """An empty journal, nothing done, and one runner at work."""
        self.admin.execute(
            "truncate rpc_migrations.runs, rpc_migrations.journal, rpc_migrations.effects, rpc_migrations.queue"
        )
        self.admin.execute("insert into rpc_migrations.queue select generate_series(1, 30)")
        self._register(self.runners[0], is_lost=False, dead=None)

    def teardown(self) -> None:
        """Everybody goes home."""
        for connection in self.sessions:
            connection.close()
        self.admin.close()

    # --- what runners do ---------------------------------------------------------------------------------------------

    @rule(who=st.integers(0, 1), is_lost=st.booleans(), knows_dead=st.booleans())
    def register(self, who: int, is_lost: bool, knows_dead: bool) -> None:
        """Begin a run, or ask again after a lost answer; or take the place of one whose process is known to be gone."""
        runner = self.runners[who]
        if runner.is_registered:
            runner = self.runners[1 - who]
        if not runner.is_registered:
            self._register(runner, is_lost, self._open_run() if knows_dead else None)

    @precondition(lambda self: self._at_work())
    @rule(who=st.integers(0, 1), fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=4), together=st.booleans())
    def send_steps(self, who: int, fates: list[str], together: bool) -> None:
        """Send the step that the runner is at, some times, alone or with all that follow: the answer arrives, or is lost, or the
        session ends before it commits.
        """
        runner = self._choose(who)
        for fate in fates:
            if runner.is_stopped:
                return
            connection = self._session()
            answers = self._run_step(connection, runner, together=together)
            if fate in ("answered", "lost"):
                connection.commit()
                if fate == "answered":
                    self._take(runner, answers)
            elif fate == "crashed":
                connection.rollback()
            else:
                self._terminate(connection.info.backend_pid)
                connection.close()
                continue
            self.idle.append(connection)

    @precondition(lambda self: self._at_work() and not self.pending)
    @rule(who=st.integers(0, 1), together=st.booleans())
    def leave_an_orphan(self, who: int, together: bool) -> None:
        """Send the step and stop listening: the gateway has given up, and the database goes on."""
        runner = self._choose(who)
        connection = self._session()
        self.pending.append((connection, runner, self._run_step(connection, runner, together=together)))

    @precondition(lambda self: self.pending)
    @rule(commits=st.booleans(), is_heard=st.booleans())
    def orphan_ends(self, commits: bool, is_heard: bool) -> None:
        """An orphan comes to its end, one way or the other."""
        connection, runner, answers = self.pending.pop()
        if commits:
            connection.commit()
            if is_heard and runner in self.runners:
                self._take(runner, answers)
        else:
            connection.rollback()
        self.idle.append(connection)

    @precondition(lambda self: self._at_work())
    @rule(who=st.integers(0, 1), says_so=st.booleans())
    def leave(self, who: int, says_so: bool) -> None:
        """Say that the run is over; or be killed, and know nothing any more, while orphans go on. Come back as a new run."""
        runner = self._choose(who)
        if says_so and not self.pending:
            self.admin.execute("select rpc_migrations.end_run(%s, 'failed')", [runner.run])
        self.runners[self.runners.index(runner)] = Runner(runner.name)

    # --- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def effects_and_journal_agree(self) -> None:
        """At every moment: what was done is what the journal says, never more than once; and one run at most is open."""
        row = self.admin.execute(_STATE).fetchone()
        assert row
        effects, journal, open_runs = row
        assert len({entry["step"] for entry in journal}) == len(journal)
        assert effects == {entry["step"]: entry["calls"] for entry in journal if entry["calls"]}
        for entry in journal:
            allowed = BATCH_CALLS if entry["step"] == BATCH else 1
            assert entry["calls"] <= allowed
            assert entry["is_finished"] == (entry["calls"] == allowed)
            assert entry["rows"] == entry["calls"] * (BATCH_ROWS if entry["step"] == BATCH else 1)
        assert open_runs <= 1

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _at_work(self) -> list[Runner]:
        return [runner for runner in self.runners if runner.is_registered and not runner.is_stopped]

    def _choose(self, who: int) -> Runner:
        return self._at_work()[who % len(self._at_work())]

    def _register(self, runner: Runner, is_lost: bool, dead: uuid.UUID | None) -> None:
        before = self._open_run()
        answer = self._call("start_run(%s, 'm', 'migrate', %s, 1, %s, %s)", runner.run, runner.name, PATIENCE, dead)
        if self.pending or (before not in (None, dead, runner.run) and not runner.is_known):
            assert answer["state"] == "busy"
            return
        assert answer["state"] == "done"
        # Where another run has taken its place in the meantime, the first step tells it so.
        assert runner.is_known or self._open_run() == runner.run
        runner.is_known = True
        runner.is_registered = not is_lost

    def _session(self) -> psycopg.Connection[Any]:
        if self.idle:
            return self.idle.pop()
        self.sessions.append(self._connect(autocommit=False))
        return self.sessions[-1]

    def _connect(self, *, autocommit: bool) -> psycopg.Connection[Any]:
        """An answer comes at once, whatever others do: a request that waits for another one's end would wait for ever."""
        return self.database.connect(autocommit=autocommit, options="-c statement_timeout=2s")

    def _terminate(self, pid: int) -> None:
        """End a session; it is gone afterwards. (The function's own way to wait for that looks ten times a second.)"""
        self.admin.execute("select pg_terminate_backend(%s)", [pid])
        while self.admin.execute("select from pg_stat_activity where pid = %s", [pid]).fetchone() is not None:
            time.sleep(0.001)

    def _run_step(self, connection: psycopg.Connection[Any], runner: Runner, *, together: bool) -> list[dict[str, Any]]:
        first, *later = [
            {"query": _BATCH if step == BATCH else _PLAIN.format(step=step), "step": step, "checksum": "c", "batch": step == BATCH}
            for step in STEPS[min(runner.at, len(STEPS) - 1) :]
        ]  # fmt: skip
        held = bool(self.pending)
        row = connection.execute(
            "select public.execute_sql(%(query)s, 'm', %(step)s, %(checksum)s, %(batch)s, %(run)s, following => %(following)s)",
            {**first, "run": runner.run, "following": json.dumps(later) if together else None},
        ).fetchone()
        assert row
        answer: dict[str, Any] = row[0]
        assert (answer["state"] == "busy") == held, "one session at a time is inside a migration"
        if not held:
            assert (answer["state"] == "taken_over") == (self._open_run() != runner.run)
        return [answer, *answer.pop("following", [])]

    def _take(self, runner: Runner, answers: list[dict[str, Any]]) -> None:
        """The runner goes on by what it was told."""
        for answer in answers:
            if answer["state"] == "done":
                runner.at += 1
            elif answer["state"] == "taken_over":
                runner.is_stopped = True

    def _call(self, call: str, *values: Any) -> dict[str, Any]:
        row = self.admin.execute(f"select rpc_migrations.{call}", values).fetchone()
        assert row
        answer: dict[str, Any] = row[0]
        return answer

    def _open_run(self) -> uuid.UUID | None:
        row = self.admin.execute("select id from rpc_migrations.runs where ended_at is null").fetchone()
        return row[0] if row else None


@pytest.fixture
def prepared(cluster: Cluster) -> Iterator[Database]:
    database = cluster.create_database()
    with database.connect() as connection:
        connection.execute(deployment_sql())
        connection.execute(_EFFECTS)
    yield database
    database.drop()


def test_each_step_takes_effect_once(prepared: Database) -> None:
    """In every order that hypothesis thinks of."""
    machine = type("BoundJournal", (Journal,), {"database": prepared})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.mark.parametrize("together", [False, True])
def test_the_model_reaches_the_end(prepared: Database, together: bool) -> None:
    """Without faults the same calls do every step: the model above is about something."""
    machine = type("BoundJournal", (Journal,), {"database": prepared})()
    machine.begin()
    for _ in itertools.repeat(None, 1 if together else 2 + BATCH_CALLS):
        machine.send_steps(0, ["answered"], together)
        machine.effects_and_journal_agree()
    assert machine.admin.execute("select step, calls, finished_at is not null from rpc_migrations.journal order by id").fetchall() == [
        ("one", 1, True), (BATCH, BATCH_CALLS, True), ("last", 1, True)
    ]  # fmt: skip
    machine.teardown()
