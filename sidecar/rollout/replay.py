"""The replay log: the rule, every window, the verdict. From the first two anyone can compute the third again, bit for bit.

JSON lines. The first names the format and holds the rule, each further one a window, the last the decision. A log that was
cut short still replays; it only has no verdict to compare with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evenkeel.sidecar.rollout.counters import Window
from evenkeel.sidecar.rollout.decide import Judged, decide, step
from evenkeel.sidecar.rollout.decision_record import record
from evenkeel.sidecar.rollout.judge_errors import BadLog
from evenkeel.sidecar.rollout.rule import Rule

FORMAT = "evenkeel rollout log 1"


@dataclass(frozen=True, slots=True)
class Replay:
    rule: Rule
    windows: tuple[Window, ...]
    decision: dict[str, Any]  # computed now
    recorded: dict[str, Any] | None  # read from the log

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
    rule, windows, recorded, number = None, [], None, 0
    try:
        for number, text in enumerate(lines, 1):
            data = json.loads(text)
            if number == 1:
                if data.get("format") != FORMAT:
                    raise BadLog(f"line 1: not a replay log of format {FORMAT!r}")
                rule = Rule.from_json(data["rule"])
            elif "window" in data:
                windows.append(Window.from_json(data["window"]))
            else:
                recorded = data["decision"]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadLog(f"line {number}: cannot be read: {type(e).__name__}: {e}") from e
    if rule is None:
        raise BadLog("the log is empty")
    return recompute(rule, tuple(windows), recorded)


def recompute(rule: Rule, windows: tuple[Window, ...], recorded: dict[str, Any] | None = None) -> Replay:
    state = Judged()
    for window in windows:
        state = step(rule, state, window)
    return Replay(rule, windows, record(rule, state, decide(rule, state)), recorded)
