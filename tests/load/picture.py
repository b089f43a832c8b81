"""Throughput and latency over the seconds of one load test, as an SVG picture. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 760, 170, 64, 20, 56, 46
LINES = {"p50_ms": "#7aa6c2", "p95_ms": "#3d5a98", "p99_ms": "#c8553d"}


def svg(title: str, note: str, history: Sequence[Mapping[str, Any]]) -> str:
    """`history`: t_s, rps, failures, p50_ms, p95_ms and p99_ms of each second."""
    height = TOP + 2 * PANEL + GAP + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="15">{escape(title)}</text>',
        f'<text x="{LEFT}" y="38" fill="#666">{escape(note)}</text>',
    ]
    parts += _panel(TOP, "requests/s", history, {"rps": "#0b6e4f"})
    parts += _panel(TOP + PANEL + GAP, "milliseconds", history, LINES)
    for n, (name, color) in enumerate(LINES.items()):
        parts.append(f'<text x="{LEFT + 60 * n}" y="{height - 8}" fill="{color}">{name.removesuffix("_ms")}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(top: int, label: str, history: Sequence[Mapping[str, Any]], lines: Mapping[str, str]) -> list[str]:
    span_s = max([float(p["t_s"]) for p in history], default=1.0) or 1.0
    most = max([float(p[k]) for p in history for k in lines], default=1.0) or 1.0
    wide, bottom = WIDTH - LEFT - RIGHT, top + PANEL
    parts = [f'<text x="{LEFT}" y="{top - 4}" fill="#666">{label}</text>']
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * PANEL
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end" fill="#666">{most * share:.4g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{bottom + 14}" text-anchor="end" fill="#666">{span_s:.0f} s</text>')
    for key, color in lines.items():
        points = " ".join(
            f"{LEFT + float(p['t_s']) / span_s * wide:.1f},{bottom - float(p[key]) / most * PANEL:.1f}" for p in history
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.8"/>')
    return parts
