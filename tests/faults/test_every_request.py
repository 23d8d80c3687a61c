"""For every request of a migration, of a rollback and of finishing, in turn, each fault: afterwards the same command, run again
where it failed, ends in the same state as a run that nothing disturbed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import POSTGREST_VERSIONS, ROOT
from local_supabase import Cluster, Database, LocalSupabase
from rpc_migrations.commands.migration import ROLLBACK_FILE
from rpc_migrations.step_file import read_migration

from faults.faults import FAULTS, IN_DOUBT, Fault
from faults.harness import (
    FINISH,
    MIGRATE,
    MIGRATE_TOGETHER,
    ROLL_BACK,
    ROLL_BACK_TOGETHER,
    CommandCase,
    Disturbed,
    Templates,
    open_runs,
)

# How often a batch step is sent in an undisturbed run; `test_the_table_has_every_request` keeps this true.
BATCHES = {
    "copy the rows": 3,
    "carry over constraints and indexes": 3,
    "validate the foreign keys": 3,
    "roll back: find what changed since the swap": 3,
    "roll back: swap the tables back": 2,
    "roll back: validate the foreign keys": 3,
}


# Which steps begin a request where as many as go are sent in one.
TOGETHER = {
    MIGRATE_TOGETHER: [
        "check the old table",
        "copy the rows",
        "carry over constraints and indexes",
        "swap the tables",
        "grant rights",
        "validate the foreign keys",
        "validate the foreign keys #2",
        "validate the foreign keys #3",
    ],
    ROLL_BACK_TOGETHER: [
        "roll back: begin",
        "roll back: find what changed since the swap",
        "roll back: compare the two tables",
        "roll back: swap the tables back",
        "roll back: validate the foreign keys",
        "roll back: validate the foreign keys #2",
        "roll back: validate the foreign keys #3",
    ],
    FINISH: [FINISH.write_after],
}


def requests_of(case: CommandCase) -> list[str]:
    """The labels of all requests of a command, in order."""
    if case in TOGETHER:
        asked = ["what is dropped", "verify"] if case is FINISH else ["what was altered"] if case.rollback else []
        return ["status", *asked, "start the run", *TOGETHER[case], "end the run"]
    file = ROLLBACK_FILE if case.rollback else ROOT / "db" / "migrate_user_clusters.sql"
    steps = read_migration(file, name="migrate_user_clusters").steps
    calls = [
        f"{step.name} #{n}" if n > 1 else step.name for step in steps for n in range(1, BATCHES.get(step.name, 1) + 1)
    ]
    return ["status", *(["what was altered"] if case.rollback else []), "start the run", *calls, "end the run"]


def versions_for(fault: Fault) -> tuple[str, ...]:
    """The versions of PostgREST that a fault is tried on."""
    return POSTGREST_VERSIONS if fault.depends_on_version else POSTGREST_VERSIONS[:1]


COMMANDS = (MIGRATE, ROLL_BACK, MIGRATE_TOGETHER, ROLL_BACK_TOGETHER, FINISH)
CASES = [
    (case, request, fault, postgrest)
    for case in COMMANDS
    for request in (requests_of(case) if case.alone else TOGETHER[case])
    for fault in (FAULTS if case.alone else IN_DOUBT)
    for postgrest in versions_for(fault)
]
_QUICK = {
    (MIGRATE, "start the run"),
    (MIGRATE, "copy the rows #2"),
    (MIGRATE, "swap the tables"),
    (ROLL_BACK, "roll back: swap the tables back"),
    (MIGRATE_TOGETHER, "copy the rows"),
    (FINISH, FINISH.write_after),
}
QUICK = [case for case in CASES if case[:2] in _QUICK]


def _name(value: Any) -> str:
    return (
        value.script.partition("_")[0] + ("" if value.alone else " together")
        if isinstance(value, CommandCase)
        else value.name
        if isinstance(value, Fault)
        else str(value)
    )


@pytest.fixture(scope="module")
def templates(cluster: Cluster) -> Iterator[Templates]:
    """Databases to copy."""
    # A worker that analyzes a table is waited for, and that is a call more than in an undisturbed run.
    _reconfigure(cluster, "alter system set autovacuum = off")
    yield Templates(cluster)
    _reconfigure(cluster, "alter system reset autovacuum")


def _reconfigure(cluster: Cluster, statement: str) -> None:
    with cluster.start().connect() as connection:
        connection.execute(statement)
        connection.execute("select pg_reload_conf()")


@pytest.fixture(scope="module")
def undisturbed(templates: Templates) -> Any:
    """What a run that nothing disturbs ends in, and which requests it makes, by command."""
    known: dict[CommandCase, tuple[dict[str, Any], list[str]]] = {}

    def look_up(case: CommandCase) -> tuple[dict[str, Any], list[str]]:
        if case not in known:
            database = templates.fresh(case)
            with LocalSupabase(database) as supabase, Disturbed(case, database, supabase) as run:
                outcome = run.here()
                assert outcome.exit_code == 0, outcome.error
                assert open_runs(database) == []
                assert case.new_row in str(run.state["rows"]["user_clusters"]), "the application did not write"
                known[case] = run.state, run.labels
            database.drop()
        return known[case]

    return look_up


@pytest.fixture
def run(templates: Templates, case: CommandCase, postgrest: str) -> Iterator[Disturbed]:
    """The command, ready to be run on a database of its own."""
    database: Database = templates.fresh(case)
    with (
        LocalSupabase(database, postgrest=postgrest, catch_up=0.3) as supabase,
        Disturbed(case, database, supabase) as disturbed,
    ):
        yield disturbed
        disturbed.proxy.wait()
    if database.cluster.start().running:
        database.drop()


@pytest.mark.parametrize("case", COMMANDS, ids=_name)
def test_the_table_has_every_request(case: CommandCase, undisturbed: Any) -> None:
    """Else a request could be added to the commands and never be disturbed."""
    assert "\n".join(undisturbed(case)[1]) == "\n".join(requests_of(case))


@pytest.mark.slow
@pytest.mark.parametrize(("case", "request_label", "fault", "postgrest"), QUICK, ids=_name)
def test_fault_in_short(case: CommandCase, request_label: str, fault: Fault, run: Disturbed, undisturbed: Any) -> None:
    """A few requests."""
    disturb(run, request_label, fault, undisturbed(case)[0])


@pytest.mark.every_fault
@pytest.mark.parametrize(("case", "request_label", "fault", "postgrest"), CASES, ids=_name)
def test_fault(case: CommandCase, request_label: str, fault: Fault, run: Disturbed, undisturbed: Any) -> None:
    """Every request, each fault that it makes a difference for."""
    disturb(run, request_label, fault, undisturbed(case)[0])


def disturb(run: Disturbed, request_label: str, fault: Fault, expected: dict[str, Any]) -> None:
    """Run the command with the fault at that request, again if it failed, and compare."""
    run.target, run.fault = request_label, fault.strike
    if fault.kills:
        assert run.as_process() == -9
        second = run.here()
        assert second.exit_code == 0, second.error
    else:
        first = run.here(request_timeout=fault.request_timeout)
        assert first.exit_code == 0, f"a fault that passes stopped the run: {first.error}"
        # A crash before the first request goes unnoticed.
        assert first.notes or len(run.labels) == len(requests_of(run.case)), "the person was told nothing"
    assert run.fired
    run.proxy.wait()
    assert not [error for error in run.proxy.errors if isinstance(error, AssertionError)]
    found = run.state
    for part, value in expected.items():
        assert found[part] == value, part
    # Who is killed cannot say so; whoever comes next finds the run without an end.
    assert len(open_runs(run.database)) <= int(fault.kills)
