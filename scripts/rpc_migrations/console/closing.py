"""How a run ended, in words: what it has done, where the original table is, what to do next."""

from __future__ import annotations

from ..journal_words import count
from ..report import RunReport


def closing_lines(run: RunReport, seconds: float) -> list[str]:
    """The closing lines of a run that has taken so many seconds."""
    if run.stops_before:
        return _stopped_before(run)
    before = f" ({run.rows_before:,} of them by an earlier run)" if run.rows_before else ""
    rows = f"{count(run.rows, 'row')}{before}, " if run.rows else ""
    closing = f"{run.migration} stays applied" if run.was_given_up else run.closing
    pauses = f", {run.held_back:.2f} s of it pauses (--pace)" if run.held_back else ""
    lines = [f"{closing}: {count(len(run.steps), 'step')}, {rows}{seconds:.2f} s in this run{pauses}."]
    if about_table := _about_table(run):
        lines.append(about_table)
    return lines + (run.next_steps or [])


def _stopped_before(run: RunReport) -> list[str]:
    """A run that was told to stop before its last steps."""
    lines = [f'{run.migration} has stopped before "{run.stops_before}", as asked.']
    if run.table and run.table["state"] in ("copying", "copied"):
        lines.append(
            f"Changes to {run.table['table']} are still being captured. The next run replays them and compares again."
        )
    lines.append("Next: run the same command to go on; without --until or --stop-before-swap it runs to the end.")
    return lines


def _about_table(run: RunReport) -> str | None:
    """Which table is in use now, and where the other one is; None if the run rebuilt none."""
    if run.table is None:
        return None
    table, backup, kept_as = run.table["table"], run.table["backup"], run.table["kept_as"]
    if run.was_given_up:
        return f"The rollback was given up: {table} is the migrated table, as before."
    if run.action != "roll back" and run.table["state"] == "finished":
        return f"{table} stays in use. The way back is closed."
    if run.action == "migrate":
        return (
            f"{table} is the new table. The original one is {backup}, closed to the API."
            if backup
            else f"{table} is new: there was none before, so nothing was copied, and there is no backup."
        )
    if kept_as:
        original = "is the original table" if backup else "is not there any more, as before the migration"
        return f"{table} {original}. The migrated one is kept as {kept_as}, closed to the API."
    return None
