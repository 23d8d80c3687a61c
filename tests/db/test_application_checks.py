"""Rules for single rows and pairs of them, where the application writes while a table is rebuilt: a check that a row held to when it was
written and holds to no more (what has expired), one that the new table alone has, and an exclusion constraint.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from local_supabase import Database
from projects import one
from schema_dump import dump_schema
from step_runner import ROLLBACK, Connection, calls, deploy, read, rebuild_file, run, short_way

# A check that looks at the clock, and one that looks into another table; how a row is written that will break it, and what breaks those.
PASSING = {
    "a time": ("check (ends_at > now())", "now() + interval '0.2 s'", "select pg_sleep(0.3)"),
    "another table": (
        "check (public.is_open(name))",
        "now() + interval '1 day'",
        "delete from public.open where name = 'brief'",
    ),
}
VALID = "select c.convalidated from pg_constraint as c where c.conname = 'in_time' and c.conrelid = 'public.offers'::regclass"
COLUMN = "alter table public.offers add column note text default 'none' not null"


@pytest.fixture
def offers(admin: Connection, check: str) -> Connection:
    """A connection to a database with twenty offers that hold to the check."""
    deploy(admin)
    admin.execute(
        "create table public.open (name text primary key); insert into public.open values ('long'), ('brief'); "
        "create function public.is_open(text) returns boolean language sql stable as $$ select exists (select from public.open as o where o.name = $1) $$; "
        "create table public.offers (id integer primary key, name text default 'long', ends_at timestamptz default now() + interval '1 day')"
    )
    admin.execute(f"alter table public.offers add constraint in_time {check}".encode())
    admin.execute("comment on constraint in_time on public.offers is 'not over'")
    admin.execute("insert into public.offers select n from generate_series(1, 20) as n")
    return admin


def offer(connection: Connection, number: int, ends_at: str) -> None:
    """Write a row that holds to the check for a moment."""
    connection.execute("insert into public.open values ('brief') on conflict do nothing")
    connection.execute(f"insert into public.offers values ({number}, 'brief', {ends_at})".encode())


def rows(connection: Connection) -> list[str]:
    """All rows, without the new column."""
    return [
        row[0] for row in connection.execute("select (to_jsonb(o) - 'note')::text from public.offers as o order by id")
    ]


@pytest.mark.parametrize("way", ["short", "long"])
@pytest.mark.parametrize(("check", "ends_at", "later"), PASSING.values(), ids=PASSING)
def test_rows_that_held_to_a_check(
    offers: Connection, database: Database, tmp_path: Path, ends_at: str, later: str, way: str
) -> None:
    """They are carried over, with the check, which holds for new rows as before; it is not valid, as any that was made now. Back as well."""
    before = dump_schema(database)
    offer(offers, 21, ends_at)
    offers.execute(later.encode())
    expected = rows(offers)
    steps = {
        "short": short_way(tmp_path / "note.sql", "public.offers", COLUMN),
        "long": rebuild_file("offers", "id integer not null, name text, note text default 'none' not null"),
    }
    made = run(offers, steps[way])
    assert any("check constraint in_time" in str(call.answer) and "not valid" in str(call.answer) for call in made)
    assert rows(offers) == expected
    assert one(offers, VALID) is False
    assert (
        one(offers, "select obj_description(oid) from pg_constraint where conname = 'in_time' and not convalidated")
        == "not over"
    )
    with pytest.raises(psycopg.errors.CheckViolation):
        offers.execute("insert into public.offers (id, name, ends_at) values (99, 'none', '2020-01-01')")

    run(offers, read(ROLLBACK))
    assert rows(offers) == expected
    assert dump_schema(database) == before


@pytest.mark.parametrize(("check", "ends_at", "later"), PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("stays", [True, False], ids=["stays", "goes"])
def test_a_row_that_breaks_its_check_before_it_is_replayed(
    offers: Connection, database: Database, tmp_path: Path, ends_at: str, later: str, stays: bool
) -> None:
    """At any time, there and back: it is replayed as it is, and the check is valid again if the row is gone at the end."""
    before = dump_schema(database)
    for turn, text in enumerate((short_way(tmp_path / "note.sql", "public.offers", COLUMN), read(ROLLBACK)), 1):
        for number, call in enumerate(calls(offers, text), 100 * turn):
            last = "swap the tables" in call.step
            if call.answer["state"] == "done" and not last and "validate" not in call.step:
                offer(offers, number, ends_at)
                offers.execute(later.encode())
            elif last and not stays:
                offers.execute("delete from public.offers where id > 20")
        assert one(offers, VALID) is not stays
        assert len(rows(offers)) > 25 if stays else len(rows(offers)) == 20
    if not stays:
        assert dump_schema(database) == before


@pytest.mark.parametrize(
    ("check", "change", "broken", "mended"),
    [
        ("check (true)", "add constraint early check (id < 1000)", "update public.offers set id = 5000 where id = 7", "update public.offers set id = 70 where id = 5000"),
        ("check (true)", "alter name set not null", "update public.offers set name = null where id = 7", "update public.offers set name = 'x' where id = 7"),
    ],
    ids=["a check", "not null"],
)  # fmt: skip
def test_a_row_that_the_new_table_cannot_hold(
    offers: Connection, tmp_path: Path, change: str, broken: str, mended: str
) -> None:
    """Written after the copy began, it is told with its key, and once it is mended the same command goes on."""
    text = short_way(tmp_path / "new.sql", "public.offers", f"alter table public.offers {change}")
    run(offers, text, until="gather statistics")
    offers.execute(broken.encode())
    offers.execute("update public.offers set name = 'other' where id = 8")
    with pytest.raises(psycopg.Error, match=r"does not fit: in the row with the key \((7|5000)\): ") as caught:
        run(offers, text)
    assert caught.value.sqlstate == "RM001"
    offers.execute(mended.encode())
    run(offers, text)
    assert "other" in str(rows(offers))


def test_rooms_that_are_exchanged(admin: Connection, tmp_path: Path) -> None:
    """What an exclusion constraint lets nobody have twice changes hands in more entries of the log than are replayed at once."""
    deploy(admin)
    admin.execute(
        "create table public.bookings (id integer primary key, room int4range, note text, exclude using gist (room with &&)); "
        "insert into public.bookings select n, int4range(n, n + 1) from generate_series(1, 50) as n"
    )
    there = short_way(tmp_path / "more.sql", "public.bookings", "alter table public.bookings add column more text")
    for text in (there, read(ROLLBACK)):
        for call in calls(admin, text, shrink=9):
            if "swap" not in call.step and "validate" not in call.step:
                admin.execute("update public.bookings set note = 'first' where id = 1")
                admin.execute("update public.bookings set note = 'more' where id > 10")
                admin.execute("update public.bookings set room = '[1000,1001)' where id = 2")
                admin.execute(
                    "update public.bookings set room = int4range(3 - lower(room), 4 - lower(room)) where id = 1"
                )
                admin.execute(
                    "update public.bookings as b set room = int4range(3 - lower(o.room), 4 - lower(o.room)) "
                    "from public.bookings as o where b.id = 2 and o.id = 1"
                )
        assert one(admin, "select count(distinct room) from public.bookings where lower(room) <= 50") == 50
