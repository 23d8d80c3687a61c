"""What foreign keys do to an application that deletes parents while their children's table is rebuilt, and afterwards."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from local_supabase import Database, create_old_table
from schema_dump import dump_schema
from step_runner import (
    DISCARD,
    GIVE_UP,
    ONE_AT_A_TIME,
    ROLLBACK,
    Connection,
    calls,
    deploy,
    read,
    rebuild_file,
    run,
    short_way,
)

USER = "00000000-0000-4000-8000-{:012d}".format
COLUMNS = "id integer not null, name text not null"
STEP_FILE = rebuild_file("orders", COLUMNS)
KEYS = "select c.conname, c.convalidated from pg_constraint as c where c.contype = 'f' and c.conrelid = %s::regclass order by 1"


@pytest.fixture
def orders(admin: Connection) -> Connection:
    """A connection to a database with customers a to e, and two orders of each."""
    deploy(admin, ONE_AT_A_TIME)
    admin.execute("create table public.customers (name text primary key)")
    admin.execute("create table public.orders (id integer primary key, name text not null)")
    admin.execute("insert into public.customers select unnest('{a,b,c,d,e}'::text[])")
    admin.execute("insert into public.orders select n, substr('abcde', 1 + n % 5, 1) from generate_series(1, 10) as n")
    return admin


def refer(connection: Connection, action: str = "", name: str = "orders_name_fkey") -> None:
    connection.execute(
        f"alter table public.orders add constraint {name} foreign key (name) references public.customers {action}"
    )


def rows(connection: Connection, table: str = "public.orders") -> list[tuple[int, str]]:
    return connection.execute(f"select id, name from {table} order by id").fetchall()


def delete_customer(connection: Connection, name: str) -> None:
    """As an application does that has to do it by itself: children first."""
    with connection.transaction():
        connection.execute("delete from public.orders where name = %s", [name])
        connection.execute("delete from public.customers where name = %s", [name])


@pytest.mark.parametrize(
    "after", ["begin the copy", "copy the rows", "gather statistics", "compare the old and the new table"]
)
def test_a_user_goes_during_the_shipped_migration(admin: Connection, after: str) -> None:
    """Whenever it happens, the deletion goes through, and so does the migration."""
    create_old_table(admin, rows=50)
    deploy(admin)
    text = read("migrate_user_clusters.sql")
    run(admin, text, until=after)
    admin.execute("delete from auth.users where id = %s", [USER(3)])
    run(admin, text)
    count = "select count(*), count(*) filter (where user_id = %s) from public.user_clusters"
    assert admin.execute(count, [USER(3)]).fetchone() == (40, 0)  # 50 rows of 5 users
    assert admin.execute(KEYS, ["public.user_clusters"]).fetchall() == [("user_clusters_user_id_fkey", True)]


ACTIONS = (
    "",
    "on delete restrict",
    "on delete set null",
    "on delete cascade",
    "deferrable initially deferred",
    "on update cascade",
)


@pytest.mark.parametrize("action", ACTIONS)
def test_parents_go_at_any_time(orders: Connection, database: Database, action: str) -> None:
    """Between any two calls, forward and back, a parent may go; the keys are as they were, afterwards, and hold."""
    refer(orders, action)
    orders.execute("insert into public.customers select 'x' || n from generate_series(1, 60) as n")
    orders.execute("insert into public.orders select 100 + n, 'x' || n from generate_series(1, 60) as n")
    before, number = dump_schema(database), 0
    for text in (STEP_FILE, read(ROLLBACK), STEP_FILE):
        for _ in calls(orders, text, shrink=9):
            number += 1
            delete_customer(orders, f"x{number}")
        assert dump_schema(database) == before
        assert rows(orders)[10:] == [(100 + n, f"x{n}") for n in range(number + 1, 61)]
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            orders.execute("insert into public.orders values (1000, 'nobody')")


def test_a_deletion_reaches_the_backup_through_a_cascade(orders: Connection) -> None:
    """A deleted parent's rows go from the table that was moved aside as well, forward and back."""
    refer(orders, "on delete cascade")
    run(orders, STEP_FILE)
    orders.execute("delete from public.customers where name = 'a'")
    assert rows(orders, "public.orders_backup") == rows(orders)
    made = run(orders, read(ROLLBACK))
    kept = next(call.answer["result"]["kept_as"] for call in made if (call.answer["result"] or {}).get("kept_as"))
    orders.execute("delete from public.customers where name = 'b'")
    assert len(rows(orders)) == 6
    assert rows(orders, kept) == rows(orders)


@pytest.mark.parametrize("change", ["rename to clients", "set schema shop"])
@pytest.mark.parametrize("back", [ROLLBACK, DISCARD])
def test_a_parent_is_renamed_while_the_original_is_aside(orders: Connection, change: str, back: str) -> None:
    """The keys that were removed from the original table follow it, as those of the table in use do."""
    refer(orders)
    run(orders, STEP_FILE)
    orders.execute(f"create schema shop; alter table public.customers {change}".encode())
    assert orders.execute("select rpc_migrations.altered_since(c) from rpc_migrations.copies as c").fetchone() == (
        None,
    )
    run(orders, read(back))
    assert orders.execute(KEYS, ["public.orders"]).fetchall() == [("orders_name_fkey", True)]
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        orders.execute("insert into public.orders values (11, 'z')")


def test_a_parent_that_was_rebuilt_is_renamed_while_the_original_is_aside(orders: Connection) -> None:
    """The keys do not follow the table that its own rebuild has moved aside."""
    refer(orders)
    run(orders, STEP_FILE)
    run(orders, rebuild_file("customers", "name text not null"), "customers")
    orders.execute("alter table public.customers rename to clients")
    with pytest.raises(psycopg.DatabaseError, match=r'relation "public.customers" does not exist'):
        run(orders, read(ROLLBACK))


def test_an_orphan_under_a_key_that_is_not_valid(orders: Connection, database: Database) -> None:
    """It may be changed and stays what it is; the key stays not valid."""
    orders.execute("insert into public.orders values (11, 'nobody')")
    refer(orders, "not valid")
    before = dump_schema(database)
    for text in (STEP_FILE, read(ROLLBACK)):
        for call in calls(orders, text):
            if call.answer["state"] == "done" and call.step in (
                "copy the rows",
                "compare",
                "roll back: compare the two tables",
            ):
                orders.execute("update public.orders set id = -id where name = 'nobody'")
        assert dump_schema(database) == before


@pytest.mark.parametrize("action", ["", "on delete cascade"])
def test_the_replay_does_not_meet_a_deletion(orders: Connection, database: Database, action: str) -> None:
    """A deletion under way, which holds the parent's row, is not waited for, nor does it wait for us."""
    refer(orders, action)
    with database.connect(options="-c lock_timeout=1s") as other:
        for text, at in ((STEP_FILE, "carry over"), (read(ROLLBACK), "roll back: find what changed since the swap")):
            run(orders, text, until=at)
            orders.execute("update public.orders set id = id + 100 where name in ('a', 'b')")
            other.execute(
                "begin; delete from public.orders where name = 'c'; delete from public.customers where name = 'c'"
            )
            states = [call.answer["state"] for call in run(orders, text, until=_after(text, at))]
            assert "waiting" not in states
            other.execute("rollback")
            run(orders, text)


def _after(text: str, step: str) -> str:
    """The step that follows another one."""
    return text.split(f"-- step: {step} (batch)")[1].split("-- step: ")[1].split(" (batch)", maxsplit=1)[0]


def test_the_replay_keeps_what_it_has_done(orders: Connection, database: Database) -> None:
    """Somebody holds one row of the new table: all others are replayed, and the answer says who it is."""
    run(orders, STEP_FILE, until="carry over")
    orders.execute("update public.orders set name = 'e'")
    with database.connect() as other:
        other.execute("begin; select from rpc_migrations.orders where id = 7 for update")
        step = calls(orders, STEP_FILE)
        answer = next(call.answer for call in step if call.answer["state"] == "waiting")
        assert other.info.backend_pid in [holder["pid"] for holder in answer["holders"]]
        done = orders.execute("select array_agg(id order by id) from rpc_migrations.orders where name = 'e'").fetchone()
        assert done is not None and set(done[0]) >= {1, 2, 3, 4, 5, 6}
        other.execute("rollback")
    run(orders, STEP_FILE)
    assert {name for _, name in rows(orders)} == {"e"}


# How people declare a key of the new table, and how it is called.
INLINE = STEP_FILE.replace(COLUMNS, f"{COLUMNS} constraint mine references public.customers")
ADDED = "alter table rpc_migrations.orders add constraint mine foreign key (name) references public.customers"
STEP = "\n-- step: {}\n{};\n\n-- step: replay (batch)"
DECLARED = {
    "inline": INLINE,
    "later": STEP_FILE.replace("\n-- step: replay (batch)", STEP.format("a key", ADDED)),
    "later, and validated": STEP_FILE.replace(
        "\n-- step: replay (batch)",
        STEP.format("a key", f"{ADDED} not valid;\n\n-- step: valid\nalter table rpc_migrations.orders validate constraint mine"),
    ),
    "renamed and described": INLINE.replace("constraint mine", "constraint other").replace(
        "\n-- step: replay (batch)",
        STEP.format("a name", "alter table rpc_migrations.orders rename constraint other to mine; "
                              "comment on constraint mine on rpc_migrations.orders is 'a key'"),
    ),
    "beside the old one": INLINE.replace("constraint mine", "constraint orders_name_fkey"),
}  # fmt: skip


@pytest.mark.parametrize("text", DECLARED.values(), ids=DECLARED)
def test_a_key_that_the_step_file_declares(orders: Connection, database: Database, text: str) -> None:
    """It is nowhere before the swap, holds from the swap on, and is valid in the end."""
    if "orders_name_fkey" in text:
        refer(orders)
    before = dump_schema(database)
    letters = iter("abcde" * 9)
    for call in calls(orders, text):
        if call.step in ("create the new table", "a key", "copy the rows", "compare", "swap"):
            name = next(letters)
            delete_customer(orders, name)
            orders.execute("insert into public.customers values (%s)", [name])
            orders.execute("insert into public.orders values (%s, %s)", (100 + ord(name), name))
        if call.step == "swap" and call.answer["state"] == "done":
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                orders.execute("insert into public.orders values (1000, 'nobody')")
    name = "orders_name_fkey" if "orders_name_fkey" in text else "mine"
    assert orders.execute(KEYS, ["public.orders"]).fetchall() == [(name, True)]
    run(orders, read(ROLLBACK))
    assert dump_schema(database) == before
    run(orders, text)
    assert orders.execute(KEYS, ["public.orders"]).fetchall() == [(name, True)]


# A key that is added by a statement of its own, and by statements that do something else as well, or may.
ALONE = {
    "not valid": f"{ADDED} not valid;",
    "valid": f"{ADDED};",
    "in capitals, with comments": f"-- who has ordered\n/* so far; more, later */ {ADDED.upper().replace('RPC_MIGRATIONS', 'rpc_migrations')}",
    "quoted": """alter table only "rpc_migrations"."orders" add constraint "a ""key""\" foreign key ("name") references public.customers""",
    "without a name": "alter table rpc_migrations.orders add foreign key (name) references public.customers (name) on delete set null",
    "deferred": f"{ADDED} deferrable initially deferred",
    "described": f"{ADDED} on delete cascade; -- as before, but for the cascade; it's new",
}
NOT_ALONE = {
    "two statements": f"{ADDED}; comment on table rpc_migrations.orders is 'all of it'",
    "two actions": f"{ADDED}, add constraint other check (true)",
    "another action before it": "alter table rpc_migrations.orders set (fillfactor = 70), add constraint mine foreign key (name) references customers",
    "another action after it": f"{ADDED}, set (fillfactor = 70)",
    "hidden by a name": 'alter table rpc_migrations.orders add constraint mine foreign key (name) references public."p(", owner to "x)"',
    "hidden by comments": f'{ADDED} -- 12" \n, set (fillfactor = 70) -- "',
    "another table": "alter table public.orders add constraint mine foreign key (name) references public.customers",
    "a column": "alter table rpc_migrations.orders add column other text references public.customers",
    "very long": ADDED + " " * 10_000,
}


@pytest.mark.parametrize("text", ALONE.values(), ids=ALONE)
def test_what_a_new_key_points_at_is_free_at_once(orders: Connection, database: Database, text: str) -> None:
    """Long before the commit; and the key is remembered all the same, and valid in the end."""
    run(orders, STEP_FILE, until="copy the rows")
    with orders.transaction():
        run(orders, f"-- step: a key\n{text}\n")
        with database.connect() as other:
            other.execute("set lock_timeout = '5s'; update public.customers set name = 'f' where name = 'a'")
            other.execute("delete from public.customers where name = 'f'; insert into public.customers values ('a')")
    run(orders, STEP_FILE)
    ((name, is_valid),) = orders.execute(KEYS, ["public.orders"]).fetchall()
    assert is_valid
    assert name in ("mine", 'a "key"', "orders_name_fkey")


def test_a_new_key_that_points_at_a_partitioned_table(orders: Connection) -> None:
    """It has others of its own, which point at the partitions."""
    orders.execute(
        "create table public.people (name text primary key) partition by list (name); "
        "create table public.people_rest partition of public.people default; "
        "create table public.people_a partition of public.people for values in ('a'); "
        "insert into public.people table public.customers"
    )
    run(orders, STEP_FILE, until="copy the rows")
    run(orders, f"-- step: a key\n{ADDED.replace('customers', 'people')};\n")
    run(orders, STEP_FILE)
    assert ("mine", True) in orders.execute(KEYS, ["public.orders"]).fetchall()
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        orders.execute("insert into public.orders values (1000, 'nobody')")


@pytest.mark.parametrize("text", NOT_ALONE.values(), ids=NOT_ALONE)
def test_a_statement_that_may_do_more_than_add_a_key(orders: Connection, text: str) -> None:
    """All that it does stays, so it is run as it is."""
    assert orders.execute("select rpc_migrations.adds_a_key(%s)", [text]).fetchone() == (False,)
    if "public.orders" in text or "x)" in text:
        return  # of the table in use, or of what is not there: no step of a rebuild
    run(orders, STEP_FILE, until="copy the rows")
    run(orders, f"-- step: a key\n{text}\n")
    run(orders, STEP_FILE)
    assert len(orders.execute(KEYS, ["public.orders"]).fetchall()) == 1
    done = "select obj_description('public.orders'::regclass), (select count(*) from pg_constraint where conname = 'other'), reloptions from pg_class where oid = 'public.orders'::regclass"
    comment, checks, options = orders.execute(done).fetchone() or ()
    assert (comment is not None, checks, options is not None) == (
        "comment" in text, int("check" in text), "fillfactor" in text
    )  # fmt: skip


def test_a_new_key_waits_for_no_scan(orders: Connection) -> None:
    """Nor does what holds its place: both are not valid at first, however the step is written."""
    run(orders, STEP_FILE, until="copy the rows")
    run(orders, f"-- step: a key\n{ADDED};\n")
    query = "select contype, convalidated from pg_constraint where conname = 'mine'"
    assert orders.execute(query).fetchall() == [("c", False)]


def test_rows_without_a_parent_stop_the_step_that_adds_the_key(orders: Connection) -> None:
    """As ALTER TABLE would, but before anything is locked; rows that wait to be replayed are none."""
    run(orders, STEP_FILE, until="copy the rows")
    delete_customer(orders, "b")  # the copy still has its orders
    orders.execute("delete from public.customers where name = 'c'")
    with pytest.raises(psycopg.Error, match="this query finds them") as caught:
        run(orders, f"-- step: a key\n{ADDED};\n")
    assert caught.value.sqlstate == "RM001"
    query = str(caught.value).split("finds them: ")[1].split("\n")[0]
    assert {name for _, name in orders.execute(query).fetchall()} == {"c"}
    orders.execute("delete from public.orders where name = 'c'")
    run(orders, f"-- step: a key\n{ADDED};\n")
    run(orders, STEP_FILE)
    assert orders.execute(KEYS, ["public.orders"]).fetchall() == [("mine", True)]


@pytest.mark.parametrize("rights", ["references", "references, select"])
def test_parents_that_we_may_not_read(orders: Connection, database: Database, rights: str) -> None:
    """Nobody but PostgreSQL can tell whether a row has one; it does in the last step."""
    with database.connect("supabase_admin") as admin:
        admin.execute(
            "create table public.theirs (name text primary key); insert into public.theirs table public.customers"
        )
        admin.execute(
            f"grant {rights} on public.theirs to postgres; alter table public.theirs enable row level security"
        )
        run(orders, STEP_FILE, until="copy the rows")
        admin.execute("alter role postgres nobypassrls")
        try:
            run(orders, f"-- step: a key\n{ADDED.replace('customers', 'theirs')};\n")
        finally:
            admin.execute("alter role postgres bypassrls")
        run(orders, STEP_FILE)
    assert ("mine", True) in orders.execute(KEYS, ["public.orders"]).fetchall()


@pytest.mark.parametrize("text", ["references public.nowhere", "references public.customers (", "references"])
def test_a_new_key_that_is_wrong(orders: Connection, text: str) -> None:
    """Its error is that of the statement as it was written."""
    run(orders, STEP_FILE, until="copy the rows")
    statement = f"{ADDED.split(' references', maxsplit=1)[0]} {text}"
    with pytest.raises(psycopg.Error) as caught:
        run(orders, f"-- step: a key\n{statement}\n")
    with pytest.raises(psycopg.Error) as expected:
        orders.execute(statement)
    assert (caught.value.sqlstate, caught.value.diag.message_primary) == (
        expected.value.sqlstate, expected.value.diag.message_primary,
    )  # fmt: skip


def test_a_declared_key_can_be_taken_back(orders: Connection) -> None:
    text = INLINE.replace(
        "\n-- step: replay (batch)", STEP.format("no key", "alter table rpc_migrations.orders drop constraint mine")
    )
    run(orders, text)
    assert orders.execute(KEYS, ["public.orders"]).fetchall() == []


def test_a_declared_key_can_be_taken_back_and_declared_again(orders: Connection) -> None:
    again = STEP.format("another key", f"{ADDED} on delete cascade;").removesuffix(";\n\n-- step: replay (batch)")
    text = INLINE.replace(
        "\n-- step: replay (batch)",
        STEP.format("no key", f"alter table rpc_migrations.orders drop constraint mine;\n{again}"),
    )
    run(orders, text)
    query = "select pg_get_constraintdef(oid) from pg_constraint where conname = 'mine'"
    ((definition,),) = orders.execute(query).fetchall()
    assert definition.endswith("ON DELETE CASCADE")


def test_a_declared_key_where_there_was_no_table(orders: Connection) -> None:
    text = INLINE.replace("orders", "bills")
    run(orders, text)
    assert orders.execute(KEYS, ["public.bills"]).fetchall() == [("mine", True)]
    orders.execute("insert into public.bills values (1, 'a')")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        orders.execute("insert into public.bills values (2, 'nobody')")


@pytest.mark.parametrize("until", ["begin the copy", "copy the rows", "carry over", "compare"])
def test_a_key_that_an_older_version_has_made(orders: Connection, until: str) -> None:
    """A migration that was half done when this version came finds a key on the new table, and goes on without it."""
    run(orders, STEP_FILE, until=until)
    orders.execute(ADDED)
    refer(orders, name="mine")
    orders.execute(
        "update rpc_migrations.copies set definition = rpc_migrations.table_definition('public.orders'::regclass)"
    )
    for call in calls(orders, STEP_FILE):
        if not call.answer.get("already") and call.answer["state"] == "done":
            delete_customer(orders, "abcde"[hash(call.step) % 5])
    assert orders.execute(KEYS, ["public.orders"]).fetchall() == [("mine", True)]


def test_a_key_of_an_older_version_beside_a_new_one(orders: Connection) -> None:
    run(orders, STEP_FILE, until="copy the rows")
    orders.execute(ADDED.replace("mine", "older"))
    run(orders, f"-- step: a key\n{ADDED}\n")
    run(orders, STEP_FILE)
    assert orders.execute(KEYS, ["public.orders"]).fetchall() == [("mine", True), ("older", True)]


def test_discarding_changes_may_bring_orphans_back(orders: Connection) -> None:
    """The key stays not valid then, and the query that finds the rows is told; the rollback is done all the same."""
    refer(orders)
    run(orders, STEP_FILE)
    delete_customer(orders, "b")
    made = run(orders, read(DISCARD))
    assert orders.execute(KEYS, ["public.orders"]).fetchall() == [("orders_name_fkey", False)]
    (message,) = [call.answer["result"]["message"] for call in made if "this query" in str(call.answer)]
    assert "orders_name_fkey" in message
    assert orders.execute(message.split("finds: ")[1]).rowcount == 2


def test_rows_without_a_parent_stop_the_last_step(orders: Connection) -> None:
    """A key that the old table did not have meets an orphan: everything else is done, and the query that finds it is told."""
    orders.execute("insert into public.orders values (11, 'nobody')")
    with pytest.raises(psycopg.Error, match="this query finds") as caught:
        run(orders, INLINE)
    assert caught.value.sqlstate == "RM001"
    query = str(caught.value).split("finds: ")[1].split("\n")[0]
    assert orders.execute(query).fetchall() == [(11, "nobody")]
    orders.execute(query.replace("select *", "delete"))
    run(orders, INLINE)
    assert orders.execute(KEYS, ["public.orders"]).fetchall() == [("mine", True)]


def test_locks_are_asked_for_in_order(orders: Connection, database: Database) -> None:
    """Dependents, then parents, then the table itself: while one is waited for, those that come later are free."""
    deploy(orders, (("least(left_ms, greatest(20,", "least(left_ms, greatest(20000,"),))
    orders.execute("set search_path = ''")  # so that all names are told with their schema
    refer(orders)
    orders.execute("create table public.parts (id integer primary key, order_id integer references public.orders)")
    run(orders, STEP_FILE, until="compare")
    places = {
        "public.parts": set(),
        "public.customers": {"public.parts"},
        "public.orders": {"public.parts", "public.customers"},
    }
    for table, held in places.items():
        with database.connect() as other, database.connect(options="-c rpc_migrations.lock_budget=60000") as swapping:
            other.execute(f"begin; lock table {table} in access share mode")
            swap = threading.Thread(target=lambda connection=swapping: run(connection, STEP_FILE))
            swap.start()
            try:
                assert held_while_waiting(orders, swapping.info.backend_pid, table) == held
            finally:
                other.execute("rollback")
                swap.join()
        run(orders, read(ROLLBACK))
        run(orders, STEP_FILE, until="compare")


def held_while_waiting(connection: Connection, pid: int, table: str) -> set[str]:
    """What a session holds in a mode that readers or writers feel, once it waits for a table."""
    locks = "select relation::regclass::text, granted from pg_locks where pid = %s and locktype = 'relation' and mode ~ '(Exclusive|ShareRow)'"
    deadline = time.monotonic() + 30
    while (table, False) not in connection.execute(locks, [pid]).fetchall():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return {
        name for name, granted in connection.execute(locks, [pid]).fetchall() if granted and name.startswith("public.")
    }


@contextmanager
def sign_ups(admin: Connection, database: Database) -> Iterator[None]:
    """Customers come all the time, and a trigger makes an order of each: a transaction has first the one table, then the other."""
    admin.execute(
        "create function public.sign_up() returns trigger language plpgsql as $$ begin "
        "insert into public.orders select 1 + coalesce(max(id), 0), new.name from public.orders; return null; end $$; "
        "create trigger sign_up after insert on public.customers for each row execute function public.sign_up()"
    )
    over = threading.Event()

    def sign_up() -> None:
        with database.connect() as connection:
            while not over.wait(0.01):
                connection.execute("insert into public.customers select gen_random_uuid()")

    thread = threading.Thread(target=sign_up)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_rollback_begins_while_parents_bring_their_children(orders: Connection, database: Database) -> None:
    """It locks both tables before it does what takes time: else whoever has the parent by then would wait for the child, and it for the parent."""
    slow = "enable always trigger rpc_migrations_capture_truncate', source);\n"
    deploy(orders, ((slow, f"{slow}    perform pg_sleep(0.2);\n"),))
    refer(orders, "on delete cascade")
    run(orders, STEP_FILE)
    states = []
    with sign_ups(orders, database):
        for call in calls(orders, read(ROLLBACK)):
            states.append(call.answer["state"])
            if states[-1] == "done" or len(states) == 15:
                break
    assert states[-1] == "done"
    run(orders, read(ROLLBACK))
    without = (
        "select from public.customers as c where not exists (select from public.orders as o where o.name = c.name)"
    )
    assert orders.execute(without).fetchall() == []


def test_an_attempt_past_its_budget_is_undone(orders: Connection, database: Database) -> None:
    """It catches up and is tried again; how many there were, and the longest, can be asked for."""
    refer(orders)
    run(orders, STEP_FILE, until="compare")
    orders.execute("set rpc_migrations.lock_budget = 0")
    before = dump_schema(database)
    answers = [call.answer for call, _ in zip(calls(orders, STEP_FILE), range(14), strict=False)]
    assert answers[-1]["state"] == "waiting"
    assert "longer than 0 ms" in answers[-1]["result"]["message"]
    assert dump_schema(database) == before
    orders.execute("update public.orders set name = 'a' where id = 1")
    orders.execute("reset rpc_migrations.lock_budget")
    made = run(orders, STEP_FILE)
    (message,) = [call.answer["result"]["message"] for call in made if "original one" in str(call.answer)]
    assert "attempts, the longest of" in message
    status = orders.execute("select rpc_migrations.status('test') -> 'copy'").fetchone()
    assert status is not None and status[0]["attempts"] > 3 and status[0]["longest_attempt"] > 0
    assert rows(orders)[0] == (1, "a")


@pytest.fixture
def pets(admin: Connection, database: Database) -> Connection:
    """A connection to a database whose foreign key finds owners whatever the case of their names; an owner of each pet is there."""
    with database.connect("supabase_admin") as superuser:
        if superuser.execute("select from pg_available_extensions where name = 'citext'").fetchone() is None:
            pytest.skip("no citext")
        superuser.execute("create extension citext schema extensions")
    deploy(admin)
    admin.execute(
        "create table public.owners (name extensions.citext primary key); insert into public.owners values ('ANN'), ('BOB')"
    )
    admin.execute("create table public.pets (id integer primary key, owner extensions.citext)")
    admin.execute("insert into public.pets values (1, 'ann'), (2, 'bob')")
    return admin


def test_who_is_an_orphan_is_decided_by_the_key(pets: Connection) -> None:
    """A rollback that is given up deletes from the backup those rows alone whose parent is gone."""
    pets.execute("alter table public.pets add foreign key (owner) references public.owners on delete cascade")
    run(pets, rebuild_file("pets", "like public.pets, more text"))
    run(pets, read(ROLLBACK), until="roll back: begin")
    pets.execute("delete from public.owners where name = 'bob'")
    run(pets, read(GIVE_UP))
    assert pets.execute("select id from public.pets_backup").fetchall() == [(1,)]


def test_a_key_that_is_added_decides_what_it_allows(pets: Connection, tmp_path: Path) -> None:
    """Rows that have a parent are no reason to refuse it; one that has none is."""
    text = short_way(
        tmp_path / "pets.sql", "public.pets", "alter table pets add foreign key (owner) references owners;"
    )
    pets.execute(  # the last one is in no sample
        "insert into public.pets select n, 'ann' from generate_series(10, 1500) as n; insert into public.pets values (3, 'nobody')"
    )
    with pytest.raises(psycopg.Error, match="the constraint pets_owner_fkey is violated by 1 row"):
        run(pets, text)
    pets.execute("delete from public.pets where id = 3")
    run(pets, text)
    assert pets.execute(KEYS, ["public.pets"]).fetchall() == [("pets_owner_fkey", True)]


# --- the order in which they act

# Foreign keys that act one after the other when a user goes: in the order in which they were made, which is not that of their names.
# Whoever is on both sides of a message goes with it only where the cascade comes first.
MESSAGES = {
    "cascade, restrict": (
        "sender integer constraint messages_sender_fkey references public.users on delete cascade, "
        "recipient integer not null constraint messages_recipient_fkey references public.users on delete restrict"
    ),
    "cascade, set null": (
        "sender integer constraint who references public.users on delete cascade, "
        "recipient integer not null constraint the_other references public.users on delete set null"
    ),
    "set null, cascade, restrict, cascade": (
        "sender integer constraint z references public.users on delete set null, "
        "recipient integer not null constraint y references public.users on delete cascade, "
        "reader integer constraint x references public.users on delete restrict, "
        "writer integer constraint w references public.users on delete cascade"
    ),
}
MESSAGES_FILE = rebuild_file("messages", "like public.messages")
FIRING = (
    "select k.conrelid::regclass || ' ' || k.conname from pg_trigger as t inner join pg_constraint as k on k.oid = t.tgconstraint "
    "where t.tgrelid = %s::regclass and t.tgtype & 8 <> 0 and k.conrelid::regclass::text !~ '(backup|rolled_back)' "
    "order by t.tgname"
)


def rebuild_messages(tmp_path: Path, way: str) -> str:
    """A file that rebuilds the table of messages."""
    if way == "line":
        return short_way(
            tmp_path / "messages.sql", "public.messages", "alter table public.messages set (fillfactor = 77);"
        )
    if way == "steps":
        return MESSAGES_FILE
    return rebuild_file(
        "messages",
        "like public.messages, constraint {} foreign key ({}) references public.users {}".format(*way.split(":")),
    )


def make_messages(connection: Connection, columns: str) -> list[str]:
    """The table of messages, with a row for each user; the order of its keys."""
    deploy(connection)
    connection.execute(
        "create table public.users (id integer primary key); insert into public.users select generate_series(1, 9)"
    )
    connection.execute(f"create table public.messages (id integer primary key, {columns})")
    connection.execute("insert into public.messages select 10 * n, n, n from generate_series(1, 9) as n")
    return firing(connection)


def firing(connection: Connection, table: str = "public.users") -> list[str]:
    """The foreign keys of tables in use, in the order in which they act when a row of that table goes."""
    return [row[0] for row in connection.execute(FIRING, [table]).fetchall()]


@pytest.mark.parametrize("way", ["line", "steps"])
@pytest.mark.parametrize("columns", MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("back", [ROLLBACK, DISCARD])
def test_keys_act_in_the_order_in_which_they_did(
    admin: Connection, tmp_path: Path, columns: str, way: str, back: str
) -> None:
    before = make_messages(admin, columns)
    text = rebuild_messages(tmp_path, way)
    deletes = "reader" not in columns
    for number, file in enumerate((text, read(back), text, read(back)), 1):
        run(admin, file)
        assert firing(admin) == before
        if deletes and back == ROLLBACK:
            admin.execute("delete from public.users where id = %s", [number])
    not_valid = "select conname from pg_constraint where contype = 'f' and not convalidated"
    assert admin.execute(not_valid).fetchall() == []
    assert admin.execute("select count(*) from public.users where id > 4").fetchone() == (5,)
    if deletes:
        admin.execute("delete from public.users where id = 9")


@pytest.mark.parametrize("name", ["messages_sender_fkey", "messages_recipient_fkey"])
def test_keys_that_a_step_declares_act_in_the_old_order(admin: Connection, tmp_path: Path, name: str) -> None:
    """Whichever of them is declared and whichever is carried over; under another name as well."""
    before = make_messages(admin, MESSAGES["cascade, restrict"])
    column, action = {"s": ("sender", "on delete cascade"), "r": ("recipient", "on delete restrict")}[name[9]]
    for new_name in (name, f"a_{name}", f"z_{name}"):
        run(admin, rebuild_messages(tmp_path, f"{new_name}:{column}:{action}"))
        assert firing(admin) == [key.replace(name, new_name) for key in before]
        admin.execute("delete from public.users where id = (select min(id) from public.users)")
        run(admin, read(ROLLBACK))
        assert firing(admin) == before


def test_new_keys_act_in_the_order_in_which_they_are_declared(admin: Connection) -> None:
    """After those that the table has."""
    before = make_messages(admin, MESSAGES["cascade, restrict"])
    key = "constraint {} foreign key (sender) references public.users on delete set null not valid"
    more = "".join(
        f"\n-- step: {name}\nalter table rpc_migrations.messages add {key.format(name)};\n" for name in ("zz", "aa")
    )
    run(admin, rebuild_file("messages", "like public.messages", more))
    assert firing(admin) == [*before, "messages zz", "messages aa"]


def test_an_added_key_acts_last_as_alter_table_has_it(admin: Connection, tmp_path: Path) -> None:
    """Also where it was dropped in the same statement."""
    before = make_messages(admin, MESSAGES["cascade, restrict"])
    text = "alter table public.messages drop constraint messages_sender_fkey, add constraint a foreign key (id) references users not valid"
    text += ", add constraint messages_sender_fkey foreign key (sender) references users;"
    run(admin, short_way(tmp_path / "messages.sql", "public.messages", text))
    assert firing(admin) == ["messages messages_recipient_fkey", "messages a", "messages messages_sender_fkey"]
    run(admin, read(ROLLBACK))
    assert firing(admin) == before


def test_keys_act_in_order_after_a_rollback_that_was_given_up(admin: Connection, tmp_path: Path) -> None:
    """The backup's keys that delete its rows were made anew by that."""
    before = make_messages(admin, MESSAGES["set null, cascade, restrict, cascade"])
    run(admin, rebuild_messages(tmp_path, "line"))
    run(admin, read(ROLLBACK), until="roll back: begin")
    run(admin, read(GIVE_UP))
    run(admin, read(ROLLBACK))
    assert firing(admin) == before


@pytest.mark.parametrize("way", ["line", "steps"])
def test_keys_that_point_at_the_table_act_in_their_order(admin: Connection, tmp_path: Path, way: str) -> None:
    """Those of other tables and its own, among each other."""
    make_messages(admin, MESSAGES["cascade, restrict"])
    admin.execute("create table public.parts (id integer primary key, message integer, again integer not null)")
    for table, name, column, action in (
        ("parts", "z", "message", "cascade"),
        ("messages", "y", "sender", "set null"),
        ("parts", "x", "again", "restrict"),
        ("parts", "a", "again", "cascade"),
        ("messages", "b", "recipient", "no action"),
    ):
        admin.execute(
            f"alter table public.{table} add constraint {name} foreign key ({column}) references public.messages "
            f"on delete {action} not valid"
        )
    before = firing(admin, "public.messages")
    assert [key.split()[1] for key in before] == ["z", "y", "x", "a", "b"]
    for text in (rebuild_messages(tmp_path, way), read(ROLLBACK)):
        run(admin, text)
        assert firing(admin, "public.messages") == before


def test_keys_whose_oids_have_more_digits_act_first(admin: Connection, database: Database, tmp_path: Path) -> None:
    """PostgreSQL orders them by a name that ends in a number: "100000" comes before "20000", and it stays so."""
    make_messages(admin, "sender integer, recipient integer not null")
    with database.connect("supabase_admin") as superuser:
        for name, column, action in (("old", "sender", "restrict"), ("new", "recipient", "cascade")):
            superuser.execute(
                f"alter table public.messages add constraint {name} foreign key ({column}) references public.users on delete {action}"
            )
        superuser.execute(
            "set allow_system_table_mods = on; update pg_trigger set tgname = regexp_replace(tgname, '\\d+$', '9' || '\\&') "
            "where tgconstraint = (select oid from pg_constraint where conname = 'old')"
        )
    before = firing(admin)
    assert before == ["messages new", "messages old"]
    for text in (rebuild_messages(tmp_path, "line"), read(ROLLBACK)):
        run(admin, text)
        assert firing(admin) == before
        admin.execute("delete from public.users where id = (select min(id) from public.users)")


TEAMS = """
create table public.teams (id integer primary key, org {type} not null references {orgs} on delete cascade);
create table public.members (id integer primary key, org {type} not null constraint members_org_fkey references {orgs} on delete cascade);
create table public.tasks (
    id integer primary key, team integer not null references public.teams on delete cascade, member integer not null references public.members {action}
);
insert into public.teams values (1, {one}); insert into public.members values (1, {one}); insert into public.tasks values (1, 1, 1);
"""
ORGS = {
    "a table of ours": (
        "public.orgs",
        "integer",
        "1",
        "create table public.orgs (id integer primary key); insert into public.orgs values (1)",
    ),
    "a table of others": (
        "auth.users",
        "uuid",
        f"'{uuid.UUID(int=1)}'",
        f"insert into auth.users (id) values ('{uuid.UUID(int=1)}')",
    ),
}


@pytest.mark.parametrize("action", ["", "on delete restrict", "on delete set null"])
@pytest.mark.parametrize(("orgs", "type_", "one", "made"), ORGS.values(), ids=ORGS)
def test_a_deletion_that_another_table_would_refuse(
    admin: Connection, tmp_path: Path, orgs: str, type_: str, one: str, made: str, action: str
) -> None:
    """Its key acts after those of other tables to the same parent, made anew: what that does to a deletion is told, with the way out."""
    deploy(admin)
    admin.execute(made.encode())
    admin.execute(TEAMS.format(orgs=orgs, type=type_, one=one, action=action).encode())
    there = short_way(tmp_path / "teams.sql", "public.teams", "alter table public.teams add column name text")
    for text, begin in ((there, "begin the copy"), (read(ROLLBACK), "roll back: begin")):
        told = str(run(admin, text, until=begin)[-1].answer)
        assert f"a deletion in {orgs} may be refused" in told
        (way_out,) = re.findall(
            r"alter table public.members drop constraint members_org_fkey, add .*? on delete cascade",
            told,
            re.IGNORECASE,
        )
        run(admin, text)
        admin.execute(way_out.encode())
        with admin.transaction(force_rollback=True):
            admin.execute(f"delete from {orgs} where id = {one}".encode())
            assert rows_of_all(admin) == (0, 0, 0)


@pytest.mark.parametrize("table", ["members", "tasks"])
@pytest.mark.parametrize("action", ["", "on delete cascade", "on delete set null", "deferrable initially deferred"])
def test_a_deletion_that_nobody_refuses(admin: Connection, tmp_path: Path, table: str, action: str) -> None:
    """Nothing is told where the other order is all the same."""
    deploy(admin)
    orgs, type_, one, made = ORGS["a table of ours"]
    admin.execute(made.encode())
    admin.execute(TEAMS.format(orgs=orgs, type=type_, one=one, action=action).encode())
    if action:
        admin.execute("alter table public.tasks alter member drop not null")
        table = "teams"
    text = short_way(tmp_path / "more.sql", f"public.{table}", f"alter table public.{table} add column name text")
    assert "may be refused" not in str(run(admin, text))
    admin.execute(f"delete from {orgs} where id = {one}".encode())
    assert rows_of_all(admin) == (0, 0, 0)


def rows_of_all(connection: Connection) -> tuple[int, ...] | None:
    """How many rows the three tables have."""
    return connection.execute(
        "select (select count(*) from public.teams), (select count(*) from public.members), (select count(*) from public.tasks)"
    ).fetchone()
