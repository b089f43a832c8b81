"""How long a connection may keep silent, in each of its states: what to do about it, looked at once a second. Pure.

Idle time counts from the end of the last answer. The hot path reads no clock for that: it says that the connection was used just
now, and the next look, at most a second later, begins to count.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from evenkeel.serve.errors import BodyTimeout, EvenkeelError, HeaderTimeout
from evenkeel.serve.front.http.rate_floor import GRACE_S, RateFloor, Taking
from evenkeel.serve.http.connection_state import ConnectionState
from evenkeel.serve.settings import Limits

LINGER_S = 2.0  # after a refusal in the middle of a body: time for the client to read it before the reset
LINGER_S_MAX = 30.0  # even if it goes on sending
# A client that has ended its half may have gone altogether, which only bytes to it can show. A request that waits longer than
# this is therefore told "100 Continue" at each look: who still listens skips it, who is gone resets the connection.
HALF_CLOSED_S = 5.0
JUST_NOW = 0.0  # for `quiet_since_s`: the last answer went out after the last look


class Action(Enum):
    NOTHING = auto()
    CLOSE = auto()
    ABORT = auto()  # without waiting until what is written has been read
    PROBE = auto()  # write something, to see whether the client is still there


class ConnectionView(NamedTuple):
    """A connection at one look."""

    state: ConnectionState
    began_s: float  # when the request in hand began to come, or the lingering
    hurried: bool  # the container leaves, or the connection is one beyond the limit
    unread: int  # bytes that the client has not taken yet
    of: object  # of this answer
    silent_request: bool  # nothing of the answer is out, and an interim answer would be understood


class Silence:
    """What a connection remembers of its client's pace."""

    __slots__ = ("_limits", "_sending", "arrived", "heard_s", "quiet_since_s", "taking")

    def __init__(self, limits: Limits, now_s: float) -> None:
        grace_s = max(GRACE_S, limits.body_timeout_s)
        self._limits = limits
        self._sending, self.taking = RateFloor(grace_s, limits.body_rate), Taking(grace_s, limits.body_rate)
        self.heard_s = self.quiet_since_s = now_s
        self.arrived = 0  # bytes since the last look

    def body_begins(self, now_s: float) -> None:
        self.arrived = 0
        self._sending.renew(now_s)

    def excuse(self, away_s: float) -> None:
        """So much of the time since the last look was not the client's."""
        self.heard_s += away_s
        if self.quiet_since_s != JUST_NOW:
            self.quiet_since_s += away_s
        self._sending.excuse(away_s)
        self.taking.excuse(away_s)

    def look(self, now_s: float, seen: ConnectionView) -> Action | EvenkeelError:
        """What to do now; an error is to be told to the client, as the last answer."""
        if self.taking.too_slow(now_s, seen.unread, seen.of):
            return Action.ABORT
        silent_s = now_s - self.heard_s
        match seen.state:
            case ConnectionState.IDLE:
                return self._look_at_idle(now_s, LINGER_S if seen.hurried else self._limits.keep_alive_s)
            case ConnectionState.HEAD:
                return self._look_at_head(now_s - seen.began_s, silent_s, seen.hurried)
            case ConnectionState.BODY | ConnectionState.DIRECT:
                return self._look_at_body(now_s, silent_s, LINGER_S if seen.hurried else self._limits.body_timeout_s)
            case ConnectionState.LINGERING:
                ended = silent_s > LINGER_S or now_s - seen.began_s > LINGER_S_MAX
                return Action.ABORT if ended else Action.NOTHING
            case ConnectionState.OWED:
                return Action.PROBE if seen.silent_request and silent_s > HALF_CLOSED_S else Action.NOTHING
        return Action.NOTHING

    def _look_at_idle(self, now_s: float, limit_s: float) -> Action:
        if self.quiet_since_s == JUST_NOW:
            self.quiet_since_s = now_s
        return Action.CLOSE if now_s - self.quiet_since_s > limit_s else Action.NOTHING

    def _look_at_head(self, since_s: float, silent_s: float, hurried: bool) -> Action | EvenkeelError:
        if since_s > (LINGER_S if hurried else self._limits.header_timeout_s):
            return HeaderTimeout(f"the request's head was not complete after {since_s:.0f} s")
        return _silent(silent_s) if silent_s > self._limits.body_timeout_s else Action.NOTHING

    def _look_at_body(self, now_s: float, silent_s: float, limit_s: float) -> Action | EvenkeelError:
        arrived, self.arrived = self.arrived, 0
        if silent_s > limit_s:
            return _silent(silent_s)
        if self._sending.ends(now_s, arrived):
            return BodyTimeout(f"the body comes slower than {self._limits.body_rate:g} bytes/s (EVENKEEL_BODY_RATE)")
        return Action.NOTHING


def _silent(silent_s: float) -> BodyTimeout:
    return BodyTimeout(f"nothing came for {silent_s:.0f} s in the middle of a request")
