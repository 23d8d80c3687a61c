"""Tables in Markdown and a plot in SVG of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from benchmarks.measure import Measurement

COLUMNS = (
    "", "time", "of `psql -1`", "longest stall of a read", "of a write", "rows missing for", "writes lost",
    "users deleted", "failed", "over 200 ms", "longest", "client memory", "requests", "longest request",
)  # fmt: skip
_BASE = "psql-1"
_OURS, _OTHERS, _TEXT, _PALE = "#2f9e6e", "#9aa5b1", "#1f2933", "#616e7c"


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
        base = next((one.seconds for one in of_size if one.contender == _BASE), None)
        lines = [_line(COLUMNS), _line(["---"] + ["---:"] * (len(COLUMNS) - 1))]
        lines += [_line(_cells(one, base)) for one in of_size]
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


def plot(measurements: Sequence[Measurement]) -> str:
    """Bars of the time in all, a panel a size, and beside each what the application noticed."""
    parts, top = [], 34
    for rows in _sizes(measurements):
        of_size = sorted((one for one in measurements if one.rows == rows), key=lambda one: one.seconds)
        longest = max(one.seconds for one in of_size)
        parts.append(_svg_text(16, top, f"{rows:,} rows", weight="bold"))
        top += 12
        for one in of_size:
            width = max(2.0, 300 * one.seconds / longest)
            colour = _OURS if one.contender.startswith("ours") else _OTHERS
            parts.append(f'<rect x="290" y="{top}" width="{width:.1f}" height="16" rx="2" fill="{colour}"/>')
            parts.append(_svg_text(282, top + 13, one.title.replace("`", ""), anchor="end"))
            parts.append(_svg_text(298 + width, top + 13, seconds(one.seconds)))
            parts.append(_svg_text(904, top + 13, _noticed(one), anchor="end", colour=_PALE))
            top += 22
        top += 30
    style = "font-family:system-ui,-apple-system,'Segoe UI',sans-serif;font-size:13px"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 {top - 20}" width="920" style="{style}">'
    background = f'<rect width="920" height="{top - 20}" rx="6" fill="#ffffff"/>'
    title = "<title>Time of the migration, and what the application notices of it</title>"
    return "\n".join([head, title, background, *parts, "</svg>", ""])


def _sizes(measurements: Sequence[Measurement]) -> list[int]:
    return sorted({one.rows for one in measurements})


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(one: Measurement, base: float | None) -> list[str]:
    seen = one.seen
    return [
        one.title, seconds(one.seconds), f"{one.seconds / base:.2f}" if base else "", seconds(seen.longest_read),
        seconds(seen.longest_write), seconds(seen.missing_seconds) if seen.missing_seconds else "never", str(seen.lost),
        str(seen.deletions), str(seen.deletions_failed), str(seen.slow_deletions), seconds(seen.longest_deletion),
        f"{one.memory:.0f} MB", str(one.requests or ""), seconds(one.longest_request),
    ]  # fmt: skip


def _noticed(one: Measurement) -> str:
    stall = max(one.seen.longest_read, one.seen.longest_write)
    return f"stalls {seconds(stall)}, {one.seen.lost} writes lost"


def _svg_text(
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", colour: str = _TEXT
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">{escape(text)}</text>'
    )
