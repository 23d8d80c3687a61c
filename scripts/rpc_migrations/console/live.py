"""For a terminal: the steps of a run as a list that changes in place, drawn tables, a panel at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .lines import Lines, describe_step

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..report import RunReport, StepReport

MARKS = {"to do": ("·", "dim"), "running": ("▸", "cyan"), "done": ("✓", "green"), "failed": ("✗", "red")}


class LiveList(Lines):
    """Shows a report on a terminal. Where no list is on the screen, plain lines tell what goes on."""

    _is_live = False

    @contextmanager
    def steps(self, run: RunReport) -> Iterator[None]:
        """Show the list until the run ends, and leave it standing."""
        with Live(get_renderable=lambda: step_list(run), console=self.out, refresh_per_second=8):
            self._is_live = True
            try:
                yield
            finally:
                self._is_live = False

    def is_time_for_a_line(self, *, first: bool = False) -> bool:
        """Not while the list tells it anyway."""
        return not self._is_live and super().is_time_for_a_line(first=first)

    def step_done(self, step: StepReport, run: RunReport) -> None:
        """The list tells it."""

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A drawn table."""
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*(Text(cell, {"passed": "green", "FAILED": "bold red"}.get(cell, "")) for cell in row))
        self.out.print(table)

    def close(self, lines: list[str]) -> None:
        """A panel."""
        self.out.print(closing_panel(lines))


def step_list(run: RunReport) -> Table:
    """Every step, with a bar for a batch step that runs."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=1, no_wrap=True)
    table.add_column(no_wrap=True, min_width=max((len(name) for name in run.steps), default=0))
    table.add_column()
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for step in run.steps.values():
        mark, style = MARKS[step.state]
        name = Text(step.name, "dim" if step.state == "to do" else "")
        table.add_row(Text(mark, style), name, _bar(step), _beside(step, run))
    return table


def closing_panel(lines: list[str]) -> Panel:
    """How a run ended, and what to do next."""
    return Panel(Text("\n".join(lines)), title="Done", border_style="green", expand=False)


def _beside(step: StepReport, run: RunReport) -> Text:
    """What the list says beside a step."""
    if step.state == "to do":
        return Text("")
    if step.state == "running" and run.waiting_for:
        return Text(run.waiting_for, "yellow")
    step.tick()
    return Text(describe_step(step), "dim")


def _bar(step: StepReport) -> RenderableType:
    """A progress bar for a batch step that runs."""
    if step.state != "running" or step.progress is None:
        return ""
    return ProgressBar(total=1.0, completed=step.progress, width=20)
