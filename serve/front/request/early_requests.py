"""Requests that came while no engine had greeted this worker. If the container is ready, or would be but for that, one soon
will.

Owner of them: bounded in number, in bytes and by their deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.serve.contract.lifecycle import Reason
from evenkeel.serve.errors import NotReady, TooManyBytes

if TYPE_CHECKING:
    from evenkeel.serve.codec import Body
    from evenkeel.serve.contract.status_page import StatusPage
    from evenkeel.serve.front.request.invocation import Invocation
    from evenkeel.serve.front.request.outcomes import Outcomes
    from evenkeel.serve.settings import Limits

EARLY_MAX = 256


class EarlyRequests:
    """With their bodies, as they came."""

    def __init__(self, page: StatusPage, outcomes: Outcomes, limits: Limits) -> None:
        self._page, self._outcomes = page, outcomes
        self._timeout_s, self._bytes_max = limits.request_timeout_s, limits.queue_bytes_max
        self.waiting: list[tuple[Invocation, Body]] = []

    def wait(self, invocation: Invocation, body: Body, is_loaded: bool = False) -> None:
        """Raises NotReady or TooManyBytes for one that need not wait, or may not. `is_loaded`: its model is, among many, and its
        engine is being started again."""
        verdict = self._page.verdict()
        expected = is_loaded or verdict.ready or verdict.reason is Reason.NOT_CONNECTED
        if not expected or len(self.waiting) >= EARLY_MAX:
            raise NotReady("the model is still loading or warming; /ping turns 200 when it is ready", retry_after_s=1)
        if len(body) + sum(len(other) for _, other in self.waiting) > self._bytes_max:
            raise TooManyBytes("many requests wait for an engine already (EVENKEEL_QUEUE_MB)", retry_after_s=1)
        self.waiting.append((invocation, body))

    def take_all(self) -> list[tuple[Invocation, Body]]:
        """An engine is there. Those who have left are not among them."""
        waiting, self.waiting = self.waiting, []
        return [(invocation, body) for invocation, body in waiting if invocation.caller is not None]

    def expire(self, now_s: float) -> None:
        for invocation, _ in self.waiting:
            if invocation.started_s + self._timeout_s <= now_s:
                self._outcomes.refuse(invocation, NotReady("no engine became ready within the deadline", retry_after_s=1))
        self.waiting = [(invocation, body) for invocation, body in self.waiting if invocation.caller is not None]

    def end_all(self) -> None:
        for invocation, _ in self.waiting:
            self._outcomes.refuse(invocation, NotReady("the container stops before an engine was ready", retry_after_s=1))
