"""Requests that end before an engine has answered them: the caller leaves, the deadline passes, or the worker stops.

The caller is told at once, or is gone. What an engine has of it stays in its slot until that engine sends it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.serve.errors import DeadlineExceeded, NotReady

if TYPE_CHECKING:
    from evenkeel.serve.front.request.failover import Failover
    from evenkeel.serve.front.request.in_flight import InFlightRequests
    from evenkeel.serve.front.request.invocation import Invocation
    from evenkeel.serve.front.request.offload import Offload
    from evenkeel.serve.front.request.outcomes import Outcomes
    from evenkeel.serve.settings import Limits


class Cancellation:
    """Owns nothing."""

    def __init__(
        self, in_flight: InFlightRequests, failover: Failover, offload: Offload, outcomes: Outcomes, limits: Limits
    ) -> None:
        self._in_flight, self._failover, self._offload, self._outcomes = in_flight, failover, offload, outcomes
        self._timeout_s = limits.request_timeout_s

    def abandon(self, invocation: Invocation) -> None:
        """The client has hung up. Its place in the queue is free at once; the slot comes back with the reply."""
        invocation.caller = None
        self._outcomes.count_abandoned(invocation)
        if invocation.slot is not None:
            self._cancel(invocation)

    def expire(self, now_s: float) -> None:
        """Answer those whose deadline has passed, wherever their request is now."""
        late = [i for i in self._in_flight.pending.values() if i.deadline_s <= now_s and i.caller is not None]
        for invocation in late:
            error = self._outcomes.streams.too_late(invocation, now_s)
            if error is not None:
                self._outcomes.refuse(invocation, error)
                self._cancel(invocation)
        for invocation in self._offload.waiting:
            if invocation.started_s + self._timeout_s <= now_s:
                message = "the request was still being decoded, or its answer encoded, at its deadline"
                self._outcomes.refuse(invocation, DeadlineExceeded(message))

    def end_all(self) -> None:
        """The worker stops, and will not wait longer: every caller that is not answered yet is told so."""
        for invocation in [i for i in self._in_flight.pending.values() if i.caller is not None]:
            what = "this answer was not complete" if invocation.stream is not None else "this request was not done in time"
            self._outcomes.refuse(invocation, NotReady(f"the container stops; {what}", retry_after_s=1))
            self._cancel(invocation)
        for invocation in self._offload.waiting:
            message = "the container stops; this request was not done in time"
            self._outcomes.refuse(invocation, NotReady(message, retry_after_s=1))

    def _cancel(self, invocation: Invocation) -> None:
        link = invocation.link
        if link is None:  # no engine has it: it is over at once
            self._failover.forget(invocation)
        elif link.model is not None:
            self._in_flight.cancel(invocation, link)
