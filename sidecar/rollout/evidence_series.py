"""How the evidence grew: one point a window and metric, thinned to what a picture can show. Pure.

It is made by the windows alone, so a successor that reads them has the same trail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

from evenkeel.sidecar.rollout.evidence import Evidence
from evenkeel.sidecar.rollout.rule import Rule

CURVES = ("count witness", "sign witness", "good enough")
NAMES = ("at_s", "count", "sign", "good")  # of a row in JSON: seconds since the start, then log10 of the three e-values
POINTS_MAX = 120  # kept; a rollout that lasts longer keeps every second window, then every fourth …
DECADES_MIN, DECADES_MAX = -9.0, 9.0  # what lies beyond says nothing more


@dataclass(frozen=True, slots=True)
class EvidencePoint:
    at_s: float
    decades: Mapping[str, float]  # log10 of the e-values, by curve


def point(rule: Rule, e: Evidence, at_s: float) -> EvidencePoint:
    good = max(e.not_bad_log_e(rule), e.budget_log_e(rule))
    logs = (e.count_log_e(rule), e.sign_log_e(rule), good)
    return EvidencePoint(at_s, {n: v / log(10) for n, v in zip(CURVES, logs, strict=True)})


class EvidenceSeries:
    """Takes one point for every metric after each window."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, dict[str, EvidencePoint]]] = []
        self._every, self._windows = 1, 0
        self._newest: dict[str, EvidencePoint] = {}

    def add(self, rule: Rule, metrics: Mapping[str, Evidence], at_s: float) -> None:
        self._newest = {name: point(rule, e, at_s) for name, e in metrics.items()}
        if self._windows % self._every == 0:
            self._kept.append((self._windows, self._newest))
        self._windows += 1
        if len(self._kept) > POINTS_MAX:
            self._every *= 2
            self._kept = [(number, points) for number, points in self._kept if number % self._every == 0]

    def to_json(self) -> dict[str, Any]:
        """The rows of each metric in order of time, the newest window always among them."""
        shown = [points for _, points in self._kept]
        if self._newest and (not shown or shown[-1] is not self._newest):
            shown.append(self._newest)
        rows: dict[str, list[list[float]]] = {}
        for points in shown:
            for name, one in points.items():
                rows.setdefault(name, []).append([round(one.at_s, 3), *(_clipped(one.decades[c]) for c in CURVES)])
        return {"fields": list(NAMES), "metrics": rows}


def _clipped(decades: float) -> float:
    return round(min(max(decades, DECADES_MIN), DECADES_MAX), 3)
