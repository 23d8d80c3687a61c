"""The report as one JSON document, for --json. Seconds are rounded to milliseconds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..report import ChecksReport, FolderReport, PlanReport, Report, RunReport, StatusReport, StepReport


def document(report: Report) -> dict[str, Any]:
    """The whole report as JSON data. What did not come up is left out."""
    return {
        "command": report.command, "outcome": report.outcome,
        "lines": report.lines, "warnings": report.warnings, "notes": report.notes,
        **_result(report.result, report.earlier),
        **({"files": report.files} if report.files else {}),
        **({"error": report.error.to_dict()} if report.error else {}),
        **({} if report.requests is None else {"requests": report.requests, "longest_request": round(report.longest_request, 3)}),
        "exit_code": report.exit_code, "seconds": round(report.seconds, 3),
    }  # fmt: skip


def _result(result: Any, earlier: list[Any]) -> dict[str, Any]:
    """The last result. The steps of earlier runs come before its own; other earlier results are a list, "earlier"."""
    content = _content(result)
    if isinstance(result, RunReport):
        runs = [one for one in [*earlier, result] if isinstance(one, RunReport)]
        content["steps"] = [{"migration": run.migration, **_step(step)} for run in runs for step in run.steps.values()]
    elif earlier:
        content["earlier"] = [_content(one) for one in earlier]
    return content


def _content(result: RunReport | PlanReport | StatusReport | ChecksReport | FolderReport | None) -> dict[str, Any]:
    match result:
        case RunReport():
            return _run(result)
        case PlanReport():
            steps = [
                {"name": step.name, "state": state, "batch": step.batch, "sql": step.sql}
                for step, state in result.steps
            ]
            return {"migration": result.migration, "action": result.action, "steps": steps}
        case StatusReport() | FolderReport():
            return {key: value for key, value in asdict(result).items() if key != "calls" or value is not None}
        case ChecksReport():
            return {"checks": [asdict(check) for check in result.checks]}
        case None:
            return {}


def _run(run: RunReport) -> dict[str, Any]:
    """A run; if it came to its end, with what to do next and the table that it rebuilt."""
    closing = {} if run.next_steps is None else {"next": run.next_steps, "table": run.table}
    pauses = {"held_back": round(run.held_back, 3)} if run.held_back else {}
    return {"migration": run.migration, "action": run.action, **pauses, **closing}


def _step(step: StepReport) -> dict[str, Any]:
    return {
        "name": step.name, "state": step.state, "rows": step.rows, "calls": step.calls, "seconds": round(step.seconds, 3),
        "longest_call": round(step.longest_call, 3), "already": step.already, "message": step.message,
    }  # fmt: skip
