"""From every state there is a way out, and it is the one that the message names: a migration or a rollback is stopped between
its steps, one thing is tampered with, and then what is said is done, until the schema is the old one or the new one.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import pytest
from local_supabase import Database
from schema_dump import dump_schema
from step_runner import DISCARD, GIVE_UP, ROLLBACK, Connection, deploy, read, run
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


TAMPERINGS = {
    "nothing": Tampering(""),
    "a column is renamed": Tampering(
        "alter table public.things rename n to m",
        # where the changes are discarded it is in the table that is kept, and that is all
        "do $$ begin alter table public.things rename m to n; exception when undefined_column then null; end $$",
    ),
    "a view": Tampering(
        "create view public.v as select n, extra from public.things", "drop view public.v", before_swap=False
    ),
    "a policy": Tampering(
        "create policy p on public.parents using (exists (select from public.things))", "drop policy p on public.parents"
    ),
    "the backup is renamed": Tampering(
        "alter table public.things_backup rename to b", "alter table public.b rename to things_backup", before_swap=False
    ),
    "the journal is emptied": Tampering("delete from rpc_migrations.journal"),
    "the log is dropped": Tampering(
        "do $$ declare l regclass; begin for l in select oid from pg_class where relname ~ '^log_[0-9]+$' and relkind = 'r' "
        "loop execute format('drop table %s', l); end loop; end $$", after_swap=False
    ),
    "the capture is dropped": Tampering(
        "do $$ declare f regprocedure; begin for f in select oid from pg_proc where proname ~ '^capture_[0-9]+$' "
        "loop execute format('drop function %s cascade', f); end loop; end $$", after_swap=False
    ),
    "the new table is renamed": Tampering(
        "alter table rpc_migrations.things rename to other", after_swap=False, in_rollback=False
    ),
}  # fmt: skip

# Where to stop: the file and the step.
BACK, DISCARDING = read(ROLLBACK), read(DISCARD)
STATES = {
    "before_swap": [(MIGRATE, "begin the copy"), (MIGRATE, "compare")],
    "after_swap": [(MIGRATE, "swap")],
    "in_rollback": [
        (BACK, "roll back: begin"),
        (BACK, "roll back: compare the two tables"),
        (DISCARDING, "roll back: count the changes to discard"),
    ],
}


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
@pytest.mark.parametrize("place", STATES)
@pytest.mark.parametrize("what", TAMPERINGS)
def test_the_way_out_that_is_named(admin: Connection, database: Database, what: str, place: str) -> None:
    """By the command that was at it, and by the other one."""
    tampering = TAMPERINGS[what]
    if not getattr(tampering, place):
        return
    deploy(admin)
    admin.execute(THINGS)
    old = dump_schema(database)
    run(admin, MIGRATE)
    new = dump_schema(database)
    run(admin, BACK)
    for file, step in STATES[place]:
        for command in [MIGRATE, BACK] if place != "in_rollback" else [file]:
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
                run(admin, BACK)
                assert dump_schema(database) == old, state
