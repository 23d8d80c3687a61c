"""Somebody's hand in what is ours: tables dropped or renamed, rows deleted, a dump restored. It is noticed and named, and the way
out that the message names is one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from local_supabase import Database, create_old_table
from local_supabase.database import SUPERUSER
from schema_dump import dump_schema
from step_runner import DISCARD, GIVE_UP, ROLLBACK, Connection, deploy, read, rebuild_file, run, short_way
from test_ways_out import THINGS, THINGS_FILE, no_trace_of_capture


@pytest.fixture
def things(admin: Connection) -> Connection:
    """A database with public.things and execute_sql."""
    deploy(admin)
    admin.execute(THINGS)
    return admin


def test_the_step_that_made_the_new_table_is_edited(things: Connection, database: Database) -> None:
    """Another migration that rebuilds no table is in the journal, too."""
    run(things, "\n-- step: plain\ncreate table public.plain (id integer);\n", migration="plain")
    before = dump_schema(database)
    wrong = THINGS_FILE.replace("id integer not null", "id integer not null, must integer not null")
    with pytest.raises(psycopg.Error, match="must of the new table is not null"):
        run(things, wrong)
    made = run(things, read(ROLLBACK))
    assert made[0].answer["result"]["message"] == "the new table things was removed, and no other was changed"
    assert dump_schema(database) == before
    run(things, THINGS_FILE)


def test_a_new_table_of_another_migration_stays(things: Connection) -> None:
    """Each takes away its own."""
    run(things, rebuild_file("others", "id integer"), migration="others", until="create the new table")
    run(things, THINGS_FILE, until="create the new table")
    run(things, read(ROLLBACK))
    assert things.execute("select to_regclass('rpc_migrations.things'), to_regclass('rpc_migrations.others') is null").fetchone() == (None, False)  # fmt: skip


ROWS_DELETED = [
    "delete from rpc_migrations.journal where true",
    "delete from rpc_migrations.journal where step = 'one'",
    "truncate rpc_migrations.journal",
    "drop table rpc_migrations.journal",
]


@pytest.mark.parametrize("statement", ROWS_DELETED)
def test_a_step_that_deletes_rows_of_the_journal(things: Connection, statement: str) -> None:
    """It fails, and nothing of it remains: or it would run again."""
    text = f"\n-- step: one\nselect 1;\n-- step: two\ncreate table public.made (); {statement};\n"
    with pytest.raises(psycopg.Error):
        run(things, text)
    assert things.execute("select to_regclass('public.made'), count(*) from rpc_migrations.journal").fetchone() == (None, 1)  # fmt: skip


UNTIL = ["begin the copy", "copy the rows", "compare"]
# What somebody does in the middle of a copy, and what the migration says then.
IN_MID_COPY = {
    "the log is dropped": ("drop table rpc_migrations.log_1", "the log of changes rpc_migrations.log_1 was dropped"),
    "copies is emptied": ("delete from rpc_migrations.copies", r"rpc_migrations\.copies was deleted since"),
    "journal is emptied": ("delete from rpc_migrations.journal", "the journal has no steps of test"),
    "the new table is dropped": ("drop table rpc_migrations.things", "the new table was dropped"),
    "the new table is renamed": ("alter table rpc_migrations.things rename to other", ""),
    "the triggers are dropped": (
        "drop trigger rpc_migrations_capture on public.things",
        "its triggers were switched off",
    ),
}


@pytest.mark.parametrize("until", UNTIL)
@pytest.mark.parametrize(("statement", "message"), IN_MID_COPY.values(), ids=IN_MID_COPY)
def test_in_the_middle_of_a_copy(
    things: Connection, database: Database, statement: str, message: str, until: str
) -> None:
    """The migration says what is wrong; a rollback takes all away, and it can be run again."""
    before = dump_schema(database)
    run(things, THINGS_FILE, until=until)
    things.execute(statement.encode())
    if message:
        with pytest.raises(psycopg.Error, match=message):
            run(things, THINGS_FILE)
    made = run(things, read(ROLLBACK))
    assert "removed" in made[0].answer["result"]["message"]
    assert no_trace_of_capture(things)
    assert dump_schema(database) == before
    things.execute("insert into public.things values (30, 'new', 1, 1)")
    run(things, THINGS_FILE)


def test_copies_is_emptied_before_statistics(things: Connection, tmp_path: Path) -> None:
    """No other table is analyzed in its place."""
    text = short_way(tmp_path / "short.sql", "public.things", "alter table things add more text;")
    run(things, text, until="carry over constraints and indexes")
    things.execute("delete from rpc_migrations.copies")
    with pytest.raises(psycopg.Error, match=IN_MID_COPY["copies is emptied"][1]) as caught:
        run(things, text)
    assert caught.value.sqlstate == "RM005"


def test_an_extension_is_dropped_before_the_swap(things: Connection, tmp_path: Path) -> None:
    """Its index is gone from both tables; the new one was said to lack it."""
    things.execute("create extension pg_trgm schema extensions")
    things.execute("create index found on public.things using gin (c extensions.gin_trgm_ops)")
    text = short_way(tmp_path / "short.sql", "public.things", "alter table things add more text;")
    run(things, text, until="compare the old and the new table")
    things.execute("drop extension pg_trgm cascade")
    with pytest.raises(psycopg.Error, match=r"public\.things was altered since the copy began: index found"):
        run(things, text)


@pytest.mark.parametrize("until", UNTIL[1:])
def test_both_are_emptied(things: Connection, database: Database, until: str) -> None:
    """Nobody knows whose the new table is: it is not taken away, but named with the statement that does."""
    before = dump_schema(database)
    run(things, THINGS_FILE, until=until)
    things.execute("delete from rpc_migrations.journal; delete from rpc_migrations.copies")
    run(things, read(ROLLBACK))
    assert dump_schema(database) == before
    assert no_trace_of_capture(things)
    with pytest.raises(psycopg.errors.DuplicateTable) as caught:
        run(things, THINGS_FILE)
    statement = str(caught.value.diag.message_hint).partition("To remove it: ")[2]
    assert statement == "drop table rpc_migrations.things;"
    things.execute(statement.encode())
    run(things, THINGS_FILE)


# What is gone before the last step validates the foreign keys, of a migration or a rollback.
BEFORE_VALIDATION = {
    "a key": ("alter table public.parts drop constraint parts_thing_fkey", ""),
    "a table": ("drop table public.parts", ""),
    "the parent": ("drop table public.kinds cascade", ""),
    "the name of a table": ("alter table public.parts rename to pieces", ""),
    "a key, in a rollback": ("alter table public.things drop constraint things_kind_fkey", ROLLBACK),
    "a table, in a rollback": ("drop table public.parts", ROLLBACK),
}


@pytest.mark.parametrize(("statement", "file"), BEFORE_VALIDATION.values(), ids=BEFORE_VALIDATION)
def test_a_key_is_gone_before_it_is_validated(things: Connection, statement: str, file: str) -> None:
    """It was stuck for ever: the constraint, or its table, does not exist."""
    things.execute("create table public.kinds (id integer primary key)")
    things.execute("create table public.parts (thing integer references public.things)")
    things.execute("alter table public.things add column kind integer references public.kinds")
    text = THINGS_FILE.replace("c text", "c text, kind integer")
    run(things, text, until="" if file else "swap")
    if file:
        run(things, read(file), until="roll back: swap the tables back")
    things.execute(statement.encode())
    made = run(things, read(file) if file else text)
    is_told = "is gone (dropped or renamed since), and was not validated" in str([call.answer for call in made])
    assert is_told == ("rename" not in statement)  # that one is found
    left = things.execute(
        "select conname from pg_constraint where contype = 'f' and not convalidated and connamespace = 'public'::regnamespace"
    )
    assert left.fetchall() == []


def test_the_table_is_renamed_in_the_middle_of_a_rollback(things: Connection) -> None:
    """It is named, in place of what fails because of it."""
    run(things, THINGS_FILE)
    run(things, read(ROLLBACK), until="roll back: begin")
    things.execute("alter table public.things rename to other")
    with pytest.raises(
        psycopg.Error, match=r"public\.other was altered since .*: it was renamed or moved, and was public\.things"
    ):
        run(things, read(ROLLBACK))
    things.execute("alter table public.other rename to things")
    run(things, read(ROLLBACK))


IN_A_ROLLBACK = {
    "the log is dropped": ("drop table rpc_migrations.log_1", "the log of changes rpc_migrations.log_1 was dropped"),
    "the backup is dropped": ("drop table public.things_backup", "the original table was dropped"),
}


@pytest.mark.parametrize("until", ["roll back: begin", "roll back: compare the two tables"])
@pytest.mark.parametrize(("statement", "message"), IN_A_ROLLBACK.values(), ids=IN_A_ROLLBACK)
def test_in_the_middle_of_a_rollback(things: Connection, statement: str, message: str, until: str) -> None:
    """It is given up, as the message says; and begun anew where there is something to go back to."""
    run(things, THINGS_FILE)
    run(things, read(ROLLBACK), until=until)
    things.execute(statement.encode())
    with pytest.raises(psycopg.Error, match=message) as caught:
        run(things, read(ROLLBACK))
    assert "--give-up" in str(caught.value.diag.message_hint)
    run(things, read(GIVE_UP))
    assert no_trace_of_capture(things)
    things.execute("insert into public.things values (30, 'new', 1, 1)")
    if "backup" in statement:
        with pytest.raises(psycopg.Error, match="the original table is not at"):
            run(things, read(ROLLBACK))
    else:
        run(things, read(ROLLBACK))
        assert things.execute("select count(*) from public.things").fetchone() == (21,)


@pytest.mark.parametrize("until", ["copy the rows", "compare"])
def test_the_table_is_dropped_in_the_middle_of_a_copy(things: Connection, until: str) -> None:
    """The message named a number, as that of a table that was altered."""
    run(things, THINGS_FILE, until=until)
    things.execute("drop table public.things")
    with pytest.raises(psycopg.Error, match=r"public.things was dropped while it was being rebuilt"):
        run(things, THINGS_FILE)


@pytest.mark.parametrize("rollback", [ROLLBACK, DISCARD])
def test_the_backup_is_renamed_in_the_middle_of_a_rollback(things: Connection, rollback: str) -> None:
    """The message named what else is on the table, and said to drop that."""
    run(things, THINGS_FILE)
    until = "roll back: count the changes to discard" if rollback == DISCARD else "roll back: compare the two tables"
    run(things, read(rollback), until=until)
    things.execute("alter table public.things_backup rename to b")
    with pytest.raises(psycopg.Error, match=r"the original table is not at public.things_backup any more"):
        run(things, read(rollback))
    things.execute("alter table public.b rename to things_backup")
    run(things, read(rollback))


@pytest.mark.parametrize("until", ["roll back: begin", "roll back: compare the two tables"])
def test_the_table_is_dropped_in_the_middle_of_a_rollback(things: Connection, until: str) -> None:
    """The message told to roll back."""
    run(things, THINGS_FILE)
    run(things, read(ROLLBACK), until=until)
    things.execute("drop table public.things")
    with pytest.raises(psycopg.Error, match="was dropped while it was being rebuilt") as caught:
        run(things, read(ROLLBACK))
    made = run(things, read(GIVE_UP))
    assert made[0].answer["result"]["message"] == "the migrated table was dropped meanwhile"
    things.execute(str(caught.value.diag.message_hint).partition("use that table: ")[2].encode())
    assert things.execute("select count(*) from public.things").fetchone() == (20,)


@pytest.mark.parametrize("until", ["", "roll back: begin"])
def test_copies_is_emptied_after_the_swap(things: Connection, until: str) -> None:
    """The tables are named, and how to go back by hand; nothing captures changes for a rollback that is not known any more."""
    run(things, THINGS_FILE)
    if until:
        run(things, read(ROLLBACK), until=until)
    things.execute("delete from rpc_migrations.copies")
    message = "public.things is the new table, public.things_backup the original one"
    with pytest.raises(psycopg.Error, match=message) as caught:
        run(things, read(ROLLBACK))
    assert "--give-up" in str(caught.value.diag.message_hint)
    run(things, read(GIVE_UP))
    assert no_trace_of_capture(things)
    with pytest.raises(psycopg.Error, match=message):
        run(things, read(ROLLBACK))


def test_journal_is_emptied_after_the_swap(things: Connection, database: Database) -> None:
    """The rollback does without it."""
    before = dump_schema(database)
    run(things, THINGS_FILE)
    things.execute("delete from rpc_migrations.journal")
    with pytest.raises(psycopg.Error, match="the journal has no steps of test"):
        run(things, THINGS_FILE)
    run(things, read(ROLLBACK))
    assert dump_schema(database) == before


def test_the_new_table_is_moved_to_another_schema(things: Connection) -> None:
    """It stays there, and that is said; the next run is not in its way."""
    run(things, THINGS_FILE, until="copy the rows")
    things.execute(
        "alter table rpc_migrations.things rename to kept; alter table rpc_migrations.kept set schema public"
    )
    made = run(things, read(ROLLBACK))
    assert made[0].answer["result"]["message"].startswith("public.kept, which was to be the new table")
    run(things, THINGS_FILE)


# --- a dump that is restored --------------------------------------------------------------------------------------------


@pytest.fixture
def restored(database: Database) -> Iterator[Database]:
    """A database for the dump of another one. Some OIDs are used up first."""
    copy = Database(database.cluster, f"{database.name}_restored")
    with database.cluster.connect() as connection:
        connection.execute(f'create database "{copy.name}" owner postgres template template0'.encode())
    yield copy
    copy.drop()


def restore(database: Database, into: Database) -> None:
    """Dump a database with all its rows, and restore it."""
    programs = database.cluster.programs
    dump = subprocess.run(
        [programs / "pg_dump", f"--dbname={database.dsn(SUPERUSER)}"], check=True, capture_output=True
    )
    subprocess.run(
        [programs / "psql", "--quiet", "--no-psqlrc", f"--dbname={into.dsn(SUPERUSER)}"],
        input=dump.stdout, check=True, capture_output=True,
    )  # fmt: skip


MID_WAY = ["create the new table", *UNTIL, "swap", "validate"]


@pytest.mark.parametrize("until", MID_WAY)
def test_a_dump_goes_on(things: Connection, database: Database, restored: Database, until: str) -> None:
    """From every step, with what is written there; and back again."""
    before = dump_schema(database)
    run(things, THINGS_FILE, until=until)
    restore(database, restored)
    with restored.connect() as there:
        there.execute("update public.things set n = 100 where id = 7; delete from public.things where id = 8")
        run(there, THINGS_FILE)
        assert no_trace_of_capture(there)
        assert there.execute("select count(*), max(n) from public.things").fetchone() == (19, 100)
        keys = "select pg_get_constraintdef(oid) from pg_constraint where contype = 'f' and conrelid = 'public.things'::regclass and convalidated"
        assert there.execute(keys.encode()).fetchone() == (
            "FOREIGN KEY (parent) REFERENCES parents(id) ON DELETE CASCADE",
        )
        run(there, read(ROLLBACK))
        assert there.execute("select count(*), max(n) from public.things").fetchone() == (19, 100)
    assert dump_schema(restored) == before


@pytest.mark.parametrize("until", [*MID_WAY, "roll back: begin", "roll back: compare the two tables"])
def test_a_dump_is_rolled_back(things: Connection, database: Database, restored: Database, until: str) -> None:
    """From every step, and from the middle of a rollback."""
    before = dump_schema(database)
    if until.startswith("roll back"):
        run(things, THINGS_FILE)
        run(things, read(ROLLBACK), until=until)
    else:
        run(things, THINGS_FILE, until=until)
    restore(database, restored)
    with restored.connect() as there:
        there.execute("update public.things set n = 100 where id = 7; delete from public.things where id = 8")
        made = run(there, read(ROLLBACK))
        assert no_trace_of_capture(there)
        assert there.execute("select count(*), max(n) from public.things").fetchone() == (19, 100)
        if until in UNTIL:
            assert "this database was restored from a dump" in made[0].answer["result"]["message"]
        run(there, THINGS_FILE)
        run(there, read(ROLLBACK))
    assert dump_schema(restored) == before


def test_a_dump_without_the_backup(things: Connection, database: Database, restored: Database) -> None:
    """Refused, and why."""
    run(things, THINGS_FILE)
    restore(database, restored)
    with restored.connect() as there:
        there.execute("drop table public.things_backup")
        with pytest.raises(psycopg.Error, match=r"things_backup any more \(this database was restored from a dump\)"):
            run(there, read(ROLLBACK))


@pytest.mark.parametrize("until", ["copy the rows", "swap the tables"])
def test_a_dump_of_user_clusters(admin: Connection, database: Database, restored: Database, until: str) -> None:
    deploy(admin)
    create_old_table(admin, 20, "extra")
    before = dump_schema(database)
    text = read("migrate_user_clusters.sql")
    run(admin, text, until=until)
    restore(database, restored)
    with restored.connect() as there:
        run(there, text)
        run(there, read(ROLLBACK))
    assert dump_schema(restored) == before
