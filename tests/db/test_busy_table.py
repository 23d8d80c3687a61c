"""A table to which the application writes so fast that much is written between any two requests."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from bench import Bench
from faults.proxy import Fault, Request
from projects import one
from rpc_migrations import patience
from step_runner import calls

ROWS = 20_000
STEP = "swap the tables"
REBUILD = "-- rebuild: public.orders\nalter table public.orders add column status text default 'open' not null;\n"
ROLLED_BACK = "roll back: swap the tables back"


@pytest.fixture
def orders(bench: Bench) -> Bench:
    """The file that rebuilds a table."""
    with bench.database.connect() as connection:
        connection.execute("create table public.orders (id integer primary key, amount integer not null)")
        connection.execute("insert into public.orders select n, 0 from generate_series(1, %s) as n", [ROWS])
    bench.file.write_text(REBUILD)
    return bench


def writing(bench: Bench, changes: list[int]) -> Callable[[Request], Fault | None]:
    """Before each request that begins with a swap, the application changes so many rows more."""

    def choose(request: Request) -> Fault | None:
        if request.step in {STEP, ROLLED_BACK} and changes:
            with bench.database.connect() as application:
                application.execute("update public.orders set amount = amount + 1 where id <= %s", [changes.pop(0)])
        return None

    return choose


def what_was_written(bench: Bench) -> tuple[int, int]:
    """How many rows there are, and how many changes they have."""
    [(rows, changes)] = bench.ask("select count(*), sum(amount) from public.orders")
    return rows, changes


def test_thousands_of_changes_between_any_two_requests(orders: Bench) -> None:
    """They are replayed before the locks; the swap and the way back do not wait for a quieter moment."""
    orders.proxy.choose = writing(orders, [2_000] * 20)
    done = orders.run()
    assert (done.exit_code, done.error) == (0, None)
    assert orders.sent.count(STEP) < 10
    back = orders.run_back()
    assert (back.exit_code, back.error) == (0, None)
    assert orders.sent.count(ROLLED_BACK) < 10
    assert what_was_written(orders) == (ROWS, 2_000 * (orders.sent.count(STEP) + orders.sent.count(ROLLED_BACK)))


def test_a_burst_of_changes_is_caught_up_with_at_once(orders: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than is tried to swap with, several times in a row: a pause would only let more be written."""
    pauses: list[str] = []  # and whether the burst was over
    burst = [10_000] * 6
    real_pause = patience.Wait.pause

    def pause(wait: patience.Wait, why_not: str, *remedy: str, at_once: bool = False) -> None:
        if burst and not at_once:
            pauses.append(why_not)
        real_pause(wait, why_not, *remedy, at_once=at_once)

    monkeypatch.setattr(patience.Wait, "pause", pause)
    orders.proxy.choose = writing(orders, burst)
    done = orders.run()
    assert (done.exit_code, done.error, pauses) == (0, None, [])
    assert what_was_written(orders) == (ROWS, 60_000)


def test_an_application_that_writes_faster_than_can_be_caught_up_with(orders: Bench) -> None:
    """The run ends when its patience does, with nothing half done, and says what could be done. Later it goes on."""
    orders.proxy.choose = writing(orders, [10_000] * 1000)
    gave_up = orders.run(patience=2)
    assert gave_up.error is not None
    told = "catching up with what was written since|no more than [15],000 changes|statements that began before"  # as fast as the machine is
    assert re.search(told, str(gave_up.error))
    assert "run the same command again" in (gave_up.error.hint or "")
    assert orders.ask("select state, attempts from rpc_migrations.copies") == [("copied", 0)]
    orders.proxy.choose = writing(orders, [])  # a quieter hour
    done = orders.run()
    assert (done.exit_code, done.error) == (0, None)


def test_transactions_that_overlap(orders: Bench) -> None:
    """There is always one in the way, but none stays: what can be done is to let the application wait for longer."""
    with ExitStack() as stack:
        open_ones: list[psycopg.Connection[Any]] = []

        def choose(request: Request) -> Fault | None:
            if request.step is not None:
                open_ones.append(stack.enter_context(orders.database.connect()))
                open_ones[-1].execute("begin; lock table public.orders in row exclusive mode")
                if len(open_ones) > 1:
                    open_ones.pop(0).close()
            return None

        orders.proxy.choose = choose
        gave_up = orders.run(patience=3)
    assert gave_up.error is not None
    assert "What is in the way comes and goes, but there is always something: with a larger MIGRATION_LOCK_BUDGET" in (
        gave_up.error.hint or ""
    )
    orders.proxy.choose = writing(orders, [])
    with orders.database.connect() as other:
        other.execute("begin; lock table public.orders in row exclusive mode")
        stays = orders.run(patience=2)
    assert stays.error is not None
    assert "End what is in the way" in (stays.error.hint or "")


def test_a_larger_budget_waits_longer_for_each_lock(orders: Bench) -> None:
    """In any step, half of it; in the swap, where there are several, a tenth at first."""
    timeout = "select current_setting('lock_timeout') as found"
    with orders.database.connect() as admin:
        for budget, told, first in (("50", "100ms", "20ms"), ("200", "100ms", "20ms"), ("3000", "1500ms", "300ms")):
            admin.execute(f"set rpc_migrations.lock_budget = {budget}".encode())
            (call,) = calls(admin, f"-- step: {budget}\n{timeout}")
            assert call.answer["result"] == {"found": told}
            with admin.transaction():
                admin.execute(
                    "select rpc_migrations.limit_wait(c, clock_timestamp()) "
                    """from jsonb_populate_record(null::rpc_migrations.copies, '{"attempts": 0}') as c"""
                )
                assert one(admin, timeout) == first
