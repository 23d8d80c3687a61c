"""The view for a pipe or a log, as plain lines: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, TextIO, cast

from rich.text import Text

from ..errors import MigrationError
from ..journal_words import count
from ..places import PYTHON
from .terminal import Terminal

if TYPE_CHECKING:
    from ..report import PlanReport, RunReport, StepReport

PROGRESS_EVERY = 5.0  # seconds between two lines about the same step


class Stamped:
    """A file whose lines begin with the time, in UTC."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write whole lines, as rich does."""
        stamp = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} "
        return self._file.write("".join(stamp + line for line in text.splitlines(keepends=True)))

    def flush(self) -> None:
        """Flush the file; nothing is buffered here."""
        self._file.flush()


def log_lines(file: TextIO) -> Lines:
    """A view that writes everything, as plain lines, to a file."""
    log = Terminal(file=cast(IO[str], Stamped(file)))
    return Lines(log, log, quiet=False, verbose=True)


class Lines:
    """Shows a report line by line. `quiet`: no notes (whether `out` is quiet is up to the caller); `verbose`: details as well."""

    def __init__(self, out: Terminal, err: Terminal, *, quiet: bool, verbose: bool) -> None:
        self.out, self.err = out, err
        self._quiet, self._verbose = quiet, verbose
        self._last_line = 0.0

    def say(self, text: str, style: str = "") -> None:
        """A line of the result."""
        self.out.print(Text(text, style=style))

    def note(self, text: str) -> None:
        """A line about progress: a retry, a wait."""
        if not self._quiet:
            self.err.print(Text(f"  {text}", style="yellow"))

    def detail(self, text: str) -> None:
        """A line for --verbose."""
        if self._verbose:
            self.err.print(Text(f"  {text}", style="dim"))

    def warn(self, text: str) -> None:
        """A warning."""
        self.err.print(Text(f"Warning: {text}", style="yellow"))

    def error(self, error: MigrationError) -> None:
        """What stopped the command, and what to do next."""
        code = f" [{error.code}]" if error.code else ""
        self.err.print(Text.assemble((error.title, "bold red"), f"{error.message}{code}"))
        if error.details:
            self.err.print(Text("  Detail: " + error.details.replace("\n", "\n          ")))
        if error.hint:
            first, *more = error.hint.split("\n")
            self.err.print(Text.assemble(("  What to do: ", "bold"), first))
            self._print_lines(more)

    def ask(self, lines: list[str], question: str) -> None:
        """What a person needs to know, and the question, after which the answer is typed."""
        self._print_lines(lines)
        self.err.print(Text(question, style="bold"), end=" ")

    def _print_lines(self, lines: list[str]) -> None:
        """Lines on standard error. A link stays in one piece, so that the terminal recognises it, and so does a command: pasted as two
        lines it would be run without the options that stand on the second.
        """
        for line in lines:
            self.err.print(Text(line), soft_wrap=line.startswith(("https://", f"{PYTHON} ")) or None)

    def write(self, text: str) -> None:
        """Output for programs, printed as it is even when results are not shown."""
        if sys.stdout is not None:  # None: somebody has closed it
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    @contextmanager
    def steps(self, run: RunReport) -> Iterator[None]:
        """Show the steps of a run while they run."""
        yield

    def is_time_for_a_line(self, *, first: bool = False) -> bool:
        """Whether it is time for another line about the same thing; `first`: it has just begun."""
        now = time.monotonic()
        if first or now - self._last_line >= PROGRESS_EVERY:
            self._last_line = now
            return True
        return False

    def step_begins(self) -> None:
        """A step is the next one to be done."""
        self._last_line = time.monotonic()

    def step_goes_on(self, step: StepReport) -> None:
        """A batch step has done another batch."""
        if self.is_time_for_a_line():
            self.out.print(Text(f"         {step.name}: {describe_step(step)}", style="dim"))

    def step_done(self, step: StepReport, run: RunReport) -> None:
        """A step is done, by this run or before it."""
        place = list(run.steps).index(step.name) + 1
        width = max(len(name) for name in run.steps)
        self.out.print(Text(f"  {place:2d}/{len(run.steps)}  {step.name:<{width}}  {describe_step(step)}"))

    def plan(self, plan: PlanReport) -> None:
        """Each step of a plan, and its SQL."""
        for place, (step, state) in enumerate(plan.steps, start=1):
            batch = " (batch)" if step.batch else ""
            heading = f"\n{place:2d}/{len(plan.steps)}  {step.name}{batch}: {state}"
            self.out.print(Text(heading, style="bold"))
            # A carriage return alone ends a line, and a comment, too: without it what runs would look like the comment.
            lines = re.sub(r"\r\n?", "\n", step.sql).rstrip("\n")
            self.out.print(Text(lines, style="dim"), soft_wrap=True)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A table: one unbroken line for each row, with two blanks between columns."""
        lines = [columns, *rows]
        widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
        self.out.print(Text(title))
        for row in lines:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.out.print(Text("  " + "  ".join(cells).rstrip()))

    def close(self, lines: list[str]) -> None:
        """How a run ended, and what to do next."""
        self.out.print(Text("\n".join(lines)))


def describe_step(step: StepReport) -> str:
    """Progress, rows, time and the database's message for a step, the most important first."""
    if step.already:
        return "done before"
    parts = [count(step.rows, "row")] if step.rows and step.counts_rows else []
    if step.state == "running" and step.progress is not None and step.progress < 1:
        left = step.seconds_left
        parts.insert(0, f"{step.progress:.0%}" + ("" if left is None else f", {left:.0f} s left"))
        if step.counts_rows and step.rows > step.rows_before:
            parts.append(f"{(step.rows - step.rows_before) / max(step.seconds, 0.001):,.0f} rows/s")
    else:
        parts.append(f"{step.seconds:.2f} s")
    return ", ".join(parts) + (f"  {step.message}" if step.message else "")
