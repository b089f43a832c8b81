"""How long an engine that is warm waits for the fronts before it says that it is ready. Pure, but for the log.

Two waits that are not the same. Without a front that has been greeted nobody can be served: that is waited for without end,
and said. A front without an answer has a slow model behind it: after a while it is enough that it is connected.
"""

from __future__ import annotations

from collections.abc import Sequence

from evenkeel.serve.contract.logline import log

GREETING_S_MAX = 10.0  # for a front that hangs, where another has been greeted
ANSWER_S_MAX = 30.0  # for the first answer to each front, once they have been greeted


class Waiting:
    """Owner of since when each wait has lasted."""

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self._met_s = 0.0  # since when nobody is missing, or only those who are not waited for
        self._said = False

    def is_over(self, now_s: float, fronts: int, unmet: Sequence[int], unproven: Sequence[int]) -> bool:
        """`unmet`, `unproven`: of that many fronts, those that were not greeted, and those that have had no answer."""
        late = now_s - self.began_s > GREETING_S_MAX
        if unmet and late and not self._said:
            self._said = True
            log("no_front", f"front worker {_names(unmet)} has not come for {GREETING_S_MAX:g} s", level="warning")
        if unmet and not (late and len(unmet) < fronts):
            return False
        self._met_s = self._met_s or now_s
        left = set(unproven) - set(unmet)
        if left and now_s - self._met_s > ANSWER_S_MAX:
            log("no_answer", f"front worker {_names(sorted(left))} has had no answer for {ANSWER_S_MAX:g} s; it is ready without")
            return True
        return not left


def _names(places: Sequence[int]) -> str:
    return ", ".join(str(place) for place in places)
