"""Latency against throughput as an SVG picture, drawn here so that the benchmark needs no plotting library. Pure.

One panel for each work that was measured at two loads or more; in it one line a server, p99 drawn full and p50 dashed, and the
number of connections at each point. Down and right is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

RAW = "raw onnxruntime"
COLORS = {"evenkeel": "#0b6e4f", "evenkeel, graphs": "#2fb488", "mosec": "#c8553d", "litserve": "#d9a521", "triton": "#3d5a98",
          RAW: "#777777"}  # fmt: skip
HINT = "full: p99, dashed: p50, numbers: connections"
WIDTH, HEIGHT, COLUMNS = 470, 330, 2
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 34, 44
HEADER = 40


@dataclass(frozen=True, slots=True)
class Point:
    connections: int
    rps: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    lines: dict[str, list[Point]]  # by server
    unit: str = "requests/s"


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic scale from values to pixels."""

    least: float
    most: float
    start: float
    end: float

    @staticmethod
    def over(values: Sequence[float], start: float, end: float) -> Axis:
        return Axis(min(values) / 1.35, max(values) * 1.35, start, end)

    def at(self, value: float) -> float:
        share = math.log(value / self.least) / math.log(self.most / self.least)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times the powers of ten in range, or only the powers when that would be crowded."""
        powers = range(math.floor(math.log10(self.least)), math.ceil(math.log10(self.most)) + 1)
        fine = [m * 10.0**p for p in powers for m in (1, 2, 5) if self.least <= m * 10.0**p <= self.most]
        coarse = [v for v in fine if math.isclose(math.log10(v) % 1, 0, abs_tol=1e-9)]
        return coarse if len(fine) > 8 and len(coarse) > 1 else fine


def svg(panels: Sequence[Panel], caption: str, hint: str = HINT) -> str:
    columns = min(COLUMNS, max(1, len(panels)))
    width, height = columns * WIDTH, HEADER + math.ceil(len(panels) / columns) * HEIGHT
    servers = [name for name in COLORS if any(name in panel.lines for panel in panels)]
    body = [legend(servers, caption, width, hint)]
    for i, panel in enumerate(panels):
        body.append(f'<g transform="translate({i % columns * WIDTH} {HEADER + i // columns * HEIGHT})">{draw(panel)}</g>')
    style = "text{font:11px sans-serif;fill:#333}.title{font-weight:bold;font-size:13px}.small{font-size:9px}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


def legend(servers: Sequence[str], caption: str, width: int, hint: str) -> str:
    parts, x = [text(LEFT, 14, caption)], float(LEFT)
    for name in servers:
        parts.append(f'<line x1="{x}" x2="{x + 22}" y1="28" y2="28" stroke="{COLORS[name]}" stroke-width="2.5"/>')
        parts.append(text(x + 27, 32, name))
        x += 45 + 7 * len(name)
    parts.append(text(width - RIGHT, 32, hint, anchor="end"))
    return "".join(parts)


def draw(panel: Panel) -> str:
    points = [p for line in panel.lines.values() for p in line]
    x = Axis.over([p.rps for p in points], LEFT, WIDTH - RIGHT)
    y = Axis.over([v for p in points for v in (p.p50_ms, p.p99_ms) if v > 0] or [1.0], HEIGHT - BOTTOM, TOP)
    parts = [text(LEFT, TOP - 10, panel.title, "title"), grid(x, y, panel.unit)]
    for name, line in panel.lines.items():
        color = COLORS.get(name, "black")
        parts.append(curve(line, x, y, lambda p: p.p50_ms, f'stroke="{color}" stroke-dasharray="4 4" opacity="0.6"'))
        parts.append(curve(line, x, y, lambda p: p.p99_ms, f'stroke="{color}" stroke-width="2"'))
        for p in line:
            px, py = x.at(p.rps), y.at(max(p.p99_ms, y.least))
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{color}"/>')
            parts.append(text(px + 5, py - 5, str(p.connections), "small"))
    return "".join(parts)


def curve(line: Sequence[Point], x: Axis, y: Axis, value: Callable[[Point], float], style: str) -> str:
    at = " ".join(f"{x.at(p.rps):.1f},{y.at(max(value(p), y.least)):.1f}" for p in line)
    return f'<polyline points="{at}" fill="none" {style}/>'


def grid(x: Axis, y: Axis, unit: str) -> str:
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    parts = [f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" stroke="#bbb"/>']
    for tick in x.ticks():
        px = x.at(tick)
        parts.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{top}" y2="{bottom}" stroke="#eee"/>')
        parts.append(text(px, bottom + 15, f"{tick:g}", anchor="middle"))
    for tick in y.ticks():
        py = y.at(tick)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{py:.1f}" y2="{py:.1f}" stroke="#eee"/>')
        parts.append(text(left - 6, py + 4, f"{tick:g}", anchor="end"))
    parts.append(text((left + right) / 2, bottom + 32, unit, anchor="middle"))
    middle = (top + bottom) / 2
    parts.append(f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">latency, ms</text>')
    return "".join(parts)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'
