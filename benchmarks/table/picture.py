"""The table as an SVG picture: a line for each workload, a dot for each contender at its requests/s by evenkeel's. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.plot import text
from benchmarks.table.contenders import BARE, EVENKEEL
from benchmarks.table.ratios import Row
from benchmarks.table.raw_model import RAW
from benchmarks.table.workloads import Workload

COLORS = {EVENKEEL: "#0b6e4f", "mosec": "#c8553d", "litserve": "#d9a521", "triton": "#3d5a98", "ray": "#8e5ea2", BARE: "#bbbbbb",
          RAW: "#777777"}  # fmt: skip
WIDTH, LINE, LEFT, RIGHT, TOP, BOTTOM = 960, 20, 360, 30, 56, 34
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
LEAST, MOST = 0.015, 20.0


def svg(workloads: Sequence[Workload], rows: Mapping[tuple[str, str], Row], caption: str) -> str:
    """Empty where evenkeel was not measured. An open load is left out: how many requests are due is decided before."""
    shown = [w for w in workloads if (w.name, EVENKEEL) in rows and not w.load]
    if not shown:
        return ""
    height = TOP + LINE * len(shown) + BOTTOM
    parts = [text(10, 16, caption), *_legend(), *_grid(height)]
    for i, workload in enumerate(shown):
        parts += _line(workload, rows, TOP + LINE * i + LINE / 2)
    style = "text{font:11px sans-serif;fill:#333}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _at(share: float) -> float:
    inside = min(max(share, LEAST), MOST)
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(inside / LEAST) / math.log(MOST / LEAST)


def _legend() -> list[str]:
    parts, x = [], 10.0
    for name, color in COLORS.items():
        parts += [f'<circle cx="{x + 5:.0f}" cy="34" r="5" fill="{color}"/>', text(x + 14, 38, name)]
        x += 32 + 7 * len(name)
    return parts


def _grid(height: int) -> list[str]:
    parts = []
    for tick in TICKS:
        x, color = _at(tick), "#0b6e4f" if tick == 1 else "#e4e4e4"
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}" stroke="{color}"/>')
        parts.append(text(x, height - BOTTOM + 14, f"{tick:g}", anchor="middle"))
    return [*parts, text((LEFT + WIDTH - RIGHT) / 2, height - 6, "requests/s by evenkeel's", anchor="middle")]


def _line(workload: Workload, rows: Mapping[tuple[str, str], Row], y: float) -> list[str]:
    ours = rows[workload.name, EVENKEEL].rps.median
    parts = [text(LEFT - 10, y + 4, workload.says, anchor="end")]
    for name, color in COLORS.items():
        row = rows.get((workload.name, name))
        if row is not None and ours:
            parts.append(f'<circle cx="{_at(row.rps.median / ours):.1f}" cy="{y:.1f}" r="5" fill="{color}" opacity="0.85"/>')
    return parts
