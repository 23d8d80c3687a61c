"""The view for a terminal: the steps of a run as a list that changes in place, drawn tables, a panel at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .lines import Lines, describe_step

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..report import RunReport, StepReport

MARKS = {"to do": ("·", "dim"), "running": ("▸", "cyan"), "done": ("✓", "green"), "failed": ("✗", "bold red")}
ASCII_MARKS = {"to do": ".", "running": ">", "done": "+", "failed": "x"}
WIDE = 100  # columns from which there is room for a bar
LINES_BESIDE = 6  # lines of the screen left free for a step's second line, what is waited for, and the prompt


class LiveList(Lines):
    """Shows a report on a terminal. While no list is on the screen, plain lines say what goes on."""

    _is_live = False

    @contextmanager
    def steps(self, run: RunReport) -> Iterator[None]:
        """Show the list until the run ends, and leave it standing, whole."""
        with Live(get_renderable=lambda: self._list(run), console=self.out, refresh_per_second=8):
            self._is_live = True
            try:
                yield
            finally:
                self._is_live = False

    def _list(self, run: RunReport) -> RenderableType:
        steps = list(run.steps.values())
        if self._is_live:
            steps = visible_steps(steps, max(self.out.height - LINES_BESIDE, 3))
        return step_list(run, steps, wide=self.out.width >= WIDE, ascii_only=self.out.options.ascii_only)

    def is_time_for_a_line(self, *, first: bool = False) -> bool:
        """Whether to say something in a line: not while the list shows it anyway."""
        return not self._is_live and super().is_time_for_a_line(first=first)

    def step_done(self, step: StepReport, run: RunReport) -> None:
        """Say nothing: the list shows it."""

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A drawn table. What was found by a check that failed stands below it: statements in it are to be copied, and whole."""
        self.out.print(Text(title, "italic"))  # rich breaks a table's own title at the table's width
        table = Table(*columns)
        failed = [row for row in rows if row[0] == "FAILED"]
        for row in rows:
            cells = [*row[:2], "see below"] if row in failed else row
            table.add_row(
                *(
                    Text(cell, {"passed": "green", "FAILED": "bold red"}.get(cell, ""), overflow="fold")
                    for cell in cells
                )
            )
        self.out.print(table)
        for _, name, found in failed:
            self.out.print(Text.assemble((name, "bold red"), f": {found}"), soft_wrap=True)

    def close(self, lines: list[str]) -> None:
        """A panel."""
        self.out.print(closing_panel(lines))


def visible_steps(steps: list[StepReport], height: int) -> list[StepReport]:
    """As many steps as fit into `height` lines, around the next one."""
    place = next((place for place, step in enumerate(steps) if step.state != "done"), len(steps))
    first = max(0, min(place - height // 2, len(steps) - height))
    return steps[first : first + height]


def step_list(run: RunReport, steps: list[StepReport], *, wide: bool, ascii_only: bool = False) -> RenderableType:
    """Some steps of a run, with a bar for a running batch step if there is room; below them what is waited for.

    It ends in an empty line, so that the ^C that a terminal echoes moves nothing.
    """
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=1, no_wrap=True)
    table.add_column(min_width=min(max((len(step.name) for step in steps), default=0), WIDE // 3) if wide else None)
    if wide:
        table.add_column()
    table.add_column()
    for step in steps:
        mark, style = MARKS[step.state]
        name = Text(step.name, {"to do": "dim", "failed": "bold red"}.get(step.state, ""))
        bar = [_bar(step)] if wide else []
        table.add_row(Text(ASCII_MARKS[step.state] if ascii_only else mark, style), name, *bar, _beside(step))
    is_waiting = run.waiting_for and any(step.state == "running" for step in steps)
    return Group(table, Text(run.waiting_for or "", "yellow") if is_waiting else "", *([""] if is_waiting else []))


def closing_panel(lines: list[str]) -> Panel:
    """How a run ended, and what to do next."""
    return Panel(Text("\n".join(lines), overflow="fold"), title="Done", border_style="green", expand=False)


def _beside(step: StepReport) -> Text:
    """The text beside a step in the list."""
    if step.state == "to do":
        return Text("")
    step.tick()
    return Text(describe_step(step), "" if step.state == "failed" else "dim", overflow="fold")


def _bar(step: StepReport) -> RenderableType:
    """A progress bar for a running batch step; empty for others."""
    if step.state != "running" or step.progress is None:
        return ""
    return ProgressBar(total=1.0, completed=step.progress, width=20)
