"""The judge's simulation as Markdown and as a picture. Pure: what was counted comes in, text goes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import inf, log

from scipy.special import betaincinv

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT, HEADER = 330, 250, 46, 34, 40, 14, 40
CURVES = {"rolled back": "#c8553d", "rolled back in 15 min": "#e0a030", "promoted": "#0b6e4f"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One scenario, simulated. Times are medians in seconds, infinite when it never happened."""

    group: str
    label: str  # the ratio, or what disturbs
    ratio: float
    runs: int
    rolled_back: int
    rolled_back_soon: int  # within 15 minutes
    rolled_back_fast: int  # within 5 minutes
    promoted: int
    rollback_s: float
    promote_s: float
    study: str = ""  # what the study says of this cell


def limits(count: int, runs: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval for a share."""
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, runs - count + 1, tail))
    high = 1.0 if count == runs else float(betaincinv(count + 1, runs - count, 1 - tail))
    return low, high


def share(count: int, runs: int) -> str:
    low, high = limits(count, runs)
    return f"{count / runs:.4f} ({low:.4f}–{high:.4f})"


def seconds(value: float) -> str:
    return "–" if value == inf else f"{value:.0f} s"


def tables(cells: Sequence[Cell]) -> str:
    lines = []
    for group in dict.fromkeys(c.group for c in cells):
        lines += [
            f"\n### {group}\n",
            "| | runs | rolled back | in 15 min | median | promoted | median | study |",
            "|---|" + "---|" * 7,
        ]
        for c in (c for c in cells if c.group == group):
            soon = f"{c.rolled_back_soon / c.runs:.4f}"
            lines.append(
                f"| {c.label} | {c.runs} | {share(c.rolled_back, c.runs)} | {soon} | {seconds(c.rollback_s)} "
                f"| {share(c.promoted, c.runs)} | {seconds(c.promote_s)} | {c.study} |"
            )
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Target:
    words: str
    count: int
    runs: int
    least: float | None = None
    most: float | None = None

    @property
    def verdict(self) -> str:
        """Judged by the limits of the interval, so that luck alone neither meets a target nor misses it."""
        low, high = limits(self.count, self.runs)
        if (self.least is None or low >= self.least) and (self.most is None or high <= self.most):
            return "met"
        missed = (self.least is not None and high < self.least) or (self.most is not None and low > self.most)
        return "**missed**" if missed else "not shown"

    def row(self) -> str:
        wanted = f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"
        return f"| {self.words} | {wanted} | {share(self.count, self.runs)} | {self.verdict} |"


def svg(panels: dict[str, Sequence[Cell]], caption: str) -> str:
    """One panel a setting: shares of rollouts by the true ratio."""
    width, height = WIDTH * len(panels), HEADER + HEIGHT
    body, x = [text(LEFT, 14, caption)], float(LEFT)
    for name, color in CURVES.items():
        body.append(f'<line x1="{x}" x2="{x + 22}" y1="28" y2="28" stroke="{color}" stroke-width="2.5"/>')
        body.append(text(x + 27, 32, name))
        x += 45 + 7 * len(name)
    for i, (title, cells) in enumerate(panels.items()):
        body.append(f'<g transform="translate({i * WIDTH} {HEADER})">{panel(title, cells)}</g>')
    style = "text{font:11px sans-serif;fill:#333}.title{font-weight:bold;font-size:12px}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


def panel(title: str, cells: Sequence[Cell]) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    cells = sorted(cells, key=lambda c: c.ratio)
    first, last = log(cells[0].ratio), log(cells[-1].ratio)

    def x(ratio: float) -> float:
        return LEFT + (right - LEFT) * (log(ratio) - first) / (last - first)

    def y(part: float) -> float:
        return bottom - (bottom - TOP) * part

    parts = [text(LEFT, TOP - 10, title, "title")]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#eee"/>')
        parts.append(text(LEFT - 6, y(tick) + 4, f"{tick:g}", anchor="end"))
    for c in cells:
        if c.ratio != 1.25:  # no room for it
            parts.append(text(x(c.ratio), bottom + 15, f"{c.ratio:g}", anchor="middle"))
    parts.append(text((LEFT + right) / 2, bottom + 31, "true ratio of error rates", anchor="middle"))
    values = {
        "rolled back": [c.rolled_back / c.runs for c in cells],
        "rolled back in 15 min": [c.rolled_back_soon / c.runs for c in cells],
        "promoted": [c.promoted / c.runs for c in cells],
    }
    for name, shares in values.items():
        line = " ".join(f"{x(c.ratio):.1f},{y(v):.1f}" for c, v in zip(cells, shares, strict=True))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{CURVES[name]}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(c.ratio):.1f}" cy="{y(v):.1f}" r="2.5" fill="{CURVES[name]}"/>'
            for c, v in zip(cells, shares, strict=True)
        ]
    return "".join(parts)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'
