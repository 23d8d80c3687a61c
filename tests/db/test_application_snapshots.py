"""Statements that began before the swap and look at the table after it, as STABLE functions and policies make them do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pytest
from local_supabase import Cluster, Database
from local_supabase.database import SUPERUSER
from step_runner import ROLLBACK, Connection, calls, deploy, read, rebuild_file, run

STEP_FILE = rebuild_file("members", "id integer not null, team text")
ROWS = 1000
# "pause" waits for whoever holds the advisory lock, as a slow statement would take its time; then the function looks at the table.
TABLES = f"""
create table public.members (id integer primary key, team text);
insert into public.members select n, 'a' from generate_series(1, {ROWS}) as n;
create function public.pause() returns void language sql volatile as $$ select pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1) $$;
create function public.member_count() returns bigint language plpgsql stable as $$
begin return (select count(*) from public.members); end $$;
"""
# What applies the changes of a subscription waits within a statement, and then counts.
COUNTED_BY_A_TRIGGER = """
create table public.counted (members bigint);
create function public.count_members() returns trigger language plpgsql as $$ begin
    insert into public.counted
    select case when (select public.pause()) is null then public.member_count() else public.member_count() end;
    return null;
end $$;
create trigger counts after insert on public.feed for each row execute function public.count_members();
alter table public.feed enable always trigger counts;
grant select on public.counted to postgres;
"""


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Slow:
    """A session whose statement takes its snapshot, pauses, and then counts the members."""

    def __init__(self, database: Database, pool: ThreadPoolExecutor, admin: Connection) -> None:
        self.connection = database.connect()
        self.pid = self.connection.info.backend_pid
        self.count: Future[int] = pool.submit(self._run)
        waits = "select from pg_stat_activity where pid = %s and wait_event = 'advisory'"
        wait_until(lambda: admin.execute(waits, [self.pid]).fetchall())

    def _run(self) -> int:
        with self.connection:
            row = self.connection.execute(
                "select case when (select public.pause()) is null then public.member_count() else public.member_count() end"
            ).fetchone()
            assert row is not None
            return int(row[0])


def drive(admin: Connection, database: Database, text: str, begin_at: set[str]) -> tuple[int, list[str]]:
    """Run a step file with a slow statement that begins at each of these steps, and ends when it is waited for, or at the end.

    Returns how many rows they missed in all, and the states that the swap answered.
    """
    missed, states, slow = 0, [], []
    with ThreadPoolExecutor(8) as pool, database.connect() as gate:
        gate.execute("select pg_advisory_lock(1)")
        try:
            for call in calls(admin, text):
                if "swap" in call.step:
                    states.append(call.answer["state"])
                if call.answer["state"] == "waiting":
                    assert {holder["pid"] for holder in call.answer["holders"]} == {one.pid for one in slow}
                    gate.execute("select pg_advisory_unlock(1)")
                    missed += sum(ROWS - one.count.result() for one in slow)
                    slow = []
                if call.step in begin_at and call.answer["state"] == "done":
                    slow.append(Slow(database, pool, admin))
        finally:
            gate.execute("select pg_advisory_unlock_all()")
        missed += sum(ROWS - one.count.result() for one in slow)
    return missed, states


def test_a_slow_statement_misses_no_row(admin: Connection, database: Database) -> None:
    """It is waited for, by name, wherever in the migration it began, and so it is on the way back."""
    deploy(admin)
    admin.execute(TABLES)
    missed, states = drive(
        admin, database, STEP_FILE, {"create the new table", "begin the copy", "carry over", "compare"}
    )
    assert (missed, states[-1], "waiting" in states) == (0, "done", True)
    missed, states = drive(admin, database, read(ROLLBACK), {"roll back: begin", "roll back: compare the two tables"})
    assert (missed, states[-1], "waiting" in states) == (0, "done", True)


def test_without_waiting_rows_are_missed(admin: Connection, database: Database) -> None:
    """What the wait is for: taken away, a statement that is in the middle of its work counts none of the rows."""
    deploy(admin, (("    if noted <> '[]' then\n", "    if false then\n"),))
    admin.execute(TABLES)
    missed, _ = drive(admin, database, STEP_FILE, {"begin the copy", "create the new table"})
    assert missed == 2 * ROWS


def test_an_update_in_repeatable_read_finds_its_row(admin: Connection, database: Database) -> None:
    deploy(admin)
    admin.execute(TABLES)
    run(admin, STEP_FILE, until="carry over")
    with database.connect() as other:
        other.execute("begin isolation level repeatable read; select 1")
        admin.execute("update public.members set team = 'b' where id = 7")
        states = []
        for call in calls(admin, STEP_FILE):
            states.append((call.step, call.answer["state"]))
            if call.answer["state"] == "waiting":
                assert other.execute("select team from public.members where id = 8").fetchone() == ("a",)
                other.execute("rollback")
    assert ("swap", "waiting") in states


def test_a_subscription_that_begins_misses_no_row(admin: Connection, database: Database) -> None:
    """Its first copy of a table is read by the process that sends the changes, in the snapshot of its slot."""
    deploy(admin)
    admin.execute(TABLES)
    run(admin, STEP_FILE, until="carry over")
    counts = []
    with psycopg.connect(database.dsn(SUPERUSER), replication="database", autocommit=True) as sender:
        sender.execute(
            "BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ"
        )  # in capitals: as replication commands are written
        sender.execute("CREATE_REPLICATION_SLOT first TEMPORARY LOGICAL pgoutput (SNAPSHOT 'use')")
        for call in calls(admin, STEP_FILE):
            if call.answer["state"] == "waiting":
                counts += sender.execute("SELECT count(*) FROM public.members").fetchall()
                sender.execute("ROLLBACK")
    assert set(counts) == {(ROWS,)}  # once, or more often where the machine is so busy that an attempt takes too long


@pytest.fixture
def feeding(cluster: Cluster, database: Database) -> Iterator[Connection]:
    """A database whose inserts into `feed` a subscription brings into the test's own, where a trigger counts the members."""
    source = cluster.create_database()
    with source.connect(SUPERUSER) as feeding, database.connect(SUPERUSER) as fed:
        for one in (feeding, fed):
            one.execute("create table public.feed (id integer primary key)")
        feeding.execute("create publication feed for table public.feed")
        fed.execute(TABLES)
        fed.execute("alter table public.members owner to postgres")
        fed.execute(COUNTED_BY_A_TRIGGER)
        with source.subscription("feed", fed):
            yield feeding
    source.drop()


def test_a_background_worker_misses_no_row(admin: Connection, database: Database, feeding: Connection) -> None:
    """What is no client runs statements as well: a subscription's worker here, the jobs of an extension elsewhere."""
    deploy(admin)
    run(admin, STEP_FILE, until="begin the copy")
    states = []
    with database.connect() as gate:
        gate.execute("select pg_advisory_lock(1)")
        feeding.execute("insert into public.feed values (1)")
        works = "select from pg_stat_activity where backend_type ~ 'replication' and wait_event = 'advisory' and datname = current_database()"
        wait_until(lambda: admin.execute(works).fetchall())
        for call in calls(admin, STEP_FILE):
            states.append((call.step, call.answer["state"]))
            if call.answer["state"] == "waiting":
                gate.execute("select pg_advisory_unlock_all()")
        gate.execute("select pg_advisory_unlock_all()")
    wait_until(lambda: admin.execute("select from public.counted").fetchall())
    assert admin.execute("select members from public.counted").fetchall() == [(ROWS,)]
    assert ("swap", "waiting") in states


def test_a_transaction_without_a_snapshot_is_not_waited_for(admin: Connection, database: Database) -> None:
    """One that is open, and even has written elsewhere, makes every new snapshot look old."""
    deploy(admin)
    admin.execute(TABLES)
    admin.execute("create table public.other (id integer)")
    with database.connect() as other:
        other.execute("begin; insert into public.other values (1)")
        assert "waiting" not in {call.answer["state"] for call in calls(admin, STEP_FILE)}


def test_not_waiting_is_an_option(admin: Connection, database: Database) -> None:
    deploy(admin)
    admin.execute(TABLES)
    run(admin, STEP_FILE, until="compare")
    with database.connect() as other:
        other.execute("begin isolation level repeatable read; select 1")
        answers = [call.answer for call, _ in zip(calls(admin, STEP_FILE), range(12), strict=False)]
        assert answers[-1]["state"] == "waiting"
        admin.execute("set rpc_migrations.ignore_snapshots = 'true'")
        run(admin, STEP_FILE)
