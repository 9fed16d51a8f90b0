"""
Charts as SVG, by hand: bars of ratios, and small panels of what growth does. Neutral colours that follow the reader's
light or dark surface; every axis says what it shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.figures import Spread


WIDTH: Final = 860
BAR: Final = 22
LABELS: Final = 330
PANEL_WIDTH: Final = 270
PANEL_HEIGHT: Final = 190
ACROSS: Final = 3
_STYLE: Final = """<style>
text { font: 12px system-ui, sans-serif; fill: #3d444d; }
.title { font-weight: 600; }
.small { font-size: 10.5px; fill: #59636e; }
.bar { fill: #6e8fb8; }
.other { fill: #a9b1ba; }
.line { fill: none; stroke: #4a72a8; stroke-width: 1.8; }
.dot { fill: #4a72a8; }
.range { stroke: #3d444d; stroke-width: 1.2; }
.grid { stroke: #9aa4af; stroke-opacity: 0.35; }
@media (prefers-color-scheme: dark) {
text { fill: #d1d7e0; }
.small { fill: #9198a1; }
.bar { fill: #5b7fae; }
.other { fill: #656c76; }
.line { stroke: #7ea6d8; }
.dot { fill: #7ea6d8; }
.range { stroke: #d1d7e0; }
}
</style>"""


@dataclass(frozen=True, slots=True)
class Bar:
    """`ours`: drawn in the colour of what the chart is about."""

    label: str
    value: Spread
    ours: bool


@dataclass(frozen=True, slots=True)
class Panel:
    """*points*: (how many there are, the ratio to the first point)."""

    title: str
    points: Sequence[tuple[float, Spread]]


def bars(title: str, axis: str, rows: Sequence[Bar]) -> str:
    """Ratios, with a line from the lowest to the highest."""
    top = max([1.0, *(row.value.high for row in rows)])
    scale = (WIDTH - LABELS - 70) / top
    height = 60 + BAR * len(rows) + 30
    body = [_text(10, 22, title, "title")]
    for tenth in range(0, int(top * 10) + 1, 2):
        x = LABELS + tenth / 10 * scale
        body.append(f'<line class="grid" x1="{x:.1f}" y1="36" x2="{x:.1f}" y2="{height - 36}"/>')
        body.append(_text(x, height - 22, f"{tenth / 10:.1f}", "small", "middle"))
    for place, row in enumerate(rows):
        y = 40 + BAR * place
        low, middle, high = (LABELS + value * scale for value in (row.value.low, row.value.middle, row.value.high))
        kind = "bar" if row.ours else "other"
        body.append(_text(LABELS - 8, y + 14, row.label, "", "end"))
        body.append(f'<rect class="{kind}" x="{LABELS}" y="{y + 3}" width="{middle - LABELS:.1f}" height="{BAR - 7}"/>')
        body.append(f'<line class="range" x1="{low:.1f}" y1="{y + 10.5}" x2="{high:.1f}" y2="{y + 10.5}"/>')
        body.append(_text(max(high, middle) + 6, y + 14, f"{row.value.middle:.2f}", "small"))
    body.append(_text((LABELS + WIDTH - 70) / 2, height - 6, axis, "small", "middle"))
    return _whole(WIDTH, height, body)


def panels(title: str, axis: str, drawn: Sequence[Panel]) -> str:
    """Side by side, all on the same scale from 0; sizes are spread by their logarithm."""
    top = max([1.0, *(value.high for panel in drawn for _, value in panel.points)]) * 1.05
    rows = -(-len(drawn) // ACROSS)
    body = [_text(10, 22, title, "title"), _text(10, 40, axis, "small")]
    for place, panel in enumerate(drawn):
        left, above = 10 + place % ACROSS * (PANEL_WIDTH + 12), 52 + place // ACROSS * PANEL_HEIGHT
        body.append(f'<g transform="translate({left} {above})">{"".join(_panel(panel, top))}</g>')
    return _whole(WIDTH, 62 + rows * PANEL_HEIGHT, body)


def _panel(panel: Panel, top: float) -> list[str]:
    left, above, right, below = 28.0, 26.0, PANEL_WIDTH - 16.0, PANEL_HEIGHT - 50.0
    places = [log10(size) if size >= 1 else -1.0 for size, _ in panel.points]
    spread = (max(places) - min(places)) or 1.0
    body = [_text(left, 14, panel.title, "")]
    for tenth in range(0, int(top * 10) + 1, 5):
        y = below - tenth / 10 / top * (below - above)
        body.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        body.append(_text(left - 5, y + 4, f"{tenth / 10:.1f}", "small", "end"))
    line = []
    for place, (size, value) in zip(places, panel.points, strict=True):
        x = left + (place - min(places)) / spread * (right - left)
        low, middle, high = (below - part / top * (below - above) for part in (value.low, value.middle, value.high))
        line.append(f"{x:.1f},{middle:.1f}")
        body.append(f'<line class="range" x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}"/>')
        body.append(f'<circle class="dot" cx="{x:.1f}" cy="{middle:.1f}" r="3"/>')
        body.append(_text(x, below + 14, _short(size), "small", "middle"))
    body.append(f'<polyline class="line" points="{" ".join(line)}"/>')
    body.append(_text((left + right) / 2, below + 29, "how many, logarithmic", "small", "middle"))
    return body


def _short(size: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return f"{size:g}"


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _whole(width: int, height: int, body: Sequence[str]) -> str:
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    return "\n".join([opening, _STYLE, *body, "</svg>", ""])
