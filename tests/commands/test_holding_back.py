"""A run that leaves the database time for others: a share of it, or until those that read the WAL have caught up."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from checkout import Checkout, said
from local_supabase import Database, LocalSupabase
from projects import one
from step_runner import Connection, deploy

RUN = ("run_migration.py", "db/orders.sql")
FILE = "-- rebuild: public.orders\nalter table orders add column status text default 'open' not null;\n"
TABLE = "create table public.orders (id integer primary key, name text)"
ROWS = "insert into public.orders select n, repeat('x', 300) from generate_series(1, 20000) as n"
SLOT = "the_subscriber_of_orders"


@pytest.fixture
def orders(admin: Connection, checkout: Checkout) -> Connection:
    """A database with the functions and the table, and the file that rebuilds it."""
    deploy(admin)
    admin.execute(TABLE)
    (checkout.root / RUN[1]).write_text(FILE)
    return admin


@pytest.fixture
def slot(database: Database) -> Iterator[str]:
    """A replication slot that nobody reads."""
    with database.connect("supabase_admin") as superuser:
        superuser.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [SLOT])
        yield SLOT
        superuser.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", [SLOT]
        )


def test_a_share_of_the_time(checkout: Checkout, orders: Connection, supabase: LocalSupabase) -> None:
    """It says that it pauses, and for how long in all; the swap is not kept waiting."""
    orders.execute(ROWS)
    done = checkout.run(*RUN, "--pace", "0.5", "--json", env=supabase.environment())
    report = json.loads(done.stdout)
    assert (done.returncode, report["outcome"]) == (0, "done")
    assert any("(--pace 0.5)" in note for note in report["notes"])
    assert report["held_back"] > 0
    assert "s of it pauses (--pace)" in "\n".join(report["lines"])
    said(checkout.run(*RUN, "--rollback", env=supabase.environment()), "is rolled back")
    at_full_speed = json.loads(checkout.run(*RUN, "--json", env=supabase.environment()).stdout)
    assert (at_full_speed["outcome"], "held_back" in at_full_speed) == ("done", False)


def test_until_a_slot_has_caught_up(
    checkout: Checkout, orders: Connection, supabase: LocalSupabase, slot: str, database: Database
) -> None:
    """It is named, and how far it is behind; nothing is half done, and the same command goes on."""
    orders.execute(ROWS)
    command = (*RUN, "--max-lag", "1", "--patience", "1")
    stopped = checkout.run(*command, env=supabase.environment())
    said(stopped, f"the replication slot {slot}, ", "MB behind, more than --max-lag allows", code=1)
    assert one(orders, "select to_regclass('rpc_migrations.orders') is null")
    with database.connect("supabase_admin") as superuser:
        superuser.execute("select pg_drop_replication_slot(%s)", [slot])
    said(checkout.run(*command, env=supabase.environment()), "is applied")


@pytest.mark.parametrize(
    "option", [("--pace", "0"), ("--pace", "1.5"), ("--pace", "half"), ("--max-lag", "0"), ("--max-lag", "nan")]
)
def test_what_means_nothing_is_refused(checkout: Checkout, option: tuple[str, str]) -> None:
    said(checkout.run(*RUN, *option), f"argument {option[0]}: '{option[1]}' is n", code=2)
