"""What waits for one model, and which of it is to run next.

Owner of the queue, of what has been coming lately, and of the largest batch that may run. Who waits beyond a deadline is told
so here; everybody else leaves it in a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable

from evenkeel.serve.batching.arrivals import Arrivals
from evenkeel.serve.batching.item import Item, Segment
from evenkeel.serve.batching.pending import Pending
from evenkeel.serve.batching.policy import Policy, QueueView, Wait, next_step
from evenkeel.serve.batching.split import place
from evenkeel.serve.contract.logline import log
from evenkeel.serve.engine.cells import QUEUE_BEYOND, QUEUE_LARGE, QUEUE_ROWS, ROWS_FIT
from evenkeel.serve.engine.cycle.engine_context import EngineContext
from evenkeel.serve.engine.cycle.replies import Replies
from evenkeel.serve.engine.cycle.row_table import RowTable
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.errors import Cancelled, DeadlineExceeded, EvenkeelError

IDLE_S = 0.5  # how often an idle engine stamps that it lives


class ModelQueue:
    """`wait_s`: how long nothing is to be done here, once `next` has said that there is nothing now. `on_change`: the largest
    batch is another one."""

    def __init__(self, replica: Replica, replies: Replies, engine: EngineContext) -> None:
        self.replica, self.pending, self.arrivals = replica, Pending(replica.rows_max), Arrivals()
        self.wait_s = IDLE_S
        self.on_change: Callable[[], None] = _nothing
        self._replies, self._count, self._waiting = replies, engine.block.count, engine.waiting
        self._policy = Policy(replica.rows_max, replica.manifest.slo_s)
        inputs = replica.inputs
        # With fixed shapes (and with whole bodies) every request queues under the same key.
        self.only_key: Hashable | None = () if inputs is None else inputs.dims if inputs.fixed else None
        self._arrived_rows = 0  # since it was last noted
        self._rows = self._large = self._beyond = 0  # as they were last noted on the page
        self._held_since_s = 0.0  # since when the next batch is being held back for more rows

    def add(self, item: Item) -> None:
        if item.key is None:
            item.key = self._key(item)
        self.pending.add(item)
        self._arrived_rows += item.rows

    def _key(self, item: Item) -> Hashable:
        if self.only_key is not None:
            return self.only_key
        gather, layout = self.replica.gather, self.replica.inputs
        assert gather is not None and layout is not None, "only tensor replicas have several shapes"
        return gather.key(layout.row_dims(item.peer.memory, item.offset))

    def note(self, now_s: float) -> None:
        """All that came together is here."""
        if self._arrived_rows:
            self.arrivals.note(self._arrived_rows, self.pending.rows, now_s)
            self._arrived_rows = 0
        self.tell()

    def tell(self) -> None:
        """The page has the sums over all models of the engine."""
        count, pending, waiting = self._count, self.pending, self._waiting
        waiting.rows += pending.rows - self._rows
        self._rows = pending.rows
        count[QUEUE_ROWS] = waiting.rows
        if pending.large or self._large:
            waiting.large += pending.large - self._large
            waiting.beyond += pending.beyond - self._beyond
            self._large, self._beyond = pending.large, pending.beyond
            count[QUEUE_LARGE], count[QUEUE_BEYOND] = waiting.large, waiting.beyond

    def next(self, now_s: float) -> list[Segment]:
        """The batch that is to run now; empty: none, for `wait_s`."""
        chosen = self.pending.oldest()
        if chosen is None:
            self._held_since_s = 0.0
            self.wait_s = IDLE_S
            return []
        key, queue = chosen
        head = queue[0]
        if head.deadline_s <= now_s:
            self.expire(now_s)
            self.wait_s = 0.0
            return []
        if head.alone:  # it was in a crash: nobody shares a batch with it
            return self._placed(deque((head,)), self.replica.rows_max, now_s)
        if self._policy.rows_max == 1:  # nothing to choose, and nobody to wait for
            return self._placed(queue, 1, now_s)
        rows = self.pending.rows if self.only_key is not None else sum(i.rows - i.placed for i in queue if not i.gone)
        held_s = now_s - self._held_since_s if self._held_since_s else 0.0
        arrivals = self.arrivals
        expected = arrivals.peak_rows - self.pending.rows
        view = QueueView(rows, head.arrived_s, head.deadline_s, arrivals.rate, expected, held_s)
        step = next_step(view, now_s, self.replica.cost.curve(key), self._policy)
        if isinstance(step, Wait):
            self._held_since_s = self._held_since_s or now_s
            self.wait_s = max(0.0, step.until_s - now_s)
            return []
        self._held_since_s = 0.0
        return self._placed(queue, step.rows, now_s)

    def _placed(self, queue: deque[Item], rows: int, now_s: float) -> list[Segment]:
        segments = place(queue, rows, now_s)
        if segments:
            self.pending.placed(segments, now_s)
        self.wait_s = 0.0 if self.pending.rows else IDLE_S
        return segments

    def cancel(self, id: int) -> None:
        """The caller has left. It may have been placed, or be unknown: then its answer is on the way."""
        for item in self.pending.items():
            if isinstance(item, RowTable) and item.holds(id):
                self.pending.replace(item, item.waiting())
                break
        dropped = self.pending.drop(id)
        if dropped is not None:
            self._replies.fault(dropped, Cancelled("the caller has left"))

    def expire(self, now_s: float) -> None:
        """Fault what has waited until its deadline. The front has told the client already; this frees the slots."""
        late = DeadlineExceeded("the request waited in the queue until its deadline")
        for table in self.pending.expired(now_s):
            if isinstance(table, RowTable):
                self.pending.replace(table, table.waiting())
        for item in self.pending.expired(now_s):
            if self.pending.drop(item.id):
                self._replies.fault(item, late)

    def fail(self, segment: Segment, error: EvenkeelError) -> None:
        """It failed in a batch of its own: if rows of the request still wait, they must not run."""
        item, start, _ = segment
        if isinstance(item, RowTable):
            self._replies.fault(item.single(start), error)
        elif not item.gone:
            self.pending.fail(item)
            self._replies.fault(item, error)

    def forget(self, peer: object) -> None:
        """A front has gone: there is nobody to reply to."""
        for item in self.pending.drop_peer(peer):
            self._replies.forget(item)
        self.tell()

    def lower_ceiling(self, rows: int) -> None:
        """So many rows did not fit into memory: from now on half of them at most."""
        replica, fits = self.replica, max(1, rows // 2)
        if rows > 1 and fits < replica.rows_max:
            log("out_of_memory", f"a batch of {rows} rows does not fit into memory; from now on {fits} at most", rows_max=fits)
            replica.rows_max = replica.rows_fit = fits
            self._policy = Policy(fits, replica.manifest.slo_s)
            self._count[ROWS_FIT] = fits
            self.on_change()


def _nothing() -> None: ...
