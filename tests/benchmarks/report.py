"""Tables in Markdown of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.files import FileMeasurement
from benchmarks.measure import Measurement

COLUMNS = (
    "", "time", "of `psql -1`", "of pg_repack", "longest stall of a read", "of a write", "rows missing for", "writes lost",
    "users deleted", "failed", "over 200 ms", "longest", "client memory", "requests", "longest request",
)  # fmt: skip
_BASES = ("psql-1", "repack")


def seconds(value: float | None) -> str:
    """A duration as a person reads it."""
    if value is None:
        return ""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def markdown(measurements: Sequence[Measurement]) -> str:
    """One table a size."""
    parts = []
    for rows in _sizes(measurements):
        of_size = [one for one in measurements if one.rows == rows]
        bases = [next((one.seconds for one in of_size if one.contender == name), None) for name in _BASES]
        lines = [_line(COLUMNS), _line(["---"] + ["---:"] * (len(COLUMNS) - 1))]
        lines += [_line(_cells(one, bases)) for one in of_size]
        parts.append(f"### {rows:,} rows\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def steps_table(measurement: Measurement) -> str:
    """Where the time goes, step by step."""
    lines = [_line(["step", "calls", "time", "longest call"]), _line(["---", "---:", "---:", "---:"])]
    lines += [
        _line([step["name"], str(step["calls"]), seconds(step["seconds"]), seconds(step.get("longest_call"))])
        for step in measurement.steps
    ]
    return "\n".join(lines) + "\n"


def files_table(files: Sequence[FileMeasurement]) -> str:
    """Large files: what the session in the database takes for them, beside psql's."""
    if not files:
        return ""
    head = [
        "file",
        "text",
        "memory by `psql -1`",
        "by this project",
        "times the text",
        "time by `psql -1`",
        "by this project",
    ]
    lines = ["### Large migration files\n", _line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
    lines += [
        _line([
            one.title, f"{one.size:.1f} MB", f"{one.psql_memory:.0f} MB", f"{one.our_memory:.0f} MB", f"{one.our_memory / one.size:.0f}",
            seconds(one.psql_seconds), seconds(one.our_seconds),
        ])
        for one in files
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _sizes(measurements: Sequence[Measurement]) -> list[int]:
    return sorted({one.rows for one in measurements})


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(one: Measurement, bases: Sequence[float | None]) -> list[str]:
    seen = one.seen
    return [
        one.title, seconds(one.seconds), *(f"{one.seconds / base:.2f}" if base else "" for base in bases), seconds(seen.longest_read),
        seconds(seen.longest_write), seconds(seen.missing_seconds) if seen.missing_seconds else "never", str(seen.lost),
        str(seen.deletions), str(seen.deletions_failed), str(seen.slow_deletions), seconds(seen.longest_deletion),
        f"{one.memory:.0f} MB", str(one.requests or ""), seconds(one.longest_request),
    ]  # fmt: skip
