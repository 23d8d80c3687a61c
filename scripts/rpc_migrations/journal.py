"""What the journal in the database says of a migration: its steps, its runs, and who works on it. (journal_words.py puts it in words.)"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .deployment import check_deployed
from .errors import MigrationError
from .journal_words import count, moment
from .migration import ROLLBACK_PREFIX, Migration, Step, is_own_step
from .other_histories import Noted, Rows, noted_by_others
from .places import run_command
from .rebuilt_table import find_table
from .shapes import HISTORY, STARTED, STATUS, Maybe, expect
from .sql import quote_literal

if TYPE_CHECKING:
    from .client import RpcClient

BEING_ROLLED_BACK = "being rolled back"  # the state of a migration
THE_CLI = "the Supabase CLI"  # as a tool that has applied files
RUN_PATIENCE = 60.0  # seconds without a sign of life after which another run counts as dead; a request takes 50 at most


@dataclass(frozen=True)
class Status:
    """Where a migration stands, as rpc_migrations.status answers it."""

    steps: dict[str, dict[str, Any]]  # current journal rows by step
    runs: list[dict[str, Any]]  # the newest first
    copy: dict[str, Any] | None  # its last rebuild of a table, over or under way
    missing: str | None = None  # the table that it rebuilds, if that does not exist and will be made

    def is_done(self, step: Step) -> bool:
        """Whether the step has taken effect."""
        return self.steps.get(step.name, {}).get("finished_at") is not None

    def has_done(self, migration: Migration) -> bool:
        """Whether all steps of it have taken effect."""
        return all(self.is_done(step) for step in migration.steps)

    @property
    def is_begun(self) -> bool:
        """Whether a step of the migration itself has begun and was not rolled back since; or a copy, if somebody has deleted the steps' rows."""
        return any(not name.startswith(ROLLBACK_PREFIX) for name in self.steps) or (
            self.copy is not None and self.copy["state"] in ("copying", "copied", "swapped", "rolling back")
        )

    @property
    def is_rolling_back(self) -> bool:
        """Whether a rollback has begun and has steps left, also those after the swap back."""
        if self.copy is None:
            return self.is_begun and any(name.startswith(ROLLBACK_PREFIX) for name in self.steps)
        state = self.copy["state"]
        return state == "rolling back" or (state == "rolled back" and bool(self.copy["unvalidated"]))

    @property
    def can_give_up(self) -> bool:
        """Whether a rollback has begun and has not put the original table back; or giving one up has begun and has steps left."""
        if self.copy is None:  # somebody has deleted its row
            return self.is_rolling_back
        return self.copy["state"] == "rolling back" or (
            self.copy["state"] == "swapped" and bool(self.copy["unvalidated"])
        )

    @property
    def finished_at(self) -> str | None:
        """When its way back was closed; None if it is open."""
        return moment(self.copy.get("finished_at")) or None if self.copy else None

    def has_unfinished(self, rollback: Migration) -> bool:
        """Whether that rollback has begun and its last step is not done.

        The last step comes after the swap back, from which on the forward steps count as not run.
        """
        return any(name.startswith(ROLLBACK_PREFIX) for name in self.steps) and not self.is_done(rollback.steps[-1])

    @property
    def last_finished_at(self) -> str:
        """When the last of the steps was done. Raises ValueError if none is."""
        return max(
            str(row["finished_at"]) for name, row in self.steps.items() if row["finished_at"] and is_own_step(name)
        )

    def list_steps(self, migration: Migration) -> list[dict[str, Any]]:
        """All steps of a migration, then others in the journal, as {name, state, rows, seconds, calls, finished_at}."""
        names = [step.name for step in migration.steps]
        names += [name for name in self.steps if name not in names]
        return [_to_step(name, self.steps.get(name)) for name in names]

    def edited_steps(self, migration: Migration) -> list[Step]:
        """Steps that have taken effect with another text than they have now."""
        return [
            step
            for step in migration.steps
            if (row := self.steps.get(step.name)) and row["calls"] > 0 and row["checksum"] not in step.checksums
        ]

    def steps_of_another_file(self, migration: Migration) -> list[str]:
        """Names of steps that have taken effect and are not in the migration's file."""
        own = {step.name for step in migration.steps}
        return [name for name, row in self.steps.items() if row["calls"] > 0 and name not in own and is_own_step(name)]


@dataclass(frozen=True)
class History:
    """What has been applied: the current journal rows of all migrations, their copies of tables, the versions that the Supabase CLI has
    applied, and the rows of other tools' tables, by tool.
    """

    rows: dict[str, dict[str, dict[str, Any]]]  # by migration and step, in order
    copies: dict[str, dict[str, Any]]  # the last one, by migration
    by_cli: dict[str, str | None]  # version: name, None if the CLI has not noted one
    by_others: dict[str, Rows]
    noted_texts: dict[str, str]  # version: what the CLI has noted of its SQL, as other_tools.noted_text has it

    def summary(self, name: str) -> dict[str, Any]:
        """A migration of the journal: migration, state, finished_at, client."""
        steps = [row for step, row in self.rows[name].items() if is_own_step(step)]
        last = max(self.rows[name].values(), key=lambda row: str(row["finished_at"] or ""))
        status = self.of(name)
        copy = status.copy["state"] if status.copy else None
        if status.is_rolling_back:
            state = BEING_ROLLED_BACK
        elif copy in ("copying", "copied") or not all(row["finished_at"] for row in steps):
            state = "begun"
        elif status.finished_at:  # which takes a migration that is applied
            state = "applied"
        else:  # a step that has not begun leaves no row: only the file would tell whether these are all
            state = f"{count(len(steps), 'step')} done" if steps else "rolled back"
        return {"migration": name, "state": state, "finished_at": last["finished_at"], "client": last["client"]}

    def of(self, name: str) -> Status:
        """Where a migration stands. Its runs are left out."""
        return Status(self.rows.get(name, {}), [], self.copies.get(name))

    def noted_elsewhere(self, migration: Migration, *, by_cli: bool) -> Noted | None:
        """What other tools have noted of a file; None where none has. `by_cli`: the Supabase CLI has applied it."""
        return Noted(THE_CLI) if by_cli else noted_by_others(migration.path, self.by_others)


def refuse_rollback_under_way(status: Status, migration: Migration) -> None:
    """Raise MigrationError if the migration is being rolled back. A way back of its own, or one that has swapped, cannot be given up."""
    if status.is_rolling_back:
        roll_back = f"{run_command(migration.path)} --rollback"
        or_give_up = "" if migration.rollback or not status.can_give_up else f", or give it up: {roll_back} --give-up"
        raise MigrationError(
            f"A rollback of {migration.name} is under way.",
            hint=f"Nothing was run. Finish it first: {roll_back}{or_give_up}",
        )


def refuse_lost_steps(status: Status, migration: Migration) -> None:
    """Raise MigrationError if steps that were done are not in the file any more: they may be there under other names.

    A rebuild is exempt: it knows from the database how far it is.
    """
    if (lost := status.steps_of_another_file(migration)) and not migration.rebuilds:
        raise MigrationError(
            f"Steps of {migration.file} that were done are not in it any more: {', '.join(lost)}. Under another name they would be run again.",
            hint="Nothing was run. Put their lines back, `-- step: NAME`; a file without any is one step, called as the file. "
            "What is new goes below them, or into another file.",
        )


def read_history(client: RpcClient) -> History:
    """Ask the database what has been applied, in one request. Raises NotDeployed without an execute_sql of ours."""
    answer = expect(check_deployed(client, "rpc_migrations.history()"), HISTORY)
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for row in answer["steps"]:
        rows.setdefault(row["migration"], {})[row["step"]] = row
    copies = {row["migration"]: row["copy"] for row in answer["copies"]}
    by_cli = {row["version"]: row.get("name") for row in answer["by_cli"] or ()}
    noted_texts = {row["version"]: row["hash"] for row in answer["by_cli"] or () if row.get("hash")}
    return History(rows, copies, by_cli, answer.get("by_others") or {}, noted_texts)


def accept_edits(client: RpcClient, migration: Migration, steps: list[Step]) -> None:
    """Record the present text of steps that were done with another text."""
    checksums = json.dumps({step.name: step.checksums[0] for step in steps})
    client.query(f"select rpc_migrations.accept_edits({_literals([migration.name, checksums])}) as accepted")


def record(client: RpcClient, migration: Migration) -> None:
    """Tell the Supabase CLI's table that a file is applied. Raises StepFileError where the CLI could not run it."""
    client.query(
        f"select rpc_migrations.record_for_cli({quote_literal(json.dumps(migration.for_the_cli()))})::text as recorded"
    )


def repeat_comparison(client: RpcClient, migration: Migration) -> None:
    """Make the last replay before the swap and the comparison count as not done."""
    steps = ", ".join(quote_literal(step.name) for step in migration.comparison)
    client.query(
        f"select rpc_migrations.repeat_comparison({quote_literal(migration.name)}, array[{steps}])::text as repeated"
    )


def read_status(client: RpcClient, migration: Migration) -> Status:
    """Ask the database where the migration stands. Raises NotDeployed without an execute_sql of ours."""
    expression, table = _status_call(migration), find_table(migration)
    if table:
        expression += f" || jsonb_build_object('is_there', to_regclass({quote_literal(table.name)}) is not null)"
    answer = expect(check_deployed(client, expression), STATUS)
    is_missing = table and not table.must_be_there and answer.get("is_there") is False
    return replace(_to_status(answer), missing=table.name if table and is_missing else None)


def start_run(
    client: RpcClient,
    run: uuid.UUID,
    migration: Migration,
    action: str,
    *,
    user: str,
    pid: int,
    dead: str | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Register a run by `user`, a name for the journal. The answer has the state "done"; or "busy", and who is at work.

    `dead`: the id of a run whose process is known to be gone, so that it is not waited for. `options`: what the steps can read by
    rpc_migrations.option.
    """
    values: list[Any] = [run, migration.name, action, user, pid, RUN_PATIENCE, dead, json.dumps(options)]
    sql = f"select rpc_migrations.start_run({_literals(values)}) as answer"
    answer: dict[str, Any] = client.row(sql, {"answer": STARTED})["answer"]
    return answer


def replication_lag(client: RpcClient, run: uuid.UUID, most: float) -> str | None:
    """The replica or replication slot that is more than `most` bytes behind, in words; None if there is none. The run counts as alive."""
    sql = f"select rpc_migrations.replication_lag({_literals([run])}) as lag"
    lag = client.row(sql, {"lag": Maybe({"name": str, "bytes": int})})["lag"]
    return f"{lag['name']}, {lag['bytes'] / 1e6:,.1f} MB behind" if lag and lag["bytes"] > most else None


def end_run(
    client: RpcClient, run: uuid.UUID, migration: Migration, outcome: str, message: str | None, *, patience: float
) -> Status:
    """Note how a run ended; return where the migration stood then. Tries for `patience` seconds, then raises."""
    if message is not None:
        message = message.replace("\0", "")  # which PostgreSQL could not hold; it may come from an answer
    sql = f"select rpc_migrations.end_run({_literals([run, outcome, message])}), {_status_call(migration)} as status"
    return _to_status(client.row(sql, {"status": STATUS}, patience=patience)["status"])


def _status_call(migration: Migration) -> str:
    return f"rpc_migrations.status({quote_literal(migration.name)})"


def _to_status(answer: dict[str, Any]) -> Status:
    return Status({row["step"]: row for row in answer["steps"]}, answer["runs"], answer["copy"])


def _to_step(name: str, row: dict[str, Any] | None) -> dict[str, Any]:
    """A step as the journal has it; with zeros if it has not begun."""
    row = row or {"rows": 0, "seconds": 0.0, "calls": 0, "finished_at": None, "started_at": None}
    state = "done" if row["finished_at"] else "under way" if row["started_at"] else "to do"
    return {"name": name, "state": state} | {key: row[key] for key in ("rows", "seconds", "calls", "finished_at")}


def _literals(values: list[Any]) -> str:
    return ", ".join(quote_literal(value) for value in values)
