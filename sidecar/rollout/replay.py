"""The replay log: the rule, every window, the verdict. From the first two anyone can compute the third again, bit for bit.

JSON lines. The first names the format and holds the rule, each further one a window, the last the decision. A log that was
cut short still replays; it only has no verdict to compare with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evenkeel.sidecar.rollout.counters import Window
from evenkeel.sidecar.rollout.decide import decide
from evenkeel.sidecar.rollout.decision_record import record
from evenkeel.sidecar.rollout.evidence_series import EvidencePoint, point
from evenkeel.sidecar.rollout.first_rule import first_decide, first_record, first_series
from evenkeel.sidecar.rollout.first_rule.first_settings import FirstRule
from evenkeel.sidecar.rollout.judge_errors import BadLog
from evenkeel.sidecar.rollout.judged import Judged
from evenkeel.sidecar.rollout.rule import Rule
from evenkeel.sidecar.rollout.window_step import step

FORMAT, FIRST_FORMAT = "evenkeel rollout log 2", "evenkeel rollout log 1"
Lines = Mapping[str, Sequence[EvidencePoint]]


@dataclass(frozen=True, slots=True)
class Replay:
    rule: Rule | FirstRule
    windows: tuple[Window, ...]
    decision: dict[str, Any]  # computed now
    recorded: dict[str, Any] | None  # read from the log
    lines: Lines  # how the evidence grew, by metric

    @property
    def agrees(self) -> bool:
        return self.recorded is not None and line(self.recorded) == line(self.decision)


def line(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def write(rule: Rule, windows: Sequence[Window], decision: dict[str, Any]) -> list[str]:
    first = line({"format": FORMAT, "rule": rule.to_json()})
    return [first, *(line({"window": w.to_json()}) for w in windows), line({"decision": decision})]


def read(lines: Iterable[str]) -> Replay:
    """Compute the verdict again. Raises BadLog that names the line."""
    rule: Rule | FirstRule | None = None
    windows, recorded, number = [], None, 0
    try:
        for number, text in enumerate(lines, 1):
            data = json.loads(text)
            if number == 1:
                rule = _rule(data)
            elif "window" in data:
                windows.append(Window.from_json(data["window"]))
            else:
                recorded = data["decision"]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadLog(f"line {number}: cannot be read: {type(e).__name__}: {e}") from e
    if rule is None:
        raise BadLog("the log is empty")
    return recompute(rule, tuple(windows), recorded)


def _rule(head: dict[str, Any]) -> Rule | FirstRule:
    """Each log is judged by the rule that wrote it."""
    if head.get("format") == FORMAT:
        return Rule.from_json(head["rule"])
    if head.get("format") == FIRST_FORMAT:
        return FirstRule.from_json(head["rule"])
    raise BadLog(f"line 1: not a replay log of format {FORMAT!r} or {FIRST_FORMAT!r}")


def recompute(rule: Rule | FirstRule, windows: tuple[Window, ...], recorded: dict[str, Any] | None = None) -> Replay:
    if isinstance(rule, FirstRule):
        first, curves = first_series.folded(rule, windows)
        decision = first_record.record(rule, first, first_decide.decide(rule, first))
        return Replay(rule, windows, decision, recorded, curves)
    state, lines = Judged(), dict[str, list[EvidencePoint]]()
    for window in windows:
        state = step(rule, state, window)
        for name, evidence in state.metrics.items():
            lines.setdefault(name, []).append(point(rule, evidence, state.elapsed_s))
    return Replay(rule, windows, record(rule, state, decide(rule, state)), recorded, lines)
