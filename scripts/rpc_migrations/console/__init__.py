"""What the person sees. `Console` puts what happens into words, keeps it in a report and shows it: as a live list on a terminal,
as plain lines elsewhere, as one JSON document with --json.

Results go to standard output; retries, waits, warnings and errors to standard error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from ..journal_words import count, describe_copy, describe_kept, moment
from ..places import LAST_RESORT
from ..report import Check, ChecksReport, FolderReport, PlanReport, Report, RunReport, StatusReport
from . import tables
from .closing import closing_lines
from .document import document
from .lasting import Lasting
from .lines import Lines, log_lines
from .terminal import Terminal, escaped

if TYPE_CHECKING:
    from ..errors import MigrationError
    from ..folder import MigrationState
    from ..journal import Status
    from ..migration import Migration, Step


class Console:
    """The one place that prints. `quiet`: only errors and warnings; `verbose`: details as well; `log`: a file that gets everything."""

    def __init__(
        self,
        command: str,
        *,
        as_json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        log: TextIO | None = None,
    ) -> None:
        self.report = Report(command)
        self.next_steps: list[str] = []  # what to do after the command, for the closing lines
        self._as_json = as_json
        self._log = log
        self._run: RunReport | None = None  # the one that is under way, or was the last
        self._view = _choose_view(as_json=as_json, quiet=quiet, verbose=verbose)
        self._views = [self._view, *([log_lines(log)] if log else [])]

    def _show(self, what: str, *values: Any) -> None:
        """Call a method of every view."""
        for view in self._views:
            getattr(view, what)(*values)

    # --- lines ---------------------------------------------------------------------------------------------------

    def say(self, text: str, style: str = "") -> None:
        """A line of the result."""
        self.report.lines.append(text)
        self._show("say", text, style)

    def nothing_to_do(self, text: str) -> None:
        """A line of the result: there was nothing to do."""
        self.report.outcome = "nothing to do"
        self.say(f"Nothing to do. {text}")

    def note(self, text: str) -> None:
        """A line about progress: a retry, a wait."""
        self.report.notes.append(text)
        self._show("note", text)

    def detail(self, text: str) -> None:
        """A line for --verbose; the report does not keep it."""
        self._show("detail", text)

    def warn(self, text: str) -> None:
        """A warning, also when quiet."""
        self.report.warnings.append(text)
        self._show("warn", text)

    def error(self, error: MigrationError) -> None:
        """What stopped the command and what to do next. Shown once, even if the same error comes again."""
        if self.report.error is error:
            return
        error.hint = error.hint or LAST_RESORT
        self.report.error = error
        self.report.outcome = error.outcome
        self._show("error", error)

    def retrying(self, fault: MigrationError, pause: float, attempt: int) -> None:
        """An attempt failed with a transient fault; the next one comes after `pause` seconds."""
        self.note(f"attempt {attempt} failed ({fault.message}); trying again in {pause:.1f} s")

    def waiting(self, what: str, seconds: float) -> None:
        """We have been waiting for something for so many seconds. A list shows it all the time, lines repeat it now and then."""
        self._stand_still(f"waiting for {what} (since {seconds:.0f} s)", first=seconds == 0)

    def holding_back(self, seconds: float, share: float) -> None:
        """We pause for so many seconds, to work only for a share of the time."""
        assert self._run
        self._stand_still(f"pausing for {seconds:.1f} s (--pace {share:g})", first=not self._run.held_back)
        self._run.held_back += seconds

    def _stand_still(self, text: str, *, first: bool) -> None:
        if self._run:
            self._run.waiting_for = text
        told = [view for view in self._views if view.is_time_for_a_line(first=first)]
        if told:
            self.report.notes.append(text)
        for view in told:
            view.note(text)

    # --- questions -----------------------------------------------------------------------------------------------

    @property
    def can_ask(self) -> bool:
        """Whether a person is there: standard input and standard error are terminals."""
        return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))

    def ask(self, lines: list[str], question: str) -> str | None:
        """Say something on standard error and wait for a line; return what was typed, or None at the end of input.

        The time that the person takes does not count as the run's.
        """
        began = time.monotonic()
        self._view.ask(lines, question)
        answer = ""
        try:
            answer = sys.stdin.readline()
        except OSError:  # the terminal has gone
            return None
        finally:
            if not answer.endswith("\n"):
                self._view.err.print()  # so that what comes next begins a new line
        self.report.began += time.monotonic() - began
        for log in self._views[1:]:
            log.note(f"{question} {answer.strip()}")
        return answer.strip() if answer else None

    # --- a run ---------------------------------------------------------------------------------------------------

    @contextmanager
    def steps(self, migration: Migration, status: Status, action: str) -> Iterator[None]:
        """A context in which the steps of a run are shown; `status`: where the migration stands before it."""
        run = self._run = RunReport.of(migration, action, status)
        self.report.add(run)
        doing = {"migrate": "Migrating", "roll back": "Rolling back", "finish": "Finishing"}[action]
        self.say(f"{doing}: {migration.name}, {count(len(migration.steps), 'step')}")
        with self._view.steps(run):
            try:
                yield
            except BaseException:
                run.fail()
                raise

    def step_begins(self, step: Step) -> None:
        """A step is the next one to be done."""
        assert self._run
        self._run.begin(step)
        self._show("step_begins")
        self.detail(f'"{step.name}" begins ({step.file}, line {step.line})')

    def step_goes_on(self, step: Step, answer: dict[str, Any]) -> None:
        """A batch step has done another batch."""
        assert self._run
        self._show("step_goes_on", self._run.take(step, answer))

    def step_done(self, step: Step, answer: dict[str, Any]) -> None:
        """A step is done, by this run or before it."""
        assert self._run
        done = self._run.finish(step, answer)
        self._show("step_done", done, self._run)
        calls = count(done.calls, "call")
        self.detail(f'"{done.name}": {calls}, the longest {done.longest_call:.2f} s')

    def steps_done(self) -> list[str]:
        """Names of the steps that are done."""
        return self._run.done if self._run else []

    def already_done(self, migration: Migration, status: Status) -> None:
        """Every step of the migration was done before this run."""
        if migration.stops_before:
            self.nothing_to_do(f'All steps of {migration.name} before "{migration.stops_before}" are done.')
            return
        steps = f"all {len(migration.steps)} steps are" if len(migration.steps) > 1 else "its one step is"
        self.nothing_to_do(
            f"{migration.name} is applied already: {steps} done, the last one at {moment(status.last_finished_at)}."
        )

    def close(self, table: dict[str, Any] | None) -> None:
        """The end of a run: what it has done, where the original table is, what to do next."""
        run = self._run
        assert run
        run.table = table
        run.next_steps = [] if run.was_given_up else self.next_steps
        if not run.stops_before and not run.steps_of_this_run:
            self.nothing_to_do(
                f"{run.closing} already: another run, or a request of this one whose answer was lost, did its steps."
            )
            return
        lines = closing_lines(run, self.report.seconds)
        self.report.outcome = "done"
        self.report.lines += lines
        self._show("close", lines)

    # --- what was found ------------------------------------------------------------------------------------------

    def plan(self, migration: Migration, action: str, done: set[str] | None) -> None:
        """Each step, done or to do, and its SQL. `done`: the names of those done; None if not known, and all count as to do."""
        steps = [(step, "done" if done and step.name in done else "to do") for step in migration.steps]
        plan = PlanReport(migration.name, action, steps)
        self.report.outcome = "dry run"
        self.report.add(plan)
        what = {"migrate": "", "roll back": "the rollback of ", "finish": "finishing "}[action] + migration.name
        self.say(f"Plan of {what}, {count(len(migration.steps), 'step')}. Nothing is run.")
        self._show("plan", plan)

    def status(self, migration: Migration, status: Status, calls: dict[str, Any] | None) -> None:
        """What the journal says of a migration's steps and runs; and the last calls of execute_sql, if given."""
        found = StatusReport(migration.name, status.list_steps(migration), status.runs, status.copy, calls)
        self.report.outcome = "done"
        self.report.add(found)
        self._show("table", f"Steps of {migration.name}", *tables.steps(found.steps))
        self._show("table", "Runs, the newest first", *tables.runs(found.runs))
        if found.table:
            restored = "; restored from a dump" if found.table.get("restored") else ""
            kept = describe_kept(found.table, status.finished_at)
            self.say(f"Table {found.table['table']}: {found.table['state']}; {kept}{restored}")
            for line in describe_copy(status.copy, status.steps):
                self.say(line)
        if calls:
            self._show("table", "Last calls of execute_sql that changed something", *tables.calls(calls["calls"]))
            self.say(f"{calls['total']:,} calls on record in all (kept for 90 days), those that only read among them")

    def folder(self, title: str, files: list[MigrationState], others: list[dict[str, Any]], *, outcome: str) -> None:
        """Where the migrations of a folder stand, and what else the journal has (migration, state, finished_at, client)."""
        listed = [one.to_dict() for one in files]
        self.report.outcome = outcome
        self.report.add(FolderReport(listed, others))
        if listed:
            self._show("table", title, *tables.files(listed))
        else:
            self.nothing_to_do("All files are applied.")
        if others:
            self._show("table", "Unknown here", *tables.others(others))

    def checks(self, title: str, checks: list[Check]) -> bool:
        """A table of checks, and how many passed and failed. Returns whether all passed."""
        report = ChecksReport(title, checks)
        self.report.add(report)
        failed = len(report.failed)
        self.report.outcome = "failed" if failed else "done"
        self._show("table", title, *tables.checks(checks))
        self.say(f"{len(checks) - failed} passed, {failed} failed", style="bold red" if failed else "bold green")
        return not failed

    # --- the end -------------------------------------------------------------------------------------------------

    def finish(self, exit_code: int) -> None:
        """The command has ended. With --json, prints the report."""
        self.report.exit_code = exit_code
        self.report.outcome = self.report.outcome or ("done" if exit_code == 0 else "failed")
        self._tell_losses()
        if self._as_json:
            self._view.write(escaped(json.dumps(document(self.report), indent=2, ensure_ascii=False)))
            self._tell_losses()

    def _tell_losses(self) -> None:
        """Warn, once for each, of streams that could not be written."""
        for stream in (sys.stdout, sys.stderr, self._log):
            if isinstance(stream, Lasting) and stream.lost:
                self.warn(f"{stream.name} could not be written ({stream.lost}). The command went on without it.")
                stream.lost = None


def _choose_view(*, as_json: bool, quiet: bool, verbose: bool) -> Lines:
    """A live list where it can be drawn anew, else plain lines; with --json nothing but the document goes to standard output."""
    out, err = Terminal(quiet=quiet or as_json), Terminal(stderr=True)
    if out.can_redraw and not out.quiet:
        from .live import LiveList

        return LiveList(out, err, quiet=quiet, verbose=verbose)
    return Lines(out, err, quiet=quiet, verbose=verbose)
