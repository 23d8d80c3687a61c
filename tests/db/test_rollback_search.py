"""A rollback finds what was changed since the swap by the rows' xmin, and looks at every row where that would not be right."""

from __future__ import annotations

import pytest
from local_supabase import Database
from step_runner import ONE_AT_A_TIME, ROLLBACK, Connection, calls, deploy, read, rebuild_file, run
from test_rollback import contents

THINGS = """
create table public.things (id integer primary key, note text, score integer);
insert into public.things select n, 'n' || n, n % 3 from generate_series(1, 40) as n;
"""
FILE = rebuild_file("things", "id bigint not null, note text, score integer default 7, more text")
SHARED = "id, note, score"
SEARCH = "roll back: find what changed since the swap"


def migrate(admin: Connection, *, deployed: bool = False) -> None:
    """A table that was rebuilt, and is old enough that nothing about it is recent."""
    if not deployed:
        deploy(admin, ONE_AT_A_TIME)
        admin.execute(THINGS)
    run(admin, FILE)


def roll_back(admin: Connection, shrink: int = 0) -> int:
    """Roll back; answers how many changed rows the search has found."""
    return sum(call.answer["rows"] for call in calls(admin, read(ROLLBACK), shrink=shrink) if call.step == SEARCH)


WRITE = (
    "insert into public.things (id, note) values (100, 'new')",
    "update public.things set note = 'changed' where id in (7, 14)",
    "delete from public.things where id = 5",
)


def write(connection: Connection) -> None:
    """Change four rows."""
    for statement in WRITE:
        connection.execute(statement.encode())


SINCE: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "writes": WRITE,
    "frozen": (*WRITE, "vacuum (freeze) public.things"),
    "frozen before": ("vacuum (freeze) public.things", *WRITE),
    "rewritten": (*WRITE, "vacuum full public.things"),
    "clustered": (*WRITE, "cluster public.things using things_pkey"),
    "another column": ("alter table public.things add column extra text default 'x'", *WRITE),
    "all new": (
        "truncate public.things",
        "insert into public.things (id, note) values (1, 'n1'), (2, 'other'), (50, 'n50')",
    ),
    "a savepoint": (
        "do $$ begin begin update public.things set note = 'x' where id = 8; exception when others then end; end $$",
    ),
    "the backup was changed by hand": (
        "update public.things_backup set note = 'by hand' where id = 3",
        "delete from public.things_backup where id = 4",
        "insert into public.things_backup values (400, 'by hand', 1)",
    ),
    "columns that have changed their names": (
        "alter table public.things rename note to was_note",
        "alter table public.things rename more to note",
        "alter table public.things rename was_note to more",
    ),
    "a column that was dropped and made anew": (
        "alter table public.things drop column note, add column note text default 'again'",
    ),
}


@pytest.mark.parametrize("since", SINCE.values(), ids=SINCE)
def test_what_was_changed_since_the_swap_is_found(admin: Connection, since: tuple[str, ...]) -> None:
    migrate(admin)
    for statement in since:
        admin.execute(statement.encode())
    rows = contents(admin, "public.things", SHARED)
    roll_back(admin)
    assert contents(admin, "public.things", SHARED) == rows


def test_only_changed_rows_are_found(admin: Connection) -> None:
    migrate(admin)
    write(admin)
    assert roll_back(admin) == 4


def test_a_transaction_that_is_older_than_the_swap(admin: Connection, database: Database) -> None:
    """It has its number before the swap and changes the table after it, in a subtransaction as well."""
    migrate(admin)
    roll_back(admin)
    with database.connect() as other:
        with other.transaction():
            other.execute("create table public.elsewhere (id integer)")  # it has a number now, and no lock on the table
            migrate(admin, deployed=True)
            for _ in range(3):
                admin.execute("select pg_current_xact_id()")
            other.execute("update public.things set note = 'late' where id = 9")
            with other.transaction():
                other.execute("update public.things set note = 'later' where id = 10")
        rows = contents(admin, "public.things", SHARED)
        assert roll_back(admin) == 2
    assert contents(admin, "public.things", SHARED) == rows


@pytest.mark.parametrize(
    "mark", ["null", 'swap_mark || \'{"xmin": "9999999999999"}\''], ids=["none", "not of this server"]
)
def test_where_nothing_can_be_told_by_xmin_every_row_is_looked_at(admin: Connection, mark: str) -> None:
    """As after a migration by an older version, or when too many transactions have gone by since."""
    migrate(admin)
    admin.execute(f"update rpc_migrations.copies set swap_mark = {mark}".encode())
    write(admin)
    rows = contents(admin, "public.things", SHARED)
    assert roll_back(admin) == 4
    assert contents(admin, "public.things", SHARED) == rows


def test_a_search_that_took_too_long_begins_again_in_chunks(admin: Connection) -> None:
    """What runs into the statement timeout is sent again, for less at a time, and finds the same."""
    migrate(admin)
    write(admin)
    admin.execute("delete from public.things_backup where id = 20")
    rows = contents(admin, "public.things", SHARED)
    search = calls(admin, read(ROLLBACK))
    while next(search).step != SEARCH:
        pass
    roll_back(admin, shrink=9)
    assert contents(admin, "public.things", SHARED) == rows
