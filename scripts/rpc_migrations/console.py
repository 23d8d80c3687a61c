"""What the person sees: a live list on a terminal, plain lines in a pipe, or one JSON document (--json).

Results go to standard output; retries, waits, warnings and errors to standard error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.text import Text

from .errors import MigrationError
from .journal import moment

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from .journal import Status
    from .step_file import Migration, Step

PROGRESS_EVERY = 5.0  # seconds between two progress lines of one step in a pipe
MARKS = {"to do": ("·", "dim"), "running": ("▸", "cyan"), "done": ("✓", "green"), "failed": ("✗", "red")}


@dataclass
class StepView:
    """How a step stands, for the list and for the report."""

    name: str
    batch: bool
    state: str = "to do"
    rows: int = 0
    calls: int = 0
    seconds: float = 0.0
    longest_call: float = 0.0
    already: bool = False
    progress: float | None = None
    message: str | None = None
    began: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The step as it stands in the report of --json; seconds as the client saw them."""
        return {
            "name": self.name, "state": self.state, "rows": self.rows, "calls": self.calls, "seconds": round(self.seconds, 3),
            "longest_call": round(self.longest_call, 3), "already": self.already, "message": self.message,
        }  # fmt: skip


class Console:
    """The one place that prints. `mode`: "text" or "json"; `quiet`: errors and warnings only; `verbose`: more of both."""

    def __init__(self, command: str, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.out = RichConsole(highlight=False, soft_wrap=True, quiet=quiet or as_json)
        self.err = RichConsole(highlight=False, soft_wrap=True, stderr=True)
        self.verbose = verbose
        self.next_steps: list[str] = []  # what to do after the command, for the closing lines
        self._as_json = as_json
        self._quiet = quiet
        self._views: dict[str, StepView] = {}
        self._live: Any = None
        self._waiting: str | None = None
        self._last_line = 0.0
        self._began = time.monotonic()
        self._ended = self._began  # when the last step ended, which is when the next one begins
        self.report: dict[str, Any] = {"command": command, "outcome": None, "lines": [], "warnings": [], "notes": []}

    # --- lines ---------------------------------------------------------------------------------------------------

    def say(self, text: str, style: str = "") -> None:
        """A line of the result."""
        self.report["lines"].append(text)
        self.out.print(Text(text, style=style))

    def nothing_to_do(self, text: str) -> None:
        """A line of the result: there was nothing to do."""
        self.report["outcome"] = "nothing to do"
        self.say(f"Nothing to do. {text}")

    def note(self, text: str) -> None:
        """A line about how it goes, to standard error."""
        self.report["notes"].append(text)
        if not self._quiet:
            self.err.print(Text(f"  {text}", style="yellow"))

    def detail(self, text: str) -> None:
        """A line for --verbose, to standard error."""
        if self.verbose:
            self.err.print(Text(f"  {text}", style="dim"))

    def warn(self, text: str) -> None:
        """A warning, to standard error, also when quiet."""
        self.report["warnings"].append(text)
        self.err.print(Text(f"Warning: {text}", style="yellow"))

    def error(self, error: MigrationError) -> None:
        """What stopped the run and what to do next, to standard error."""
        self.report["error"] = error.to_dict()
        self.report["outcome"] = "interrupted" if error.exit_code == 130 else "failed"
        code = f" [{error.code}]" if error.code else ""
        self.err.print(Text.assemble(("Error: ", "bold red"), f"{error.message}{code}"))
        if error.details:
            self.err.print(Text(f"  Detail: {error.details}"))
        if error.hint:
            self.err.print(Text.assemble(("  What to do: ", "bold"), error.hint))

    def retrying(self, fault: MigrationError, pause: float, attempt: int) -> None:
        """An attempt failed in passing."""
        self.note(f"attempt {attempt} failed ({fault.message}); trying again in {pause:.1f} s")

    def waiting(self, what: str, seconds: float) -> None:
        """We wait for something, since so many seconds. Told on a terminal all the time, in a pipe now and then."""
        self._waiting = f"waiting for {what} (since {seconds:.0f} s)"
        if self._live is None and self._is_time_for_a_line(first=seconds == 0):
            self.note(self._waiting)

    # --- steps ---------------------------------------------------------------------------------------------------

    @contextmanager
    def steps(self, migration: Migration, status: Status, action: str) -> Iterator[None]:
        """Show the steps while they run, and close with what was done."""
        self.report.update(migration=migration.name, action=action)
        self._views = {
            step.name: StepView(
                step.name, step.batch, "done" if status.is_done(step) else "to do", already=status.is_done(step)
            )
            for step in migration.steps
        }
        self._ended = time.monotonic()
        self.say(
            f"{'Migrating' if action == 'migrate' else 'Rolling back'}: {migration.name}, {len(migration.steps)} steps"
        )
        try:
            if self.out.is_terminal and not self.out.quiet:
                from rich.live import Live

                with Live(get_renderable=self.step_list, console=self.out, refresh_per_second=8) as self._live:
                    yield
            else:
                yield
        except BaseException:
            for view in self._views.values():
                view.state = "failed" if view.state == "running" else view.state
            raise
        finally:
            self._live = None
            self.report["steps"] = [view.to_dict() for view in self._views.values()]

    def step_begins(self, step: Step) -> None:
        """A step is the next one to be done."""
        view = self._views[step.name]
        view.state, view.began, self._waiting, self._last_line = "running", self._ended, None, time.monotonic()
        self.detail(f'"{view.name}" begins ({step.path.name}, line {step.line})')

    def step_goes_on(self, step: Step, answer: dict[str, Any]) -> None:
        """A batch step has done another batch."""
        self._waiting = None
        view = self._take(step, answer)
        if self._live is None and self._is_time_for_a_line():
            self.out.print(Text(f"         {view.name}: {self._info(view)}", style="dim"))

    def step_done(self, step: Step, answer: dict[str, Any]) -> None:
        """A step is done, by this run or before it."""
        view = self._take(step, answer)
        view.state, view.already, self._waiting = "done", bool(answer.get("already")), None
        if self._live is None:
            place = list(self._views).index(step.name) + 1
            width = max(len(name) for name in self._views)
            self.out.print(Text(f"  {place:2d}/{len(self._views)}  {view.name:<{width}}  {self._info(view)}"))
        self.detail(f'"{view.name}": {view.calls} call(s), the longest {view.longest_call:.2f} s')

    def steps_done(self) -> list[str]:
        """Names of the steps that are done."""
        return [view.name for view in self._views.values() if view.state == "done"]

    def _take(self, step: Step, answer: dict[str, Any]) -> StepView:
        """Take an answer into the step's view."""
        view = self._views[step.name]
        result = answer.get("result") or {}
        view.calls += 1
        view.longest_call = max(view.longest_call, answer["call_seconds"])
        view.rows = answer["rows"] if answer.get("already") else view.rows + (answer.get("rows") or 0)
        view.progress = result.get("progress")
        view.message = result.get("message") or view.message
        self._ended = answer["ended"]
        view.seconds = self._ended - view.began if view.began else 0.0
        return view

    def _info(self, view: StepView) -> str:
        """Rows, time and what the database said of a step."""
        if view.already:
            return "done before"
        parts = [f"{view.rows:,} rows"] if view.rows else []
        if view.state == "running" and view.progress is not None and view.progress < 1:
            parts.insert(0, f"{view.progress:.0%}")
            parts.append(f"{view.rows / max(view.seconds, 0.001):,.0f} rows/s")
            if view.progress > 0:
                parts.append(f"{view.seconds * (1 - view.progress) / view.progress:.0f} s left")
        else:
            parts.append(f"{view.seconds:.2f} s")
        return ", ".join(parts) + (f"  {view.message}" if view.message else "")

    def _is_time_for_a_line(self, first: bool = False) -> bool:
        now = time.monotonic()
        if first or now - self._last_line >= PROGRESS_EVERY:
            self._last_line = now
            return True
        return False

    def step_list(self) -> Table:
        """The live list: every step, with a bar for a batch step that runs."""
        from rich.table import Table

        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=1, no_wrap=True)
        table.add_column(no_wrap=True, min_width=max((len(name) for name in self._views), default=0))
        table.add_column()
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for view in self._views.values():
            mark, style = MARKS[view.state]
            name = Text(view.name, "dim" if view.state == "to do" else "")
            table.add_row(Text(mark, style), name, _bar(view), self._step_info(view))
        return table

    def _step_info(self, view: StepView) -> Text:
        """What the live list says beside a step."""
        if view.state == "to do":
            return Text("")
        if view.state == "running" and self._waiting:
            return Text(self._waiting, "yellow")
        if view.state == "running" and view.began:
            view.seconds = time.monotonic() - view.began
        return Text(self._info(view), "dim")

    # --- tables and plans ----------------------------------------------------------------------------------------

    def plan(self, migration: Migration, action: str, done: set[str] | None) -> None:
        """Print each step, done or to do (as far as is known; nothing is where `done` is None), and its SQL."""
        self.report.update(migration=migration.name, action=action, outcome="dry run", steps=[])
        what = migration.name if action == "migrate" else f"the rollback of {migration.name}"
        self.say(f"Plan of {what}, {len(migration.steps)} steps. Nothing is run.")
        for place, step in enumerate(migration.steps, start=1):
            state = "to do" if done is None or step.name not in done else "done"
            self.report["steps"].append({"name": step.name, "state": state, "batch": step.batch, "sql": step.sql})
            self.out.print(
                Text(
                    f"\n{place:2d}/{len(migration.steps)}  {step.name}{' (batch)' if step.batch else ''}: {state}",
                    style="bold",
                )
            )
            self.out.print(Text(step.sql.rstrip("\n"), style="dim"))

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """Print a table: on a terminal a drawn one; in a pipe one line a row, whole, with two blanks between columns."""
        if not self.out.is_terminal:
            lines = [columns, *rows]
            widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
            self.out.print(Text(title))
            for row in lines:
                self.out.print(
                    Text("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
                )
            return
        from rich.table import Table

        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*(Text(cell, {"passed": "green", "FAILED": "bold red"}.get(cell, "")) for cell in row))
        self.out.print(table)

    def checks(self, title: str, checks: list[dict[str, Any]]) -> None:
        """Print checks that passed or failed, and how many of each."""
        failed = [check for check in checks if not check["passed"]]
        self.report["checks"] = checks
        self.report["outcome"] = "failed" if failed else "done"
        rows = [
            ["passed" if check["passed"] else "FAILED", check["check"], check.get("detail") or ""] for check in checks
        ]
        self.table(title, ["", "check", "what was found"], rows)
        self.say(
            f"{len(checks) - len(failed)} passed, {len(failed)} failed", style="bold red" if failed else "bold green"
        )

    # --- the end -------------------------------------------------------------------------------------------------

    def already_done(self, migration: Migration, status: Status) -> None:
        """Every step of the migration was done before this run."""
        self.nothing_to_do(
            f"{migration.name} is applied already: all {len(migration.steps)} steps are done, "
            f"the last one at {moment(status.last_finished_at)}."
        )

    def close(self, migration: Migration, action: str, copy: dict[str, Any] | None) -> None:
        """What was done, where the original table is, and what to do next: a panel on a terminal, else plain lines."""
        rows = sum(view.rows for view in self._views.values() if view.batch and not view.already)
        done = "is applied" if action == "migrate" else "is rolled back"
        lines = [
            f"{migration.name} {done}: {len(self._views)} steps, {rows:,} rows, {time.monotonic() - self._began:.2f} s in all."
        ]
        if copy and action == "migrate":
            lines.append(f"{copy['table']} is the new table. The original one is {copy['backup']}, closed to the API.")
        elif copy and copy["kept_as"]:
            lines.append(
                f"{copy['table']} is the original table. The migrated one is kept as {copy['kept_as']}, closed to the API."
            )
        lines += [f"Next: {step}" for step in self.next_steps]
        self.report.update(outcome="done", next=self.next_steps, table=copy)
        self.report["lines"] += lines
        if self.out.is_terminal:
            from rich.panel import Panel

            self.out.print(Panel(Text("\n".join(lines)), title="Done", border_style="green", expand=False))
        else:
            self.out.print(Text("\n".join(lines)))

    def finish(self, exit_code: int, **more: Any) -> None:
        """Print the report of --json, if that is asked for."""
        self.report.update(exit_code=exit_code, seconds=round(time.monotonic() - self._began, 3), **more)
        self.report["outcome"] = self.report["outcome"] or ("done" if exit_code == 0 else "failed")
        if self._as_json:
            json.dump(self.report, sys.stdout, indent=2, ensure_ascii=False)
            sys.stdout.write("\n")


def _bar(view: StepView) -> RenderableType:
    """A progress bar for a batch step that runs."""
    if view.state != "running" or view.progress is None:
        return ""
    from rich.progress_bar import ProgressBar

    return ProgressBar(total=1.0, completed=view.progress, width=20)
