"""Objectives as people write them: `errors=1%,p99=300ms`. Pure."""

from __future__ import annotations

import re

from evenkeel.sidecar.rollout.judge_errors import BadRule
from evenkeel.sidecar.rollout.rule import Objective

OBJECTIVES_MAX = 8
PART = re.compile(r"(errors|p[0-9]{1,2}(?:\.[0-9]{1,3})?)=([0-9]+(?:\.[0-9]+)?)(%|ms|s)", re.ASCII)
SECONDS = {"ms": 0.001, "s": 1.0}


def read(text: str) -> tuple[Objective, ...]:
    """Raises BadRule that shows what was expected."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if len(parts) > OBJECTIVES_MAX:
        raise BadRule(f"slo: at most {OBJECTIVES_MAX} objectives")
    return tuple(_objective(part) for part in parts)


def _objective(part: str) -> Objective:
    match = PART.fullmatch(part)
    if match is None or (match[1] == "errors") != (match[3] == "%"):
        raise BadRule(f"slo: {part[:40]!r}: expected errors=1% or p99=300ms")
    name, value = match[1], float(match[2])
    if name == "errors":
        return Objective(name, value / 100)
    return Objective(name, round(1 - float(name[1:]) / 100, 9), value * SECONDS[match[3]])
