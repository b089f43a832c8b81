"""What needs no patience: most of the candidate's answers are bad, window after window, and the reference's are not. Pure.

Three windows of ten seconds with most answers bad are an outage, whatever the error rate was before. It looks at each window
by itself, so that one bad window is never counted for three. A window with too few requests is joined with the next.
"""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.sidecar.rollout.e_values import NOTHING, Pair

BAD_SHARE = 0.6  # of the candidate's answers in a window
FINE_SHARE = 0.2  # of the reference's in the same window, below which it is not in trouble itself
REQUESTS_MIN = 5  # of each arm
WINDOWS = 3
WINDOWS_INSTANCE = 6  # for one instance of several, which may be its machine's fault and heals by itself


@dataclass(frozen=True, slots=True)
class Streak:
    """Windows in a row in which the candidate is out and the reference is not."""

    open: Pair = NOTHING
    windows: int = 0

    def add(self, pair: Pair) -> Streak:
        now = self.open + pair
        if now.n_c < REQUESTS_MIN or now.n_r < REQUESTS_MIN:
            return Streak(now, self.windows)
        return Streak(NOTHING, self.windows + 1 if is_out(now) else 0)


def is_out(pair: Pair) -> bool:
    return pair.bad_c >= BAD_SHARE * pair.n_c and pair.bad_r < FINE_SHARE * pair.n_r


NO_STREAK = Streak()
