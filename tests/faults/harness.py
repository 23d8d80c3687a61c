"""What the fault tests work on: databases in a known state, the commands run in this process or in one of their own, and
everything that the end of a run can be compared by.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from bench import Outcome, run_here, settings_for, start_script
from conftest import ROOT
from local_supabase import Cluster, Database, LocalSupabase, create_old_table
from psycopg import sql

from faults.proxy import FaultProxy, Request

sys.path.insert(0, str(ROOT / "scripts"))

from rpc_migrations.deployment import deployment_sql

ROWS = 600
HOLD = 4711  # the advisory lock that a commit waits for while a fault holds it
_BLOCKED_SECONDS = 10.0

# A commit that has written to the journal or to the runs waits while somebody holds the lock: everything is done then,
# and nothing is certain yet.
_HOLD_COMMITS = f"""
create schema faults;
create function faults.hold() returns trigger
language plpgsql security definer
set lock_timeout = 0
as $$ begin perform pg_advisory_lock_shared({HOLD}), pg_advisory_unlock_shared({HOLD}); return null; end $$;
create constraint trigger hold after insert or update on rpc_migrations.journal
deferrable initially deferred for each row execute function faults.hold();
create constraint trigger hold after insert or update on rpc_migrations.runs
deferrable initially deferred for each row execute function faults.hold();
"""

# When a step is done, and with it, the application writes: once, and at the same place in every run.
_WRITE_IN_BETWEEN = """
create table faults.writes (step text, sql text);
create function faults.write() returns trigger
language plpgsql security definer
as $$
declare
    writes text;
begin
    for writes in select w.sql from faults.writes as w where w.step = new.step loop
        execute writes;
    end loop;
    return null;
end $$;
create constraint trigger write after update on rpc_migrations.journal
deferrable initially deferred for each row when (old.finished_at is null and new.finished_at is not null)
execute function faults.write();
"""

# What hangs on the old table, so that each kind of step has something to do.
_DEPENDENTS = """
create index user_clusters_type_idx on public.user_clusters (cluster_type) where cluster_score > 0.5;
create table public.cluster_notes (
    id integer primary key, cluster_id uuid references public.user_clusters (id) on delete cascade, note text);
insert into public.cluster_notes select row_number() over (order by id), id, 'a note' from public.user_clusters limit 20;
create view public.cluster_types as select cluster_type, count(*) as clusters from public.user_clusters group by cluster_type;
"""

# What the application writes while the migration is under way.
WRITES_DURING_MIGRATION = """
update public.user_clusters set cluster_score = 77 where cluster_type = 'visual';
delete from public.user_clusters where cluster_type = 'mixed' and id not in (select cluster_id from public.cluster_notes);
insert into public.user_clusters (id, user_id, cluster_type)
values ('00000000-1111-4000-8000-000000000001', '00000000-0000-4000-8000-000000000001', 'new');
"""
WRITES_AFTER_MIGRATION = """
update public.user_clusters set cluster_score = 78, learning_style_factor = '{"style": "loud"}' where cluster_type = 'auditory';
delete from public.user_clusters where cluster_type = 'reading' and id not in (select cluster_id from public.cluster_notes);
insert into public.user_clusters (id, user_id, cluster_type)
values ('00000000-1111-4000-8000-000000000002', '00000000-0000-4000-8000-000000000001', 'newer');
"""
WRITES_DURING_ROLLBACK = """
update public.user_clusters set cluster_score = 79 where cluster_type = 'kinesthetic';
insert into public.user_clusters (id, user_id, cluster_type)
values ('00000000-1111-4000-8000-000000000003', '00000000-0000-4000-8000-000000000001', 'newest');
"""


@dataclass(frozen=True)
class CommandCase:
    """A command whose every request is disturbed; each step in a request of its own, or as many as go."""

    script: str
    rollback: bool
    alone: bool
    write_after: str  # the application writes when this step is done
    writes: str
    finish: bool = False

    @property
    def new_row(self) -> str:
        """The id of the row that it inserts then."""
        found = re.search(r"values \('(.*?)'", self.writes)
        assert found
        return found[1]


MIGRATE = CommandCase(
    "migrate_clusters.py", rollback=False, alone=True, write_after="copy the rows", writes=WRITES_DURING_MIGRATION
)
ROLL_BACK = CommandCase(
    "rollback_clusters.py", rollback=True, alone=True,
    write_after="roll back: bring the changes into the original table", writes=WRITES_DURING_ROLLBACK,
)  # fmt: skip
MIGRATE_TOGETHER = replace(MIGRATE, alone=False, write_after="add the foreign key to auth.users")
ROLL_BACK_TOGETHER = replace(ROLL_BACK, alone=False)
FINISH = CommandCase(
    "finish_clusters.py", rollback=False, alone=False, finish=True,
    write_after="close the way back: drop what was kept for it", writes=WRITES_DURING_ROLLBACK,
)  # fmt: skip


def label(request: Request, seen: list[str]) -> str:
    """What a request is: the step's name, or what it asks; with "#2" and so on where it asks for the same again and an
    earlier one had an answer. `seen`: the labels so far.
    """
    if request.step:
        kind = request.step
    else:
        words = {
            "start_run": "start the run",
            "end_run": "end the run",
            "rpc_migrations.status": "status",
            "what_finishing_drops": "what is dropped",
            "altered_since": "what was altered",
            "pg_policy": "verify",
        }
        kind = next(name for word, name in words.items() if word in request.query)
    times = sum(1 for name in seen if name.partition(" #")[0] == kind) + 1
    return kind if times == 1 else f"{kind} #{times}"


# --- databases -------------------------------------------------------------------------------------------------------


class Templates:
    """Databases to copy: with the old table and execute_sql deployed; and migrated, with later writes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._names: dict[bool, str] = {}

    def fresh(self, case: CommandCase) -> Database:
        """A database in which the command can be run."""
        after = case.rollback or case.finish
        name = self._names.get(after)
        if name is None:
            template = self._make_migrated() if after else self._make_deployed()
            _log_sequences_anew(template)
            name = self._names[after] = template.name
        return self._copy(name, case)

    def _copy(self, template: str, case: CommandCase) -> Database:
        fresh = Database(self._cluster, f"{template}_{time.monotonic_ns()}")
        with self._cluster.connect() as connection:
            create = sql.SQL("create database {} owner postgres template {}")
            connection.execute(create.format(sql.Identifier(fresh.name), sql.Identifier(template)))
        with fresh.connect() as connection:
            connection.execute("delete from faults.writes")
            connection.execute("insert into faults.writes values (%s, %s)", [case.write_after, case.writes])
        return fresh

    def _make_deployed(self) -> Database:
        database = self._cluster.create_database()
        with database.connect() as connection:
            create_old_table(connection, rows=ROWS)
            connection.execute(_DEPENDENTS)
            connection.execute(deployment_sql())
            _make_batches_small(connection)
            connection.execute(_HOLD_COMMITS)
            connection.execute(_WRITE_IN_BETWEEN)
        return database

    def _make_migrated(self) -> Database:
        database = self.fresh(MIGRATE)
        with LocalSupabase(database) as supabase, Disturbed(MIGRATE, database, supabase) as run:
            outcome = run.here()
            assert outcome.exit_code == 0, outcome.error
        with database.connect() as connection:
            connection.execute(WRITES_AFTER_MIGRATION)
        return database


def _log_sequences_anew(template: Database) -> None:
    """A sequence writes its position to the WAL ahead, for 32 values at a time; a copied database relies on what the WAL
    says about its template, and after a crash gives values twice (seen on PostgreSQL 18). setval makes it write anew.
    """
    with template.connect("supabase_admin") as connection:
        connection.execute(
            "select setval(format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value), last_value is not null) from pg_sequences"
        )


def _make_batches_small(connection: psycopg.Connection[Any]) -> None:
    """One chunk a call, and small ones, in place of as many as there is time for: a few hundred rows then take several
    requests, and always the same number of them.
    """
    row = connection.execute("select pg_get_functiondef('rpc_migrations.each_chunk'::regproc)").fetchone()
    assert row
    loop = re.compile(
        r"while copy\.next_block < copy\.end_block and clock_timestamp\(\) < began \+ interval '1 second' loop"
    )
    definition, found = loop.subn(
        "for once in 1..1 loop\n        continue when copy.next_block >= copy.end_block;", row[0]
    )
    assert found == 1
    connection.execute(definition)
    connection.execute("alter table rpc_migrations.copies alter column chunk_blocks set default 2")


# --- a command under a fault -----------------------------------------------------------------------------------------


class Disturbed:
    """A command run through a fault proxy. `on_label`: what is called, with the request, when the one of that label comes."""

    def __init__(self, case: CommandCase, database: Database, supabase: LocalSupabase) -> None:
        self.case, self.database, self.supabase = case, database, supabase
        self.proxy = FaultProxy(supabase.url, self._choose, alone=case.alone)
        self.labels: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self.target: str | None = None  # the label of the request to disturb, once
        self.fault: Callable[[Any, Disturbed], None] | None = None
        self.fired = False

    def __enter__(self) -> Disturbed:
        self.proxy.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.stop()
        if self.process is not None:
            self.process.kill()
            self.process.communicate()

    def _choose(self, request: Request) -> Callable[[Any], None] | None:
        name = label(request, self.labels)
        self.labels.append(name)
        if name == self.target and self.fault is not None and not self.fired:
            self.fired = True
            fault = self.fault
            return lambda exchange: fault(exchange, self)
        return None

    def here(self, request_timeout: float = 30.0) -> Outcome:
        """Run the command in this process."""
        settings = settings_for(self.proxy.url, self.supabase.service_key, request_timeout=request_timeout)
        return run_here(settings, rollback=self.case.rollback, finish=self.case.finish)

    def as_process(self) -> int:
        """Run the command in a process of its own; return its exit code."""
        env: dict[str, str | None] = {"SUPABASE_URL": self.proxy.url, "SUPABASE_SERVICE_KEY": self.supabase.service_key}
        self.process = start_script(self.case.script, env=env)
        self.process.communicate(timeout=60)
        return self.process.returncode

    @contextmanager
    def held(self, *, at_commit: bool) -> Iterator[Callable[[], list[int]]]:
        """Within it, the request that runs next stops: before it does anything, or with all done before it commits.

        Yields a function that waits until it has stopped, and returns the pids of the backends that stand still.
        """
        with (
            self.database.connect("supabase_admin", autocommit=False) as holder,
            self.database.connect("supabase_admin") as watcher,
        ):
            if at_commit:
                holder.execute(f"select pg_advisory_xact_lock({HOLD})")
            else:
                holder.execute("lock table rpc_migrations.runs, pg_catalog.pg_description in access exclusive mode")
            pid = holder.info.backend_pid
            yield lambda: _wait_for_blocked(watcher, pid)
            if not holder.closed and holder.info.transaction_status != psycopg.pq.TransactionStatus.UNKNOWN:
                holder.rollback()

    @property
    def state(self) -> dict[str, Any]:
        """Everything that the end of the run can be compared by."""
        return read_state(self.database)


def _wait_for_blocked(watcher: psycopg.Connection[Any], pid: int) -> list[int]:
    """The backends of the REST layer that wait for the session `pid`."""
    deadline = time.monotonic() + _BLOCKED_SECONDS
    while time.monotonic() < deadline:
        rows = watcher.execute(
            "select a.pid from pg_stat_activity as a where a.usename = 'authenticator' and %s = any (pg_blocking_pids(a.pid)) "
            "and a.application_name is distinct from 'listener' and a.query !~* '^listen'",
            [pid],
        ).fetchall()
        if rows:
            return [row[0] for row in rows]
        time.sleep(0.005)
    raise AssertionError("the request did not stop where it was to be held")


# --- the state at the end --------------------------------------------------------------------------------------------

_ROWS_OF = """
select to_jsonb(t) - 'updated_at' - 'created_at' - 'last_calculated'
    || jsonb_build_object('touched', (to_jsonb(t) ->> 'updated_at')::timestamptz > '2026-06-01')
from {} as t order by to_jsonb(t) ->> 'id'
"""
# A swap that meets a request of before, which a fault has left at work, waits for it: a call more, and nothing else.
_JOURNAL = """
select step, checksum, case when step !~ 'swap the tables' then calls end, rows, finished_at is not null, undone_at is not null, result
from rpc_migrations.journal order by started_at, id
"""
_COPIES = """
select to_jsonb(c) - '{id,started_at,swapped_at,ended_at,compared_at,filenode,old_table,new_table,source,target}'::text[]
    - '{attempts,longest_attempt,home,swap_mark,compared_form}'::text[]
from rpc_migrations.copies as c order by c.id
"""
_PRIVATE = """
select c.relkind::text || ' ' || c.relname from pg_class as c where c.relnamespace = 'rpc_migrations'::regnamespace
union all
select 'f ' || p.proname from pg_proc as p where p.pronamespace = 'rpc_migrations'::regnamespace
order by 1
"""
_NOT_VALID = "select conrelid::regclass::text || ' ' || conname from pg_constraint where not convalidated order by 1"


def read_state(database: Database) -> dict[str, Any]:
    """All rows, the schema, the journal, the copies, and what is left in the private schema; without times and names
    that differ from run to run.
    """
    with database.connect("supabase_admin") as connection:

        def column(query: Any) -> list[Any]:
            rows = connection.execute(query).fetchall()
            return [row[0] if len(row) == 1 else list(row) for row in rows]

        tables = column(
            "select c.relname from pg_class as c where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' order by 1"
        )
        state = {
            "rows": {name: column(sql.SQL(_ROWS_OF).format(sql.Identifier("public", name))) for name in tables},
            "journal": column(_JOURNAL),
            "copies": column(_COPIES),
            "private": column(_PRIVATE),
            "not valid": column(_NOT_VALID),
        }
    return _normalised(state | {"schema": _dump(database)})


def open_runs(database: Database) -> list[tuple[Any, ...]]:
    """Runs of which the journal does not say how they ended."""
    with database.connect("supabase_admin") as connection:
        return connection.execute("select action, outcome from rpc_migrations.runs where ended_at is null").fetchall()


def _dump(database: Database) -> list[str]:
    text = database.dump_schema("--schema=public")
    return [line for line in text.splitlines() if line and not line.startswith(("--", "\\"))]


def _normalised(value: Any) -> Any:
    text = re.sub(r"_rolled_back_\d{14}", "_rolled_back_TIME", json.dumps(value))
    return json.loads(re.sub(r"_[0-9a-f]{8}(?=[^0-9a-f-])(?<=_rolled_back_TIME)", "", text))
