"""Runs a migration: looks where it stands, claims it, sends each step until it is done, and notes how it ended."""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from .client import RpcClient
from .console import Console
from .error_places import in_its_place
from .errors import MigrationError, NothingToDo, SqlError, StoppedByUser, Unreachable
from .journal import (
    RUN_PATIENCE,
    Status,
    end_run,
    read_status,
    refuse_lost_steps,
    refuse_rollback_under_way,
    repeat_comparison,
    start_run,
)
from .journal_words import describe_busy
from .migration import Migration
from .patience import Wait
from .places import PYTHON
from .settings import Settings
from .sql import quote_literal
from .step_sender import StepSender

_REHEARSAL = "select rpc_migrations.rehearse_beginning({name}, {query})::text as rehearsed"
END_PATIENCE = 5.0  # seconds to go on trying to tell the journal how a run ended


def migrate(
    client: RpcClient, migration: Migration, settings: Settings, console: Console, before: Callable[[Status], None]
) -> None:
    """Run what is left of a migration. Raises MigrationError if it has to stop; what was done stays done.

    `before` is called with its status before its very first step, but not when it is continued.
    """
    status = read_status(client, migration)
    refuse_rollback_under_way(status, migration)
    _refuse_edited_steps(status, migration)
    if _is_to_be_compared_anew(status, migration):
        repeat_comparison(client, migration)
        status = read_status(client, migration)
    if status.has_done(migration):
        console.already_done(migration, status)
        return
    refuse_lost_steps(status, migration)
    if unknown := status.steps_of_another_file(migration):
        console.warn(
            f"{migration.name} was begun with another version of its file, which had steps that this one does not have: {', '.join(unknown)}. "
            "If a step fails because of that, roll the migration back and run it again."
        )
    if not status.is_begun:
        before(status)
        _rehearse_later(client, migration)
    try:
        Run(client, migration, "migrate", settings, console).carry_out(status)
    except NothingToDo as reason:
        console.nothing_to_do(reason.in_a_line)


def run_together(client: RpcClient, migration: Migration, settings: Settings, console: Console) -> None:
    """Run steps of several migrations, none of which is done, as one run. Raises MigrationError if it has to stop."""
    Run(client, migration, "migrate", settings, console).carry_out(Status({}, [], None))


def roll_back(
    client: RpcClient,
    migration: Migration,
    rollback: Migration,
    settings: Settings,
    console: Console,
    before: Callable[[Status], None],
    *,
    giving_up: bool,
) -> None:
    """Roll a migration back with the steps of `rollback`, which bears its name; with `giving_up`, these give a rollback up. Raises as
    `migrate` does.

    `before` is called with the migration's status before anything is done.
    """
    if not migration.rebuilds and not migration.rollback:
        raise MigrationError(
            f"{migration.file} makes no online copy of a table, so there is no original to go back to.",
            hint="Write what undoes it into a comment of the file, /* rollback: ... */, and run this again; or into a file of its own.",
        )
    status = read_status(client, migration)
    if giving_up and not status.can_give_up:
        console.nothing_to_do(f"No rollback of {migration.name} is under way.")
        return
    if not status.is_begun and not status.has_unfinished(rollback):
        kept = (
            f" The migrated table of the last rollback is kept as {status.copy['kept_as']}."
            if status.copy and status.copy.get("kept_as")
            else ""
        )
        console.nothing_to_do(f"{migration.name} is not applied: there is nothing to roll back.{kept}")
        return
    before(status)
    Run(client, rollback, "roll back", settings, console).carry_out(status)


def _rehearse_later(client: RpcClient, migration: Migration) -> None:
    """Begin the rebuilds that come after a migration in its file, and undo that, so that a refusal comes before the first one has
    changed anything. Skips those that may need what an ordinary step before them makes. Raises SqlError, with its place.
    """
    for step in migration.later_rebuilds:
        if migration.may_need_others(step):
            continue
        name = migration.name_of_part(step)
        try:
            client.query(_REHEARSAL.format(name=quote_literal(name), query=quote_literal(step.query)))
        except SqlError as error:
            raise in_its_place(step, error) from error


def _is_to_be_compared_anew(status: Status, migration: Migration) -> bool:
    """Whether the last run was told to stop between the comparison and the swap: much may have been written since."""
    steps = migration.comparison
    return (
        bool(steps)
        and all(status.is_done(step) for step in steps)
        and status.copy is not None
        and status.copy["state"] == "copied"
        and bool(status.runs)
        and status.runs[0]["outcome"] == "done"
    )


def _refuse_edited_steps(status: Status, migration: Migration) -> None:
    if edited := status.edited_steps(migration):
        names = ", ".join(f'"{step.name}" ({migration.file}:{step.line})' for step in edited)
        ways = (
            "or roll the migration back and run it again; or put the change into a new step."
            if migration.rebuilds or migration.rollback
            else "and the change into a new step or file; or, if the edit changes nothing, add --accept-edits. "
            "Under another name, the file runs again as a whole (a seed.sql)."
        )
        raise MigrationError(
            f"Steps that were done have been edited since: {names}.",
            hint=f"Nothing was run. Put the old text back, {ways}",
        )


class Run:
    """One run of a migration's steps: those of `migration`, which may be a rollback's. `action` is "migrate", "roll back" or "finish"."""

    def __init__(
        self, client: RpcClient, migration: Migration, action: str, settings: Settings, console: Console
    ) -> None:
        self._client, self._migration, self._action = client, migration, action
        self._settings, self._console = settings, console
        self._id = uuid.uuid4()

    def carry_out(self, status: Status) -> None:
        """Claim the migration and run its steps in order; `status`: where it stands. Raises MigrationError if it has to stop."""
        self._claim()
        with self._noting_failure(), self._console.steps(self._migration, status, self._action):
            sender = StepSender(self._client, self._migration, self._id, self._settings, self._console)
            for step in self._migration.steps:
                self._console.step_begins(step)
                self._console.step_done(step, sender.send_until_done(step))
        status_at_end = self._end("done")
        if status_at_end is None:
            self._console.warn(
                f"The journal could not be told that this run has ended. It counts as ended in {RUN_PATIENCE:.0f} s."
            )
        self._console.close(status_at_end.copy if status_at_end else None)

    def _claim(self) -> None:
        """Register this run; wait while another one is under way, unless its process on this machine is gone."""
        wait = Wait(self._settings.patience)
        host = socket.gethostname()
        user, dead = f"{_user()}@{host}", None
        options = {"lock_budget": self._settings.lock_budget, "ignore_snapshots": self._settings.ignore_snapshots}
        while True:
            answer = start_run(
                self._client, self._id, self._migration, self._action,
                user=user, pid=os.getpid(), dead=dead, options=options,
            )  # fmt: skip
            if answer["state"] == "done":
                return
            other = answer.get("run") or {}
            is_here = other.get("client", "").endswith(f"@{host}")
            if is_here and not _is_alive(other.get("pid")) and dead != other.get("id"):
                dead = other["id"]
                continue
            self._console.waiting(f"another run to end: {describe_busy(answer)}", wait.seconds)
            wait.pause(f"Another run of {self._migration.name} is under way: {describe_busy(answer)}.")

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """A context that notes in the journal how the run ended, if an error or Ctrl-C ends it."""
        try:
            yield
        except KeyboardInterrupt:
            self._end("interrupted", "stopped by the user", patience=0.0)
            raise self._stopped() from None
        except NothingToDo:
            self._end("done")
            raise
        except Exception as error:
            message = error.message if isinstance(error, MigrationError) else type(error).__name__
            self._end("failed", message, patience=0.0 if isinstance(error, Unreachable) else END_PATIENCE)
            raise

    def _stopped(self) -> StoppedByUser:
        done = self._console.steps_done()
        name, steps = self._migration.name, len(self._migration.steps)
        return StoppedByUser(
            f"Interrupted after {len(done)} of {steps} steps of {name}. Nothing is half done.",
            details=f"Done: {', '.join(done) or 'none'}. The step that is under way may still be done; none after it is begun.",
            hint=f"To continue:\n{PYTHON} {shlex.join(sys.argv)}",
        )

    def _end(self, outcome: str, message: str | None = None, *, patience: float = END_PATIENCE) -> Status | None:
        """Note in the journal how the run ended, and return where the migration stood then; None if that fails.

        A run that nobody has ended counts as ended after RUN_PATIENCE.
        """
        with suppress(MigrationError, KeyboardInterrupt):
            return end_run(self._client, self._id, self._migration, outcome, message, patience=patience)
        return None


def _user() -> str:
    try:
        return getpass.getuser().encode("utf-8", "replace").decode()  # its bytes may be no text
    except (KeyError, OSError):
        return "unknown"


def _is_alive(pid: int | None) -> bool:
    """Whether a process runs on this machine; if that cannot be known it counts as alive."""
    if not pid:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
