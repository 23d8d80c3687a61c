"""What is shown as a table: the columns, and the cells of each row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..access import describe_caller, describe_text
from ..journal_words import moment
from ..report import Check

Table = tuple[list[str], list[list[str]]]


def steps(found: Iterable[dict[str, Any]]) -> Table:
    """The steps of a migration, as the journal has them."""
    return ["step", "state", "rows", "seconds", "calls", "finished"], [_step(one) for one in found]


def _step(step: dict[str, Any]) -> list[str]:
    calls = [f"{step['rows']:,}", f"{step['seconds']:.2f}", str(step["calls"])] if step["calls"] else ["", "", ""]
    return [step["name"], step["state"], *calls, moment(step["finished_at"])]


def runs(found: Iterable[dict[str, Any]]) -> Table:
    """The runs of a migration."""
    rows = [
        [
            moment(run["started_at"]),
            run["action"],
            f"{run['client']} ({run['pid']})",
            run["outcome"] or "under way, or killed",
            run["message"] or "",
        ]
        for run in found
    ]
    return ["started", "action", "by", "ended", "message"], rows


def calls(found: Iterable[dict[str, Any]]) -> Table:
    """Calls of execute_sql."""
    rows = [
        [
            moment(call["called_at"]),
            describe_caller(call),
            describe_text(call),
            call["outcome"],
            "" if call["rows"] is None else f"{call['rows']:,}",
            call["sha256"][:12],
        ]
        for call in found
    ]
    return ["called", "by", "what", "outcome", "rows", "sha256"], rows


def files(found: list[dict[str, Any]]) -> Table:
    """The files of a folder; when they were applied, and by whom, if any of them was."""
    columns = ["file", "state", "applied", "by"]
    rows = [
        [
            one["file"],
            one["state"] + (", edited since" if one["edited"] else ""),
            moment(one["finished_at"]),
            one["client"] or "",
        ]
        for one in found
    ]
    if any(one["finished_at"] for one in found):
        return columns, rows
    return columns[:2], [row[:2] for row in rows]


def others(found: Iterable[dict[str, Any]]) -> Table:
    """Migrations of the journal that have no file."""
    rows = [[one["migration"], one["state"], moment(one["finished_at"]), one["client"] or ""] for one in found]
    return ["migration", "state", "applied", "by"], rows


def checks(found: Iterable[Check]) -> Table:
    """What was looked at."""
    rows = [["passed" if check.passed else "FAILED", check.check, check.detail or ""] for check in found]
    return ["", "check", "what was found"], rows
