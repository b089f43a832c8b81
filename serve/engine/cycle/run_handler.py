"""Whole bodies through the user's handler. Each request of a batch has a result of its own."""

from __future__ import annotations

from evenkeel.serve.batching.item import Segment
from evenkeel.serve.engine.backends.base import RawReply, RawStream
from evenkeel.serve.engine.cycle.engine_context import EngineContext
from evenkeel.serve.engine.cycle.halving import halves
from evenkeel.serve.engine.cycle.handler_failure import fails, tell_of
from evenkeel.serve.engine.cycle.handler_request import raw_request
from evenkeel.serve.engine.cycle.model_queue import ModelQueue
from evenkeel.serve.engine.cycle.open_streams import OpenStreams
from evenkeel.serve.engine.cycle.replies import Replies
from evenkeel.serve.engine.peers import Peer

TOLD_WITHIN_S = 0.001  # of an answer being there: what a front and its client do not notice
USUAL_GAIN = 0.1  # after a batch of 100 ms, the next 22 are told at once


class RunHandler:
    """A Runner. Owner of the streams that its answers have become, and of how long batches take lately."""

    def __init__(self, queue: ModelQueue, replies: Replies, engine: EngineContext) -> None:
        self._queue, self._replica, self._replies = queue, queue.replica, replies
        self._stamp, self._clock = engine.stamp, engine.clock
        self.streams = OpenStreams(replies, engine, tell_of)
        self._usual_s = 0.0  # of a batch, lately

    @property
    def idle(self) -> bool:
        return not self.streams.open

    def advance(self, now_s: float, closing: bool) -> float:
        """One batch, or several of a handler that is quick: their replies wait for each other, see `_goes_on`."""
        segments, began_s, ran = self._queue.next(now_s), now_s, 0
        while segments:
            self.run(segments)
            ran += len(segments)
            now_s = self._clock()
            segments = self._queue.next(now_s) if self._goes_on(ran, now_s - began_s) else []
        return self._queue.wait_s

    def _goes_on(self, ran: int, since_s: float) -> bool:
        """Whether another batch runs before those who are answered are told. To tell each at once wakes its front each time,
        which costs as much as a short handler. Those who are told later are no more than wait for the batch itself, and do
        not wait for one that is expected to be long."""
        if ran >= self._queue.pending.rows or self.streams.open:
            return False
        return since_s + self._usual_s <= TOLD_WITHIN_S

    def run(self, segments: list[Segment]) -> None:
        started_s = self._stamp.batch(segments, len(segments), 0.0)
        try:
            too_large = self._run(segments, started_s)
        finally:
            self._stamp.over()
        if too_large:  # some of a batch of several: each is told only what it does alone
            for fewer in halves(too_large) or (too_large,):
                self.run(fewer)

    def _run(self, segments: list[Segment], started_s: float) -> list[Segment]:
        """Returns those that did not fit into memory together, which may fit apart."""
        requests = [raw_request(s.item) for s in segments]
        handler = self._replica.handler
        assert handler is not None, "only handlers run so"
        results = handler.handle(requests)
        run_s = self._clock() - started_s
        self._usual_s += (run_s - self._usual_s) * USUAL_GAIN
        too_large: list[Segment] = []
        for s, result in zip(segments, results, strict=True):
            if isinstance(result, RawReply):
                self._replies.raw(s.item, result, started_s)
            elif isinstance(result, RawStream):
                self.streams.begin(s.item, result)
            elif fails(self._replies, s.item, result, len(segments)):
                too_large.append(s)
        if len(too_large) > 1:
            self._queue.lower_ceiling(len(too_large))
        ran = len(segments) - len(too_large)
        if ran:
            self._stamp.ran(self._replica, (), ran, run_s, run_s)
            self._queue.tell()
        return too_large

    def forget(self, peer: Peer) -> None:
        self.streams.forget(peer)
