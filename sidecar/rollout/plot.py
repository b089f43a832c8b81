"""The evidence over time as an SVG picture, drawn here so that nothing has to be installed for it. Pure.

One panel a metric: both witnesses against the candidate and the proof for it, as e-values on a logarithmic scale, with the
lines they must reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log
from typing import Protocol

from evenkeel.sidecar.rollout.evidence_series import CURVES, EvidencePoint

WIDTH, HEIGHT, HEADER = 720, 240, 46
LEFT, RIGHT, TOP, BOTTOM = 62, 120, 28, 36
DECADES_MIN, DECADES_MAX = -3.0, 6.0  # what lies beyond is drawn at the rim
COLORS = dict(zip(CURVES, ("#c8553d", "#e0a030", "#0b6e4f"), strict=True))


class Bars(Protocol):
    """What e-values must reach, by either rule."""

    @property
    def rollout(self) -> str: ...
    @property
    def promote_at(self) -> float: ...
    def rollback_at(self, metric: str) -> float: ...


def svg(rule: Bars, lines: Mapping[str, Sequence[EvidencePoint]], verdict: str, elapsed_s: float) -> str:
    caption = f"{rule.rollout}: {verdict} after {elapsed_s:.0f} s"
    height = HEADER + HEIGHT * max(1, len(lines))
    body = [_text(LEFT, 16, caption, "title"), *_legend()]
    for i, (name, points) in enumerate(lines.items()):
        body.append(f'<g transform="translate(0 {HEADER + i * HEIGHT})">{_panel(rule, name, points)}</g>')
    style = "text{font:11px sans-serif;fill:#333}.title{font-weight:bold;font-size:13px}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


def _legend() -> list[str]:
    parts, x = [], LEFT
    for name, color in COLORS.items():
        parts.append(f'<line x1="{x}" x2="{x + 22}" y1="31" y2="31" stroke="{color}" stroke-width="2.5"/>')
        parts.append(_text(x + 27, 35, name))
        x += 45 + 7 * len(name)
    return parts


def _panel(rule: Bars, name: str, points: Sequence[EvidencePoint]) -> str:
    end_s = max(points[-1].at_s, 1e-9)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(at_s: float) -> float:
        return LEFT + (right - LEFT) * at_s / end_s

    def y(decades: float) -> float:
        share = (min(max(decades, DECADES_MIN), DECADES_MAX) - DECADES_MIN) / (DECADES_MAX - DECADES_MIN)
        return bottom - (bottom - TOP) * share

    parts = [_text(LEFT, TOP - 8, f"{name}: e-values", "title")]
    parts.append(f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" fill="none" stroke="#bbb"/>')
    for d in range(int(DECADES_MIN), int(DECADES_MAX) + 1):
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y(d):.1f}" y2="{y(d):.1f}" stroke="#eee"/>')
        parts.append(_text(LEFT - 6, y(d) + 4, f"{10.0**d:g}", anchor="end"))
    for words, value, color in (("roll back", rule.rollback_at(name), "#c8553d"), ("promote", rule.promote_at, "#0b6e4f")):
        at = y(log(value) / log(10))
        parts.append(
            f'<line x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="{color}" stroke-dasharray="5 4" opacity="0.7"/>'
        )
        parts.append(_text(right + 6, at + 4, f"{words} at {value:.4g}"))
    for curve, color in COLORS.items():
        line = " ".join(f"{x(p.at_s):.1f},{y(p.decades[curve]):.1f}" for p in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(x(share * end_s), bottom + 15, f"{share * end_s:.0f} s", anchor="middle"))
    return "".join(parts)


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'
