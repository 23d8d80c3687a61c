"""Runs a migration: look where it stands, claim it, send each step until it is done, say how it ended."""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from .client import Attempts, RpcClient
from .console import Console
from .errors import (
    Blocked,
    MigrationError,
    NothingToDo,
    SqlError,
    StatementTimedOut,
    StoppedByUser,
    Unreachable,
)
from .journal import (
    RUN_PATIENCE,
    Status,
    describe_busy,
    describe_holders,
    describe_run,
    end_run,
    read_status,
    start_run,
)
from .settings import Settings
from .step_file import Migration, Step

END_PATIENCE = 5.0  # seconds to go on trying to tell the journal how a run ended
MAX_FOLLOWING = 100_000  # characters of SQL that are sent along with a step, on the chance that they are run with it
SHRINK_STEP, MAX_SHRINK = 2, 20  # each statement timeout quarters a batch, down to a millionth


def migrate(client: RpcClient, migration: Migration, settings: Settings, console: Console) -> None:
    """Run what is left of a migration. Raises MigrationError where it has to stop; what was done stays done."""
    status = read_status(client, migration)
    if status.is_rolling_back:
        raise MigrationError(
            f"A rollback of {migration.name} is under way.",
            hint="Finish it with the rollback command first; then migrate again.",
        )
    _refuse_edited_steps(status, migration)
    if all(status.is_done(step) for step in migration.steps):
        console.already_done(migration, status)
        return
    if unknown := status.steps_of_another_file(migration):
        console.warn(
            f"{migration.name} was begun with another version of its file, which had steps that this one has not: {', '.join(unknown)}. "
            "Should a step fail for it, roll the migration back and run it again."
        )
    try:
        _run_steps(client, migration, "migrate", status, settings, console)
    except NothingToDo as reason:
        console.nothing_to_do(f"{reason.message}. {reason.hint or ''}".strip())


def roll_back(
    client: RpcClient, migration: Migration, rollback: Migration, settings: Settings, console: Console
) -> None:
    """Take a migration back with the steps of `rollback`, which bears its name. Raises as `migrate` does."""
    if not any("rpc_migrations.begin_copy" in step.sql for step in migration.steps):
        raise MigrationError(
            f"{migration.path.name} makes no online copy of a table, so there is no original to go back to.",
            hint="Write a step file that undoes what it did, and run that.",
        )
    status = read_status(client, migration)
    if not status.is_begun and not status.has_unfinished(rollback):
        kept = (
            f" The migrated table of the last rollback is kept as {status.copy['kept_as']}."
            if status.copy and status.copy.get("kept_as")
            else ""
        )
        console.nothing_to_do(f"{migration.name} is not applied: there is nothing to roll back.{kept}")
        return
    _run_steps(client, rollback, "roll back", status, settings, console)


def _refuse_edited_steps(status: Status, migration: Migration) -> None:
    if edited := status.edited_steps(migration):
        names = ", ".join(f'"{step.name}" ({migration.path.name}:{step.line})' for step in edited)
        raise MigrationError(
            f"Steps that were done have been edited since: {names}.",
            hint="Put their old text back; or roll the migration back and run it again; or put the change into a new step. Nothing was run.",
        )


def _run_steps(
    client: RpcClient, migration: Migration, action: str, status: Status, settings: Settings, console: Console
) -> None:
    """Claim the migration and run its steps in order."""
    run = uuid.uuid4()
    _claim(client, run, migration, action, settings, console)
    with _noting_failure(client, run, migration, console), console.steps(migration, status, action):
        sender = _StepSender(client, migration, run, settings, console)
        for step in migration.steps:
            console.step_begins(step)
            console.step_done(step, sender.send_until_done(step))
    status_at_end = _end_run(client, run, migration, "done")
    if status_at_end is None:
        console.warn(
            f"The journal could not be told that this run has ended. It counts as ended in {RUN_PATIENCE:.0f} s."
        )
    console.close(status_at_end.copy if status_at_end else None)


def _claim(
    client: RpcClient, run: uuid.UUID, migration: Migration, action: str, settings: Settings, console: Console
) -> None:
    """Register this run; wait while another one is under way. A run whose process is gone is not waited for."""
    wait = Wait(settings.patience)
    host = socket.gethostname()
    dead: str | None = None
    while True:
        answer = start_run(client, run, migration, action, user=f"{_user()}@{host}", pid=os.getpid(), dead=dead)
        if answer["state"] == "done":
            return
        other = answer.get("run") or {}
        if other.get("client", "").endswith(f"@{host}") and not _is_alive(other.get("pid")) and dead != other.get("id"):
            dead = other["id"]
            continue
        console.waiting(f"another run to end: {describe_busy(answer)}", wait.seconds)
        wait.pause(f"Another run of {migration.name} is under way: {describe_busy(answer)}.")


@contextmanager
def _noting_failure(client: RpcClient, run: uuid.UUID, migration: Migration, console: Console) -> Iterator[None]:
    """Note in the journal how a run ended that has not come to its end."""
    try:
        yield
    except KeyboardInterrupt:
        _end_run(client, run, migration, "interrupted", "stopped by the user", patience=0.0)
        done = console.steps_done()
        raise StoppedByUser(
            f"Stopped. {len(done)} of {len(migration.steps)} steps of {migration.name} are done; no step is half done.",
            details=f"Done: {', '.join(done) or 'none'}. The step that is under way may still be done; none after it is begun.",
            hint=f"The same command goes on where this run stopped: {shlex.join(['python', *sys.argv])}",
        ) from None
    except NothingToDo:
        _end_run(client, run, migration, "done")
        raise
    except Exception as error:
        message = error.message if isinstance(error, MigrationError) else type(error).__name__
        patience = 0.0 if isinstance(error, Unreachable) else END_PATIENCE
        _end_run(client, run, migration, "failed", message, patience=patience)
        raise


def _end_run(
    client: RpcClient,
    run: uuid.UUID,
    migration: Migration,
    outcome: str,
    message: str | None = None,
    patience: float = END_PATIENCE,
) -> Status | None:
    """Note in the journal how the run ended, and return where the migration stood then; None where that fails.

    A run that nobody has ended counts as ended after RUN_PATIENCE.
    """
    with suppress(MigrationError, KeyboardInterrupt):
        return end_run(client, run, migration, outcome, message, patience=patience)
    return None


@dataclass
class Wait:
    """Growing, capped pauses, up to `patience` seconds in all without progress."""

    patience: float
    _since: float | None = None
    _pause: float = field(default=0.1)

    @property
    def seconds(self) -> float:
        """How long we have been waiting."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def pause(self, why_not: str) -> None:
        """Wait for a moment. Raises Blocked, with `why_not`, when the patience is used up."""
        if self._since is None:
            self._since = time.monotonic()
        if self.seconds + self._pause > self.patience:
            raise Blocked(
                why_not,
                hint=f"Gave up after {self.seconds:.0f} s; nothing is half done. See to what is in the way, then run the same command again "
                "(--patience SECONDS waits longer).",
            )
        time.sleep(self._pause)
        self._pause = min(self._pause * 1.5, 3.0)

    def over(self) -> None:
        """There was progress: begin anew."""
        self._since, self._pause = None, 0.1


class _StepSender:
    """Sends steps until the database says that they are done; each with those that follow it, as far as one request goes."""

    def __init__(
        self, client: RpcClient, migration: Migration, run: uuid.UUID, settings: Settings, console: Console
    ) -> None:
        self._client, self._migration, self._run, self._console = client, migration, run, console
        self._patience = settings.patience
        self._answers: deque[dict[str, Any]] = deque()  # what has been answered and not yet been looked at

    def send_until_done(self, step: Step) -> dict[str, Any]:
        """Return the last answer. Raises MigrationError, with the step's name and place, where it cannot be done."""
        wait, attempts, shrink = Wait(self._patience), Attempts(self._patience), 0
        while True:
            if not self._answers:
                began = time.monotonic()
                try:
                    self._answers.extend(self._client.run_steps(self._arguments(step, shrink), attempts))
                except StatementTimedOut as error:
                    if not step.batch or shrink >= MAX_SHRINK:
                        error.message += f" after {time.monotonic() - began:.1f} s"
                        raise self._in_context(step, error) from error
                    shrink += SHRINK_STEP
                    self._console.note(f'a timeout cut a batch of "{step.name}"; going on with smaller ones')
                    continue
                except NothingToDo:
                    raise
                except SqlError as error:
                    raise self._in_context(step, error) from error
            answer = self._answers.popleft()
            assert answer.get("step", step.name) == step.name
            if undone := answer.get("undone"):
                self._console.detail(
                    f'"{undone["step"]}" failed behind others and is sent by itself: {undone["message"]}'
                )
            if answer["state"] == "done":
                return answer
            if answer["state"] != "busy":  # most likely an earlier attempt that got no answer is still at work
                attempts.succeeded()
            self._go_on(step, answer, wait)

    def _arguments(self, step: Step, shrink: int) -> dict[str, Any]:
        """What execute_sql is called with. A batch that was cut by a timeout is sent without others."""
        arguments = {"migration": self._migration.name, "run": str(self._run), "shrink": shrink, **_as_sent(step)}
        if not shrink:
            steps = self._migration.steps
            later = steps[steps.index(step) + 1 :]
            sizes = accumulate(len(one.sql) for one in later)
            arguments["following"] = [
                _as_sent(one) for one, size in zip(later, sizes, strict=True) if size <= MAX_FOLLOWING
            ]
        return arguments

    def _go_on(self, step: Step, answer: dict[str, Any], wait: Wait) -> None:
        """Tell what the answer says, and wait where it is about waiting."""
        match answer["state"]:
            case "more":
                wait.over()
                self._console.step_goes_on(step, answer)
            case "waiting":
                self._console.waiting(f"a lock: {describe_holders(answer['holders'])}", wait.seconds)
                wait.pause(f'Step "{step.name}" could not get a lock: {describe_holders(answer["holders"])}.')
            case "busy":
                self._console.waiting(f"an earlier attempt, or another run: {describe_busy(answer)}", wait.seconds)
                wait.pause(f"Another session is inside {self._migration.name}: {describe_busy(answer)}.")
            case "taken_over":
                raise Blocked(
                    f"A newer run of {self._migration.name} has taken over: {describe_run(answer.get('by') or {})}.",
                    hint="Let it finish; run the same command afterwards to see where it stands (--status).",
                )
            case state:
                raise MigrationError(
                    f"execute_sql gave an answer that this version does not know: {state}.",
                    hint="Run: python scripts/deploy_sql_function.py",
                )

    def _in_context(self, step: Step, error: SqlError) -> SqlError:
        """The same error, with the step that it came from."""
        place = f"{step.path.name}, line {step.line}"
        return type(error)(
            f'Step "{step.name}" ({place}): {error.message}',
            hint=error.hint or "Nothing of this step remains. Mend what it names, then run the same command again.",
            details=error.details,
            code=error.code,
        )


def _as_sent(step: Step) -> dict[str, Any]:
    """A step as execute_sql takes it."""
    return {"query": step.sql, "step": step.name, "checksum": " ".join(step.checksums), "batch": step.batch}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _is_alive(pid: int | None) -> bool:
    """Whether a process of this machine is there; one that cannot be asked about counts as alive."""
    if not pid:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
