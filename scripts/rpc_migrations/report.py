"""What a command has found and done, as data. The package console shows it: as a live list, as plain lines, as JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import MigrationError
    from .journal import Status
    from .migration import Migration, Step


@dataclass
class StepReport:
    """How far a step of a run is. Times are the client's."""

    name: str
    batch: bool
    state: str = "to do"  # or running, done, failed
    rows: int = 0
    calls: int = 0
    seconds: float = 0.0
    longest_call: float = 0.0  # seconds
    already: bool = False  # done before this run
    progress: float | None = None  # of a batch step, from 0 to 1
    message: str | None = None  # what the database said of it
    began: float | None = None  # on the monotonic clock
    counts_rows: bool = False  # see Step
    rows_before: int = 0  # rows that earlier runs did
    first_progress: tuple[float, float] | None = None  # seconds and progress after the first call of this run

    def begin(self, moment: float) -> None:
        """Mark it as running since a moment on the monotonic clock."""
        self.state, self.began = "running", moment

    def take(self, answer: dict[str, Any]) -> None:
        """Take in what execute_sql answered about it."""
        result = answer.get("result")
        result = result if isinstance(result, dict) else {}  # a row of the step's own, whatever its columns hold
        progress, message = result.get("progress"), result.get("message")
        self.calls += 1
        self.longest_call = max(self.longest_call, answer["call_seconds"])
        self.rows = (answer.get("rows") or 0) + (0 if answer.get("already") else self.rows)
        self.progress = progress if isinstance(progress, int | float) else None
        self.message = message if message and isinstance(message, str) else self.message
        self.seconds = answer["ended"] - self.began if self.began else 0.0
        if self.first_progress is None and self.progress is not None:
            self.first_progress = (self.seconds, self.progress)

    @property
    def seconds_left(self) -> float | None:
        """Roughly how long a batch step still takes at this run's pace; None if that is not known yet."""
        if self.progress is None or self.first_progress is None or self.progress <= self.first_progress[1]:
            return None
        seconds, progress = self.first_progress
        return (self.seconds - seconds) * (1 - self.progress) / (self.progress - progress)

    def tick(self) -> None:
        """Bring its time up to date while it runs."""
        if self.state == "running" and self.began:
            self.seconds = time.monotonic() - self.began


@dataclass
class RunReport:
    """A run of a migration's steps. The action is "migrate", "roll back" or "finish"."""

    migration: str
    action: str
    steps: dict[str, StepReport]  # by name, in order
    closing: str = ""  # what to say when all of them are done
    waiting_for: str | None = None  # what the running step waits for at the moment, in words
    table: dict[str, Any] | None = None  # the table that it rebuilt, as the journal has it at the end
    next_steps: list[str] | None = None  # what to do afterwards; None: it has not ended
    held_back: float = 0.0  # seconds of pauses for --pace
    stops_before: str | None = None  # the step of the file before which it was told to stop
    step_ended: float = field(default_factory=time.monotonic)  # when the last step did, and the next one began

    @classmethod
    def of(cls, migration: Migration, action: str, status: Status) -> RunReport:
        """The report of a run that is about to begin; `status`: where the migration stands."""
        steps = {step.name: StepReport(step.name, step.batch) for step in migration.steps}
        for step in migration.steps:
            one = steps[step.name]
            one.counts_rows = step.counts_rows
            one.rows = one.rows_before = status.steps[step.name]["rows"] if step.name in status.steps else 0
            if status.is_done(step):
                steps[step.name].state, steps[step.name].already = "done", True
        done = {"migrate": "is applied", "roll back": "is rolled back", "finish": "is finished"}[action]
        return cls(
            migration.name,
            action,
            steps,
            closing=migration.closing or f"{migration.name} {done}",
            stops_before=migration.stops_before,
        )

    def begin(self, step: Step) -> StepReport:
        """Note that a step is running; return its report."""
        self.waiting_for = None
        self.steps[step.name].begin(self.step_ended)
        return self.steps[step.name]

    def take(self, step: Step, answer: dict[str, Any]) -> StepReport:
        """Take in what execute_sql answered about a step; return its report."""
        self.waiting_for = None
        self.steps[step.name].take(answer)
        self.step_ended = answer["ended"]
        return self.steps[step.name]

    def finish(self, step: Step, answer: dict[str, Any]) -> StepReport:
        """Take in the last answer about a step, which is done, by this run or before it; return its report."""
        done = self.take(step, answer)
        done.state, done.already = "done", bool(answer.get("already"))
        return done

    def fail(self) -> None:
        """The run has stopped: the step that was running has failed."""
        for step in self.steps.values():
            step.state = "failed" if step.state == "running" else step.state

    @property
    def was_given_up(self) -> bool:
        """Whether it has given up a rollback: the migrated table stays in use."""
        return self.action == "roll back" and self.table is not None and self.table["state"] == "swapped"

    @property
    def done(self) -> list[str]:
        """Names of the steps that are done."""
        return [step.name for step in self.steps.values() if step.state == "done"]

    @property
    def rows(self) -> int:
        """How many rows of tables its batch steps have worked on, in this run and before it."""
        return sum(step.rows for step in self.steps.values() if step.batch and step.counts_rows)

    @property
    def rows_before(self) -> int:
        """How many of them earlier runs did."""
        counted = [step for step in self.steps.values() if step.batch and step.counts_rows]
        return sum(step.rows if step.already else step.rows_before for step in counted)

    @property
    def steps_of_this_run(self) -> list[StepReport]:
        """The steps that this run has done, wholly or in part."""
        return [step for step in self.steps.values() if step.state == "done" and not step.already]


@dataclass(frozen=True)
class PlanReport:
    """What a run would do."""

    migration: str
    action: str
    steps: list[tuple[Step, str]]  # each with its state: to do, done


@dataclass(frozen=True)
class StatusReport:
    """What the journal says of a migration."""

    migration: str
    steps: list[dict[str, Any]]  # name, state, rows, seconds, calls, finished_at
    runs: list[dict[str, Any]]  # the newest first
    table: dict[str, Any] | None
    calls: dict[str, Any] | None = None  # what execute_sql was called with, where that was asked for


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    check: str
    passed: bool
    detail: str | None = None


@dataclass(frozen=True)
class ChecksReport:
    """What was looked at."""

    title: str
    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        """Those that failed."""
        return [check for check in self.checks if not check.passed]


@dataclass(frozen=True)
class FolderReport:
    """Where the files of a folder stand."""

    files: list[dict[str, Any]]  # file, state, finished_at, client, edited
    others: list[dict[str, Any]]  # migrations that have no file here: migration, state, finished_at, client


@dataclass
class Report:
    """A command from its beginning to its end. Times are in seconds."""

    command: str
    # done, nothing to do, dry run, written, failed, interrupted, declined; None: not known yet
    outcome: str | None = None
    lines: list[str] = field(default_factory=list)  # the results
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # retries, waits
    result: RunReport | PlanReport | StatusReport | ChecksReport | FolderReport | None = None
    earlier: list[Any] = field(default_factory=list)  # results before it, if there are several migrations
    files: list[str] = field(default_factory=list)  # that were written
    error: MigrationError | None = None  # what stopped it
    requests: int | None = None  # None: there was no connection
    longest_request: float = 0.0
    exit_code: int = 0
    began: float = field(default_factory=time.monotonic)

    def add(self, result: RunReport | PlanReport | StatusReport | ChecksReport | FolderReport) -> None:
        """Add a result; an earlier one moves to `earlier`."""
        if self.result is not None:
            self.earlier.append(self.result)
        self.result = result

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self.began
