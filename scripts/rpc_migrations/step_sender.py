"""Sends the steps of a run through execute_sql, one after another, until the database says of each that it is done."""

from __future__ import annotations

import time
import uuid
from collections import deque
from itertools import accumulate
from typing import Any

from .client import RpcClient
from .console import Console
from .error_places import in_its_place
from .errors import Blocked, MigrationError, NothingToDo, SqlError, StatementTimedOut
from .journal import replication_lag
from .journal_words import describe_busy, describe_holders, describe_run
from .migration import Migration, Step
from .patience import Attempts, Wait, rest_after
from .places import DEPLOY_COMMAND
from .rest_errors import MAKE_ROOM
from .settings import Settings
from .shapes import not_supabase

MAX_FOLLOWING = 100_000  # characters of SQL sent along with a step, in case the same request can run them
_BACKLOG = 12  # times the patience (an hour, unless told otherwise)
_LATER = "At a quieter hour, or with a larger MIGRATION_LOCK_BUDGET,"
_COME_AND_GO = "What is in the way comes and goes, but there is always something: with a larger MIGRATION_LOCK_BUDGET (the application may then wait for so many seconds),"
SHRINK_STEP, MAX_SHRINK = 2, 20  # each statement timeout quarters a batch, down to a millionth


class StepSender:
    """Sends steps until the database says that they are done; each together with those that follow, as far as one request goes."""

    def __init__(
        self, client: RpcClient, migration: Migration, run: uuid.UUID, settings: Settings, console: Console
    ) -> None:
        self._client, self._migration, self._run, self._console = client, migration, run, console
        self._patience, self._max_lag, self._pace = settings.patience, settings.max_lag, settings.pace
        self._worked = 0.0  # seconds that the last request took
        self._backlog = Wait(_BACKLOG * settings.patience)  # before the swap has caught up once
        self._answers: deque[dict[str, Any]] = deque()  # answers that have not been looked at yet

    def send_until_done(self, step: Step) -> dict[str, Any]:
        """Return the last answer. Raises MigrationError, with the step's name and place, if it cannot be done."""
        wait, attempts, shrink = Wait(self._patience), Attempts(self._patience), 0
        while True:
            while not self._answers:
                self._hold_back(step)
                shrink = self._request(step, shrink, attempts)
            answer = self._answers.popleft()
            if answer.get("step", self._known_as(step)[1]) != self._known_as(step)[1]:
                raise not_supabase()
            if undone := answer.get("undone"):
                self._console.detail(
                    f'"{undone["step"]}" failed behind others and is sent by itself: {undone["message"]}'
                )
            if answer["state"] == "done":
                return answer
            if answer["state"] != "busy":  # most likely an earlier attempt, whose answer was lost, is still at work
                attempts.succeeded()
            self._go_on(step, answer, wait)

    def _hold_back(self, step: Step) -> None:
        """Pause, as --pace and --max-lag ask for. Not at the swap: what waits to be replayed would only grow meanwhile."""
        if step.swaps:
            return
        if self._pace < 1 and self._worked:
            rest = rest_after(self._worked, self._pace)
            self._console.holding_back(rest, self._pace)
            time.sleep(rest)
        wait = Wait(self._patience)
        while self._max_lag is not None and (behind := replication_lag(self._client, self._run, self._max_lag)):
            self._console.waiting(f"{behind} (--max-lag {self._max_lag / 1e6:g})", wait.seconds)
            wait.pause(f'Before step "{step.name}": {behind}, more than --max-lag allows.')

    def _request(self, step: Step, shrink: int, attempts: Attempts) -> int:
        """Send a step, and keep the answers. Returns how far batches are to shrink: further, if a timeout cut this one."""
        began = time.monotonic()
        try:
            self._answers.extend(self._client.run_steps(self._arguments(step, shrink), attempts))
        except StatementTimedOut as error:
            if not step.can_shrink or shrink >= MAX_SHRINK:
                error.message += f" after {time.monotonic() - began:.1f} s"
                raise in_its_place(step, error) from error
            self._console.note(f'a timeout cut a batch of "{step.name}"; going on with smaller ones')
            return shrink + SHRINK_STEP
        except NothingToDo:
            raise
        except SqlError as error:
            raise in_its_place(step, error) from error
        finally:
            self._worked = time.monotonic() - began
        return shrink

    def _arguments(self, step: Step, shrink: int) -> dict[str, Any]:
        """The arguments for execute_sql. A batch that was cut by a timeout is sent alone."""
        arguments = {"run": str(self._run), "shrink": shrink, **self._as_sent(step)}
        if not shrink:
            steps = self._migration.steps
            later = steps[steps.index(step) + 1 :]
            sizes = accumulate(len(one.query) for one in later)
            arguments["following"] = [
                {**self._as_sent(one), "calls": sorted(one.calls)}
                for one, size in zip(later, sizes, strict=True)
                if size <= MAX_FOLLOWING
            ]
        return arguments

    def _go_on(self, step: Step, answer: dict[str, Any], wait: Wait) -> None:
        """Act on an answer other than "done": show progress, wait, or raise MigrationError."""
        match answer["state"]:
            case "more":
                if not step.swaps:
                    wait.over()
                elif what := (answer.get("result") or {}).get("message"):
                    # Replaying alone brings the swap no nearer. But there may be days of it when a run goes on with one that was held back.
                    limit = wait if wait.seconds else self._backlog
                    limit.pause(f'Step "{step.name}" was still {what}.', _LATER, at_once=True)
                self._console.step_goes_on(step, answer)
            case "waiting":
                result, in_the_way = answer.get("result") or {}, answer.get("holders")
                what = result.get("message")
                holders = "" if what and not in_the_way else f": {describe_holders(in_the_way)}"
                what = what or "a lock"
                self._console.waiting(what + holders, wait.seconds)
                remedies = [] if holders or what == "a lock" else [_LATER]  # nobody is in the way
                if what == "a lock" and all(
                    (one.get("transaction_seconds") or 0) < wait.seconds / 2 for one in in_the_way or ()
                ):
                    remedies = [_COME_AND_GO]
                why_not = f"waited for {what}, and did not get it{holders}."
                try:
                    # A pause after it has only caught up would let more be written.
                    wait.pause(why_not, *remedies, at_once=bool(result.get("ends_request")))
                except Blocked as blocked:
                    blocked.details = answer.get("details")  # a statement of the step may have raised it by itself
                    raise in_its_place(step, blocked) from None
            case "busy":
                self._console.waiting(f"an earlier attempt, or another run: {describe_busy(answer)}", wait.seconds)
                wait.pause(f"Another session is inside {self._migration.name}: {describe_busy(answer)}.")
            case "disk_full":
                self._request(step, SHRINK_STEP, Attempts(self._patience))  # alone: this is what gives the room back
                emptied = [again["state"] for again in self._answers] == ["more"]
                raise in_its_place(step, _disk_full(answer, emptied=emptied))
            case "taken_over":
                raise _taken_over(self._migration.name, answer.get("by"))
            case state:
                raise MigrationError(
                    f"execute_sql gave an answer that this version does not know: {state}.",
                    hint=f"Run: {DEPLOY_COMMAND}",
                )

    def _as_sent(self, step: Step) -> dict[str, Any]:
        """A step as execute_sql takes it."""
        migration, name = self._known_as(step)
        return {
            **step.as_sent, "migration": migration, "step": name, "checksum": " ".join(step.checksums), "record": step.record,
        }  # fmt: skip

    def _known_as(self, step: Step) -> tuple[str, str]:
        """The migration and the step, as the journal knows them."""
        return step.known_as or (self._migration.name, step.name)


def _taken_over(name: str, by: dict[str, Any] | None) -> Blocked:
    """The journal has this run as ended. `by`: the newer one that goes on, if there is one."""
    if by is None:
        return Blocked(
            f"This run of {name} counts as ended, and no newer one has begun.",
            hint="Somebody has ended it in the journal. To go on, run the same command again.",
        )
    return Blocked(
        f"A newer run of {name} has taken over: {describe_run(by)}.",
        hint="Let it finish. Then the same command with --status says where it stands.",
    )


def _disk_full(answer: dict[str, Any], *, emptied: bool) -> SqlError:
    """The disk is full; the database has emptied the copy, so that the application can go on, or could not."""
    removed = "were removed, so that the application has room to go on" if emptied else "could not be removed just now"
    return SqlError(
        f"the disk is full: {answer.get('message')}",
        code=answer.get("code"),
        details=f"The rows copied so far {removed}. Its table is as it was.",
        hint=f"{MAKE_ROOM}: the copy begins anew. Or roll back, which removes it: until then changes are captured, which takes room as well.",
    )
