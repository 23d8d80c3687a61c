"""A plot in SVG of what the application noticed: how long it stood still, and which writes were lost. In light and in dark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.measure import Measurement
from benchmarks.report import seconds

_WIDTH, _TOP, _ROW, _BAR = 880, 96, 26, 16
_LABELS_END = 300  # the x where the names of the contenders end
_STYLE = """
text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #1f2328 }
.title { font-size: 17px; font-weight: 600 } .heading { font-weight: 600 } .pale { fill: #59636e } .ours { font-weight: 600 }
.card { fill: #ffffff; stroke: #d1d9e0 } .grid { stroke: #d1d9e0 } .bar { fill: #9198a1 } .bar.ours { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .pale { fill: #9198a1 }
  .card { fill: #0d1117; stroke: #3d444d } .grid { stroke: #3d444d } .bar { fill: #656c76 } .bar.ours { fill: #3fb950 }
}
"""


@dataclass(frozen=True)
class _Panel:
    """One figure of each contender as a bar, on an axis of its own."""

    heading: str
    left: int
    width: int
    unit: str
    value: Callable[[Measurement], float]
    in_words: Callable[[Measurement], str]


def _standstill(one: Measurement) -> float:
    return max(one.seen.longest_read, one.seen.longest_write)


_PANELS = (
    _Panel("Longest standstill", 316, 270, " s", _standstill, lambda one: seconds(_standstill(one))),
    _Panel("Lost writes", 664, 150, "", lambda one: one.seen.lost, lambda one: f"{one.seen.lost:,}"),
)


def plot(measurements: Sequence[Measurement]) -> str:
    """Bars for the largest size that was measured, a row a contender, the best first."""
    rows = max(one.rows for one in measurements)
    shown = sorted((one for one in measurements if one.rows == rows), key=lambda one: (one.seen.lost, _standstill(one)))
    bottom = _TOP + _ROW * len(shown)
    title = f"Migrating {rows:,} rows: what the application notices"
    parts = [
        _text(20, 32, title, "title"),
        _text(20, 54, "The table is in use by two writers and a reader. Shorter is better.", "pale"),
    ]
    for panel in _PANELS:
        parts += _axis(panel, shown, bottom)
    for place, one in enumerate(shown):
        parts += _row(one, _TOP + _ROW * place, shown)
    height = bottom + 36
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">'
    card = f'<rect class="card" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="6"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{_STYLE}</style>", card, *parts, "</svg>", ""])


def _row(one: Measurement, top: int, shown: Sequence[Measurement]) -> list[str]:
    """A contender's name, and its bars."""
    ours = " ours" if one.contender.startswith("ours") else ""
    parts = [_text(_LABELS_END, top + 13, one.title.replace("`", ""), ours.strip(), "end")]
    for panel in _PANELS:
        width = max(2.0, panel.width * panel.value(one) / _ticks(panel, shown)[-1])
        parts.append(f'<rect class="bar{ours}" x="{panel.left}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2"/>')
        parts.append(_text(panel.left + width + 6, top + 13, panel.in_words(one), ours.strip()))
    return parts


def _axis(panel: _Panel, shown: Sequence[Measurement], bottom: int) -> list[str]:
    """A panel's heading, and lines with their values."""
    parts = [_text(panel.left, _TOP - 14, panel.heading, "heading")]
    ticks = _ticks(panel, shown)
    for tick in ticks:
        x = panel.left + panel.width * tick / ticks[-1]
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 18, f"{tick:g}{panel.unit}", "pale", "middle"))
    return parts


def _ticks(panel: _Panel, shown: Sequence[Measurement]) -> list[float]:
    """The axis: from 0 to a round number that has room for the longest bar, in two to five parts."""
    longest = max(panel.value(one) for one in shown) or 1.0
    step = next(
        factor * 10.0**power for power in range(-4, 9) for factor in (1, 2, 5) if longest <= 4 * factor * 10.0**power
    )
    return [step * part for part in range(int(-(-longest // step)) + 1)]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
