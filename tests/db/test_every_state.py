"""From every state there is a way out, and it is the one that the message names: a migration or a rollback is stopped after each of
its steps, one thing is tampered with, and then what is said is done, until the schema is the old one or the new one.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import pytest
from local_supabase import Database
from schema_dump import dump_schema
from step_runner import DISCARD, GIVE_UP, ROLLBACK, Connection, deploy, read, run, step_names
from test_ways_out import THINGS, THINGS_FILE, no_trace_of_capture

MIGRATE = THINGS_FILE
NEW_TABLES = "select count(*) from unnest(rpc_migrations.new_tables()) as n"


@dataclass(frozen=True)
class Tampering:
    """What somebody does, and how they take it back where they are told to. `before_swap` and so on: where it can be done."""

    do: str
    undo: str = ""
    before_swap: bool = True
    after_swap: bool = True
    in_rollback: bool = True


EVERYWHERE = {
    "nothing": Tampering(""),
    "a column is renamed": Tampering(
        "alter table public.things rename n to m", "alter table public.things rename m to n"
    ),
    "the key is renamed": Tampering(
        "alter table public.things rename id to i", "alter table public.things rename i to id"
    ),
    "the table is renamed": Tampering("alter table public.things rename to t", "alter table public.t rename to things"),
    "a view": Tampering("create view public.v as select n, extra from public.things", "drop view if exists public.v", before_swap=False),
    "a view on old columns": Tampering("create view public.v as select id, c from public.things", "drop view public.v"),
    "a materialized view": Tampering(
        "create materialized view public.v as select id from public.things", "drop materialized view public.v"
    ),
    "a policy": Tampering(
        "create policy p on public.parents using (exists (select from public.things))",
        "drop policy p on public.parents",
    ),
    "an index takes a name": Tampering(
        "create index things_c_key1 on public.parents (id)", "drop index public.things_c_key1"
    ),
    "the backup's name is taken": Tampering(
        "create table public.things_backup (id integer)", "drop table public.things_backup",
        after_swap=False, in_rollback=False,
    ),
    "the backup is renamed": Tampering(
        "alter table public.things_backup rename to b", "alter table public.b rename to things_backup", before_swap=False
    ),
    "the journal is emptied": Tampering("delete from rpc_migrations.journal"),
    "the record of copies is emptied": Tampering("delete from rpc_migrations.copies", after_swap=False, in_rollback=False),
    "runs, calls and foreign keys are emptied": Tampering("delete from rpc_migrations.runs; delete from rpc_migrations.calls"),
    "the log is dropped": Tampering(
        "do $$ declare l regclass; begin for l in select oid from pg_class where relname ~ '^log_[0-9]+$' and relkind = 'r' "
        "loop execute format('drop table %s', l); end loop; end $$"
    ),
    "the log is emptied": Tampering(
        "do $$ declare l regclass; begin for l in select oid from pg_class where relname ~ '^log_[0-9]+$' and relkind = 'r' "
        "loop execute format('delete from %s', l); end loop; end $$"
    ),
    "the capture is dropped": Tampering(
        "do $$ declare f regprocedure; begin for f in select oid from pg_proc where proname ~ '^capture_[0-9]+$' "
        "loop execute format('drop function %s cascade', f); end loop; end $$"
    ),
    "the triggers are switched off": Tampering(
        "alter table public.things disable trigger user", "alter table public.things enable trigger user",
        in_rollback=False,
    ),
    "the new table is dropped": Tampering("drop table if exists rpc_migrations.things", after_swap=False, in_rollback=False),
    "the new table is renamed": Tampering(
        "alter table if exists rpc_migrations.things rename to other", after_swap=False, in_rollback=False
    ),
    "the new table is altered": Tampering(
        "alter table if exists rpc_migrations.things drop column n", after_swap=False, in_rollback=False
    ),
}  # fmt: skip


def states() -> list[tuple[str, str, str]]:
    """Where to stop: the place in the story, the file and the step."""
    forth = step_names(MIGRATE)
    swap = forth.index("swap")
    return (
        [("before_swap", MIGRATE, step) for step in forth[:swap]]
        + [("after_swap", MIGRATE, step) for step in forth[swap:]]
        + [("in_rollback", file, step) for file in (read(ROLLBACK), read(DISCARD)) for step in step_names(file)[:-2]]
    )


class Person:
    """Does what the messages say, and nothing else."""

    def __init__(self, connection: Connection, tampering: Tampering) -> None:
        self.connection, self.tampering = connection, tampering
        self.said: list[str] = []

    def get_out(self, file: str) -> None:
        """Run a file, and follow its messages until one has run to its end."""
        tampered = bool(self.tampering.undo)
        for _ in range(6):
            try:
                run(self.connection, file)
            except psycopg.Error as error:
                hint = error.diag.message_hint or ""
                self.said.append(f"{error.sqlstate} {error.diag.message_primary} / {hint}")
                if tampered:  # "take it back", "drop or rename it": whatever is asked for, it is that
                    self.connection.execute(self.tampering.undo.encode())
                    tampered = False
                elif "--give-up" in hint:
                    run(self.connection, read(GIVE_UP))
                elif "oll back" in hint or "oll the migration back" in hint or error.sqlstate == "42P07":
                    file = read(ROLLBACK)
                else:
                    raise AssertionError(f"no way out: {self.said}") from error
            else:
                if tampered:
                    self.connection.execute(self.tampering.undo.encode())
                return
        raise AssertionError(f"in a circle: {self.said}")


@pytest.mark.slow
@pytest.mark.parametrize("what", EVERYWHERE)
def test_the_way_out_that_is_named(admin: Connection, database: Database, what: str) -> None:
    """By the command that was at it, and by the other one."""
    tampering = EVERYWHERE[what]
    deploy(admin)
    admin.execute(THINGS)
    old = dump_schema(database)
    run(admin, MIGRATE)
    new = dump_schema(database)
    run(admin, read(ROLLBACK))
    assert dump_schema(database) == old
    for place, file, step in states():
        if not getattr(tampering, place):
            continue
        for command in [MIGRATE, read(ROLLBACK)] if place != "in_rollback" else [file]:
            if place == "in_rollback":
                run(admin, MIGRATE)
            run(admin, file, until=step)
            admin.execute(tampering.do.encode())
            person = Person(admin, tampering)
            person.get_out(command)
            state = (place, step, person.said)
            assert no_trace_of_capture(admin), state
            assert admin.execute(NEW_TABLES).fetchone() == (0,), state
            dump = dump_schema(database)
            assert dump in (old, new), state
            assert admin.execute("select count(*) from public.things").fetchone() == (20,), state
            if dump == new:
                run(admin, read(ROLLBACK))
                assert dump_schema(database) == old, state
