"""From every state there is a way on or a way back: what is in the way of a rollback is told before it begins, and one that has
begun can be given up.
"""

from __future__ import annotations

import psycopg
import pytest
from local_supabase import Database
from schema_dump import dump_schema
from step_runner import DISCARD, GIVE_UP, ROLLBACK, Connection, deploy, read, rebuild_file, run

THINGS = """
create table public.parents (id integer primary key); insert into public.parents select generate_series(1, 20);
create table public.things (
    id integer primary key, c varchar(5) unique, n integer, parent integer references public.parents on delete cascade
);
insert into public.things select n, 'c' || n, n, n from generate_series(1, 20) as n;
"""
THINGS_FILE = rebuild_file("things", "id integer not null, c text, n bigint, parent integer, extra text default 'x'")


@pytest.fixture
def things(admin: Connection) -> Connection:
    """A database in which public.things was rebuilt."""
    deploy(admin)
    admin.execute(THINGS)
    run(admin, THINGS_FILE)
    return admin


def no_trace_of_capture(connection: Connection) -> bool:
    """Whether nothing captures the changes of a table any more."""
    (triggers,) = connection.execute(
        "select count(*) from pg_trigger where tgfoid in (select oid from pg_proc where proname ~ '^capture_')"
    ).fetchone() or (None,)
    return bool(triggers == 0)


LOST_COLUMNS = {
    "dropped": ("alter table public.things drop column c", "column c of public.things is gone"),
    "renamed": ("alter table public.things rename column c to d", "column c of public.things is gone"),
    "the key is renamed": (
        "alter table public.things rename column id to number",
        "column id of public.things is gone",
    ),
    "of another type": (
        "alter table public.things alter column c type integer using substr(c, 2)::integer",
        "column c of public.things is integer now, and was text",
    ),
    "dropped from the backup": (
        "alter table public.things_backup drop column n",
        "column n of public.things_backup is gone",
    ),
}


@pytest.mark.parametrize(("statement", "message"), LOST_COLUMNS.values(), ids=LOST_COLUMNS)
def test_a_column_that_is_gone_stops_a_rollback_at_its_beginning(
    things: Connection, database: Database, statement: str, message: str
) -> None:
    """Nothing was changed; what was written since cannot come back, but the data as it was at the swap can."""
    things.execute(statement)
    before = dump_schema(database)
    with pytest.raises(psycopg.Error, match=message) as caught:
        run(things, read(ROLLBACK))
    assert caught.value.sqlstate == "RM001"
    assert "--discard-changes" in str(caught.value.diag.message_hint)
    assert dump_schema(database) == before
    assert no_trace_of_capture(things)
    made = run(things, read(DISCARD))
    assert message in made[0].answer["result"]["message"]
    assert things.execute("select max(c) from public.things").fetchone() == ("c9",)


def test_a_column_that_is_put_back_lets_it_go_on(things: Connection) -> None:
    """The way out that the message names."""
    things.execute("alter table public.things rename column c to d")
    with pytest.raises(psycopg.Error):
        run(things, read(ROLLBACK))
    things.execute("alter table public.things rename column d to c; update public.things set c = 'new' where id = 3")
    run(things, read(ROLLBACK))
    assert things.execute("select c from public.things where id = 3").fetchone() == ("new",)


DEPENDENTS = {
    "a view": ("create view public.extras as select extra from public.things", "view public.extras"),
    "a view of a wider type": ("create view public.extras as select n from public.things", "view public.extras"),
    "a policy of another table": (
        "create policy p on public.parents using (exists (select from public.things where extra = 'y'))",
        "policy of another table p on public.parents",
    ),
    "a foreign key": (
        "alter table public.things add unique (extra, id); "
        "create table public.others (e text, i integer, foreign key (e, i) references public.things (extra, id))",
        "foreign key to the table public.others others_e_i_fkey",
    ),
    "a function": (
        "create function public.extras() returns bigint language sql begin atomic select count(extra) from public.things; end",
        "function public.extras()",
    ),
}


@pytest.mark.parametrize("rollback", [ROLLBACK, DISCARD])
@pytest.mark.parametrize(("statement", "message"), DEPENDENTS.values(), ids=DEPENDENTS)
def test_what_does_not_go_with_the_original_table_stops_a_rollback_at_its_beginning(
    things: Connection, database: Database, statement: str, message: str, rollback: str
) -> None:
    things.execute(statement)
    before = dump_schema(database)
    with pytest.raises(psycopg.Error, match="cannot be rolled back") as caught:
        run(things, read(rollback))
    assert caught.value.sqlstate == "RM001"
    assert message in str(caught.value)
    assert "drop or change that" in str(caught.value.diag.message_hint)
    assert dump_schema(database) == before
    assert no_trace_of_capture(things)


def test_what_passes_is_no_reason_to_refuse_a_rollback(things: Connection) -> None:
    """A full disk is none of the database's objects, of which one could "drop or change that"."""
    full = "    raise exception 'no room' using errcode = 'disk_full';"
    deploy(things, [("    return rpc_migrations.exchange_back(copy);", full)])
    with pytest.raises(psycopg.Error, match="no room") as caught:
        run(things, read(DISCARD))
    assert caught.value.sqlstate == "53100"


LATER = {
    "a column is dropped": "alter table public.things drop column c",
    "a column is renamed": "alter table public.things rename column c to d",
    "a view on a new column": "create view public.extras as select extra from public.things",
    "nothing": "",
}
UNTIL = [
    "roll back: begin",
    "roll back: find what changed since the swap",
    "roll back: bring the changes into the original table",
    "roll back: compare the two tables",
]


@pytest.mark.parametrize("until", UNTIL)
@pytest.mark.parametrize("statement", LATER.values(), ids=LATER)
def test_a_rollback_that_has_begun_is_given_up(
    things: Connection, database: Database, statement: str, until: str
) -> None:
    """The migrated table stays, and is as if nobody had tried; the next rollback finds what it has to."""
    things.execute("update public.things set n = 100 where id = 7; insert into public.things values (77, 'new', 7, 7)")
    before = dump_schema(database)
    run(things, read(ROLLBACK), until=until)
    things.execute("delete from public.parents where id = 5")
    if statement:
        things.execute(statement.encode())
        with pytest.raises(psycopg.Error, match=r"extras|column c") as caught:
            run(things, read(ROLLBACK))
        assert "--give-up" in str(caught.value.diag.message_hint)
    run(things, read(GIVE_UP))
    assert no_trace_of_capture(things)
    assert things.execute("select count(*) from public.things_backup where id = 5").fetchone() == (0,)
    things.execute("delete from public.parents where id = 6")
    assert things.execute("select count(*) from public.things_backup where id = 6").fetchone() == (0,)
    if statement:
        undone = {"drop view": "drop view public.extras"}["drop view"] if "view" in statement else (
            "alter table public.things rename d to c" if "rename" in statement else "alter table public.things add c text"
        )  # fmt: skip
        things.execute(undone.encode())
    assert dump_schema(database) == before or "drop column" in statement
    run(things, read(ROLLBACK))
    assert things.execute("select count(*), max(n), max(id) from public.things").fetchone() == (19, 100, 77)
    run(things, THINGS_FILE)


def test_discarding_after_changes_came_into_the_original_table(things: Connection) -> None:
    """The data as it was at the swap is not to be had any more: refused. Keeping them goes on."""
    things.execute("update public.things set n = 100 where id = 7")
    run(things, read(ROLLBACK), until="roll back: bring the changes into the original table")
    run(things, read(GIVE_UP))
    with pytest.raises(psycopg.Error, match="has brought changes into") as caught:
        run(things, read(DISCARD))
    assert caught.value.sqlstate == "RM001"
    run(things, read(ROLLBACK))
    assert things.execute("select n from public.things where id = 7").fetchone() == (100,)


def test_discarding_is_given_up(things: Connection, database: Database) -> None:
    """One that discards the changes has touched nothing: it is given up, twice, and done after all."""
    before = dump_schema(database)
    for _ in range(2):
        run(things, read(DISCARD), until="roll back: count the changes to discard")
        run(things, read(GIVE_UP))
        assert dump_schema(database) == before
    run(things, read(GIVE_UP))
    run(things, read(DISCARD))
    assert dump_schema(database) != before


def test_a_temporary_view_of_another_session(things: Connection, database: Database) -> None:
    """Nobody else can make it anew, and it goes with its session: it is named, and after that both ways are free."""
    for text in (read(ROLLBACK), THINGS_FILE):
        with database.connect() as other:
            other.execute("create temporary view mine as select * from public.things")
            with pytest.raises(
                psycopg.Error, match=r"a temporary view of a session that is open: pg_temp_\d+\.mine"
            ) as caught:
                run(things, text)
            assert caught.value.sqlstate == "RM001"
            assert no_trace_of_capture(things)
        while things.execute("select from pg_class where relname = 'mine'").fetchall():
            pass  # the session goes
        run(things, text)
