"""One model in an engine: its queue, the runner of its batches, its streams, and the words for its refusals.

The engine's loop (cycle.py) gives it what has come for it and its turns; it never looks at a socket.
"""

from __future__ import annotations

from evenkeel.serve.batching.item import Item
from evenkeel.serve.engine.cells import TAKEN_QUEUE, TAKEN_TABLE
from evenkeel.serve.engine.cycle.engine_context import EngineContext
from evenkeel.serve.engine.cycle.model_queue import ModelQueue
from evenkeel.serve.engine.cycle.replies import Replies
from evenkeel.serve.engine.cycle.row_table import ROWS_MIN, block_of
from evenkeel.serve.engine.cycle.runners import ways_of
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.peers import Peer
from evenkeel.serve.transport.descriptor import RECORD_BYTES, SUSPECT

BLOCK_BYTES_MIN = ROWS_MIN * RECORD_BYTES  # of records that may be handled by columns


class ModelCycle:
    """`single_request`: the short way of a request that is alone, where the model has one."""

    def __init__(self, replica: Replica, engine: EngineContext) -> None:
        self.replica, self.ref, self._count = replica, replica.ref, engine.block.count
        self.replies = Replies(engine.block, replica.ref)
        self.queue = ModelQueue(replica, self.replies, engine)
        ways = ways_of(self.queue, self.replies, engine)
        self.runner, self.single_request, self.streams = ways.runner, ways.single_request, ways.streams
        # Bytes of a row where requests of one row can be handled by columns, else 0.
        self._block_row_bytes = replica.inputs.row_bytes if replica.inputs is not None and replica.by_columns else 0

    @property
    def idle(self) -> bool:
        """Nothing is queued, in flight or still being answered."""
        return not len(self.queue.pending) and self.runner.idle

    def took_block(self, peer: Peer, records: bytes, now_s: float) -> bool:
        """Whether these are single rows that can be handled by columns; then they are queued."""
        if not self._block_row_bytes:
            return False
        block = block_of(records, peer, self.queue.only_key, now_s, self._block_row_bytes, self.ref)
        if block is None:
            return False
        self._count[TAKEN_TABLE] += block.rows
        self.queue.add(block)
        self.queue.note(now_s)
        return True

    def take(
        self, peer: Peer, flags: int, rows: int, id: int, offset: int, capacity: int, used: int, deadline_s: float, now_s: float
    ) -> None:  # fmt: skip
        """A SUBMIT, field by field: to make a record of them would cost as much as to queue it."""
        self._count[TAKEN_QUEUE] += 1
        alone = flags & SUSPECT != 0
        self.queue.add(Item(id, rows, self.queue.only_key, deadline_s, now_s, peer, offset, capacity, used, alone=alone))

    def cancel(self, id: int) -> None:
        if self.streams is None or not self.streams.cancel(id):
            self.queue.cancel(id)

    def more(self, id: int, parts: int) -> None:
        """The front has read so many parts of a stream."""
        if self.streams is not None:
            self.streams.more(id, parts)

    def forget(self, peer: Peer) -> None:
        self.runner.forget(peer)
        self.queue.forget(peer)
