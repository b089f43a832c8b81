"""The status page: a span of shared memory in which every process writes what it is doing and any may read.

How it works. The supervisor makes the page (memfd) and hands it down by inheritance, so it outlives every other
process and counters survive restarts. It is an array of 8-byte cells in blocks, one block per process place. A cell
has exactly one writer; an aligned 8-byte store cannot be seen half done, so there are no locks. Counters are unsigned
integers, times are CLOCK_MONOTONIC seconds (one clock for all processes of a machine), both in the same block through
two views. Text (what an engine has to explain, as JSON) lies behind the cells under a sequence number that is odd
while it is being written.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from functools import partial
from typing import Any

from evenkeel.serve.contract.lifecycle import Reason, ReplicaState, Verdict
from evenkeel.serve.errors import FAMILIES

FRONTS_MAX = 16
ENGINES_MAX = 32
BLOCK_CELLS = 512
TEXT_BYTES = 16384
ROW_CELLS = 40  # of a histogram of rows: bucket i holds values below 2**i
# Of a histogram of times, four buckets an octave: the edges grow by at most 1.25, so that a slowdown of a fifth shows.
TIME_CELLS = 152  # the last ones end above 2**37 microseconds, more than a day

ROLES = ("front", "engine", "sidecar")
RESTART_REASONS = ("exit", "signal", "stuck", "out_of_memory", "leak", "device", "unreachable")


class _Cells(IntEnum):
    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[int]) -> int:
        return count


class Main(_Cells):
    """Written by the supervisor, but for the verdict, DEVICE_FAULTS, what is measured and ROLLOUT, which are the sidecar's, and
    WORKER_RESTARTS, which are gunicorn's."""

    STARTED_S = auto()
    LEAVING = auto()  # the Reason why the container is stopping, 0 while it is not
    FRONTS = auto()
    ENGINES = auto()
    VERDICT_READY = auto()
    VERDICT_REASON = auto()
    VERDICT_SINCE_S = auto()
    VERDICT_BEAT_S = auto()
    SERVING = auto()  # the revision (one loading of one version) that takes traffic; fronts follow it
    COUNTED_VERSIONS = auto()  # versions that were ever served, each with counters of its own
    DEVICE_FAULTS = (
        auto()
    )  # errors after which a device answers nothing right, over all of them; which, in DEVICE_TEXT; the sidecar's
    RESTARTS = 32  # by role and reason: see `restarts`
    WORKER_RESTARTS = 64  # by reason; written by gunicorn, which replaces its workers itself
    SATURATION = 72  # share of the last seconds in which engines were busy
    HEADROOM_RPS = 73  # NaN while nobody can say
    MEASURED_S = 74  # when the two were written; 0: never
    ROLLOUT = 75  # a RolloutCell: what the sidecar's judge says of the rollout that it was told to follow
    OOM_KILLS = 76  # by the kernel in this cgroup, as far as they are explained: see container/watch/memory_kills.py
    # Log lines that could not be written: by the supervisor, by gunicorn's parent process and by the sidecar, each its own.
    LINES_LOST = 96
    WORKERS_LINES_LOST = 97
    SIDECAR_LINES_LOST = 98


class RolloutCell(IntEnum):
    NONE = 0  # none was named
    PROMOTE = 1
    HOLD = 2
    ROLLBACK = 3


class Front(_Cells):
    """Written by one front worker. ERRORS counts by error family, LATENCY is a histogram of requests answered with 200.
    OK, ABANDONED, ERRORS and LATENCY with its sum are there once for each version, see `counters`."""

    PID = auto()
    BEAT_S = auto()
    CONNECTIONS = auto()
    IN_FLIGHT = auto()
    QUEUE_ROWS = auto()
    SLOT_BYTES = auto()
    OK = auto()
    RESUBMITTED = auto()
    ABANDONED = auto()
    LATENCY_SUM_S = auto()
    APART_S = auto()  # since when it has had no engine, although one had time for it; 0 while it has one
    FOLLOWS = auto()  # the revision to which it sends requests
    # Which ways requests went, see request_ways.py.
    ARRIVED = auto()  # whole requests, whatever becomes of them
    ARRIVED_PARSED = auto()  # of these, those under a head of no known shape, or in parts
    IN_ROWS = auto()  # plain rows, decoded and sent with what else came in the same turn
    IN_TENSORS = auto()  # decoded one by one
    IN_THREAD = auto()  # of any kind, in the thread
    IN_BODIES = auto()  # not decoded here: a handler's
    IN_PARTS = auto()  # answers that came in parts
    ERRORS = 32
    LATENCY = 64
    GREETED = 224  # by engine place: the epoch of the engine there that has greeted this worker; 0: none
    ANSWERED_BY = 256  # the same: that has answered a request of this worker's own, or gave it none to ask
    LINES_LOST = 480  # log lines that could not be written


class Engine(_Cells):
    """Written by one engine; the supervisor clears it before a restart and writes EPOCH, PID, REVISION and MEMORY_BYTES."""

    PID = auto()
    EPOCH = auto()
    STATE = auto()
    STATE_SINCE_S = auto()
    WAS_READY = auto()
    WARM_DONE = auto()
    WARM_TOTAL = auto()
    BEAT_S = auto()
    QUEUE_ROWS = auto()
    RUN_STARTED_S = auto()  # 0 while idle
    RUN_PREDICTED_S = auto()
    RUN_DEADLINE_S = auto()  # the last deadline in the running batch
    ROW_COST_S = auto()  # seconds a row at the batch size in use: what a queued row will cost
    BATCHES = auto()
    ROWS = auto()
    RUN_SUM_S = auto()  # of the model alone
    BUSY_SUM_S = auto()  # of whole batches, with gather and scatter: what the engine was not free
    QUEUE_SUM_S = auto()
    RUN_ROWS = auto()
    RUN_AGAIN = auto()  # 1: the running batch is one request that was in a crash, see transport/descriptor.py
    RUN_LONGEST_S = auto()  # about the longest batch so far, over all lives: it fades slowly
    RUN_LIMIT_S = auto()  # what the model's owner allows a batch, 0 without a word of his
    STUCK = auto()  # written by the supervisor: it has decided to end this process
    ROWS_FIT = auto()  # rows of a batch that fit into memory, learned from those that did not; 0: no limit met
    REVISION = auto()  # what is, or is to be, loaded there; 0: nothing
    MEMORY_BYTES = auto()  # of the process alone, without files and shared memory
    ENDED_HOW = auto()  # of the last life that ended, see engine_ends.py; the supervisor's
    ENDED_EPOCH = auto()
    QUEUE_LARGE = auto()  # requests in the queue that need several batches, and take turns with the others
    QUEUE_BEYOND = auto()  # their rows beyond one batch each: of QUEUE_ROWS, those that nobody else waits behind
    AWAITS_S = auto()  # since when it is warm and waits for fronts to come, 0 while it does not
    LEAVING_EPOCH = auto()  # written by the supervisor: of the one that still finishes there what it has; 0: none
    ERRORS = 32
    BATCH_ROWS = 64
    RUN_TIME = 112
    QUEUE_TIME = 272
    READY_ROWS = 480  # ROWS when it became ready: what it ran before then were rehearsals
    LINES_LOST = 481  # log lines that could not be written
    TAKEN_SINGLE = 482  # requests that skipped the queue
    TAKEN_TABLE = 483  # that were queued as rows of a table
    TAKEN_QUEUE = 484  # that were queued one by one


assert Front.LATENCY + TIME_CELLS <= Front.GREETED and Front.ANSWERED_BY + ENGINES_MAX <= BLOCK_CELLS, "they follow each other"
assert len(FAMILIES) <= 32, "ERRORS has room for 32 families"

# In an engine's block: who is in the batch that runs, or ran last. The engine's epoch, how many spans of ids there are,
# and the first and last id of each; a span may hold more than ran, never less. Not cleared at a restart: a front asks
# which of its requests were running when the engine ended.
RUN_EPOCH = 440
RUN_SPANS = 441
RUN_SPANS_MAX = 16
assert RUN_SPANS + 1 + 2 * RUN_SPANS_MAX <= Engine.READY_ROWS, "the spans end before the next cells"

COUNTED_VERSIONS_MAX = 16  # versions that a container counts one by one; all that come later are counted together in the last
_COUNTERS_AT = 1 + FRONTS_MAX + ENGINES_MAX
_BLOCKS = _COUNTERS_AT + FRONTS_MAX * (COUNTED_VERSIONS_MAX - 1)
_TEXT_AT = _BLOCKS * BLOCK_CELLS * 8
SIDECAR_TEXT = ENGINES_MAX  # the sidecar's own text, behind those of the engines: what its successor goes on from
PLAN_TEXT = ENGINES_MAX + 1  # the supervisor's: which model is to be served, known before any engine has loaded it
DEVICE_TEXT = ENGINES_MAX + 2  # the sidecar's: what the machine's accelerators say of themselves
POISON_CELLS = 2048  # of one front, see poison_page.py
_POISON_AT = _TEXT_AT + (ENGINES_MAX + 3) * TEXT_BYTES
PAGE_BYTES = _POISON_AT + FRONTS_MAX * POISON_CELLS * 8


class StatusBlock:
    """The cells of one process place. `count` is for integers, `value` for seconds; same memory, two views."""

    __slots__ = ("count", "value")

    def __init__(self, memory: memoryview) -> None:
        self.count = memory.cast("Q")
        self.value = memory.cast("d")


class StatusPage:
    """The whole page, mapped. Owner of nothing: each block belongs to the process at its place."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, PAGE_BYTES)
        self._view = memoryview(self._map)
        self.main = self._block(0)

    @staticmethod
    def create() -> StatusPage:
        fd = os.memfd_create("evenkeel-status", 0)  # inheritable on purpose: passed down by number
        os.ftruncate(fd, PAGE_BYTES)
        return StatusPage(fd)

    def _block(self, place: int) -> StatusBlock:
        at = place * BLOCK_CELLS * 8
        return StatusBlock(self._view[at : at + BLOCK_CELLS * 8])

    def front(self, place: int) -> StatusBlock:
        assert 0 <= place < FRONTS_MAX, "the plan bounds the number of fronts"
        return self._block(1 + place)

    def counters(self, front: int, number: int) -> StatusBlock:
        """Where this front counts what it answered with that version. The first one is in the front's own block."""
        assert 0 <= number < COUNTED_VERSIONS_MAX, "the supervisor bounds the versions that are remembered"
        return self.front(front) if number == 0 else self._block(_COUNTERS_AT + front * (COUNTED_VERSIONS_MAX - 1) + number - 1)

    def engine(self, place: int) -> StatusBlock:
        assert 0 <= place < ENGINES_MAX, "the plan bounds the number of engines"
        return self._block(1 + FRONTS_MAX + place)

    def poisons(self, front: int) -> StatusBlock:
        """Where this front remembers the requests that ended engines."""
        at = _POISON_AT + front * POISON_CELLS * 8
        return StatusBlock(self._view[at : at + POISON_CELLS * 8])

    def write_text(self, engine: int, data: dict[str, Any]) -> None:
        """Publish what the engine at this place (or at SIDECAR_TEXT …) explains. Too long: replaced by a note."""
        raw = json.dumps(data, default=str).encode()
        if len(raw) > TEXT_BYTES - 16:
            raw = json.dumps({"truncated": f"{len(raw)} bytes do not fit in {TEXT_BYTES - 16}"}).encode()
        at = _TEXT_AT + engine * TEXT_BYTES
        head = self._view[at : at + 16].cast("Q")
        head[0] |= 1  # odd: being written. A writer that died half-way has left it odd already
        head[1] = len(raw)
        self._view[at + 16 : at + 16 + len(raw)] = raw
        head[0] += 1

    def read_text(self, engine: int, looks: int = 100) -> dict[str, Any]:
        """The last complete text of that engine; empty when there is none or it was being written at every look."""
        at = _TEXT_AT + engine * TEXT_BYTES
        head = self._view[at : at + 16].cast("Q")
        for look in range(looks):
            if look:
                time.sleep(0.0005)
            before, size = head[0], head[1]
            raw = bytes(self._view[at + 16 : at + 16 + min(size, TEXT_BYTES - 16)])
            if before % 2 == 0 and head[0] == before:
                return dict(json.loads(raw)) if raw else {}
        return {}

    def verdict(self) -> Verdict:
        count = self.main.count
        return Verdict(bool(count[Main.VERDICT_READY]), Reason(count[Main.VERDICT_REASON]))

    def write_verdict(self, verdict: Verdict, now_s: float) -> bool:
        """The sidecar's only write. Returns whether it changed."""
        count, value = self.main.count, self.main.value
        changed = self.verdict() != verdict or value[Main.VERDICT_SINCE_S] == 0
        if changed:
            value[Main.VERDICT_SINCE_S] = now_s
            count[Main.VERDICT_REASON] = verdict.reason
            count[Main.VERDICT_READY] = verdict.ready
        value[Main.VERDICT_BEAT_S] = now_s
        return changed


def time_edge(cell: int) -> float:
    """Seconds below which the times of a cell lie; those of the last cell have no bound."""
    octave, quarter = divmod(cell - 1, 4)
    return 1e-6 if cell == 0 else math.ldexp(1 + (quarter + 1) / 4, octave) * 1e-6


# The histogram cell of a time. Cell 0 is below 1 us; then four linear steps from each power of two to the next.
time_bucket: Callable[[float], int] = partial(bisect_right, [time_edge(cell) for cell in range(TIME_CELLS - 1)])
# The histogram cell of a number of rows: the first i with rows < 2**i.
row_bucket: Callable[[int], int] = partial(bisect_right, [2**cell for cell in range(ROW_CELLS - 1)])


def version_counters(page: StatusPage, front: int) -> list[StatusBlock]:
    """What this front has counted, one block for each version."""
    return [page.counters(front, i) for i in range(max(1, page.main.count[Main.COUNTED_VERSIONS]))]


def summed(cells: Sequence[memoryview]) -> list[int]:
    """The same cells of several blocks, added up."""
    return [sum(column) for column in zip(*(c.tolist() for c in cells), strict=True)]


def serves(page: StatusPage, place: int) -> bool:
    """Whether the engine there is one of those that take traffic."""
    return bool(page.engine(place).count[Engine.REVISION] == page.main.count[Main.SERVING])


def places(page: StatusPage) -> list[int]:
    """Engine places that are in use: those of the other slot (blue or green) are empty most of the time."""
    count = page.main.count
    return [i for i in range(count[Main.ENGINES]) if page.engine(i).count[Engine.REVISION] or not count[Main.SERVING]]


def restart_cell(role: str, reason: str) -> int:
    """Where the supervisor counts restarts of a role for a reason."""
    return Main.RESTARTS + ROLES.index(role) * 8 + RESTART_REASONS.index(reason)


def worker_restart_cell(reason: str) -> int:
    """Where gunicorn counts the front workers that it has replaced."""
    return Main.WORKER_RESTARTS + RESTART_REASONS.index(reason)


def restarts(page: StatusPage) -> dict[tuple[str, str], int]:
    """Every process that was replaced, by role and reason. A front is gunicorn or one of its workers."""
    count = page.main.count
    counts = {(role, why): count[restart_cell(role, why)] for role in ROLES for why in RESTART_REASONS}
    for why in RESTART_REASONS:
        counts["front", why] += count[worker_restart_cell(why)]
    return counts


def lines_lost(page: StatusPage) -> int:
    """Log lines that no process could write, over all lives of each."""
    count = page.main.count
    own = (Main.LINES_LOST, Main.WORKERS_LINES_LOST, Main.SIDECAR_LINES_LOST)
    fronts = sum(page.front(i).count[Front.LINES_LOST] for i in range(FRONTS_MAX))
    return sum(count[cell] for cell in own) + fronts + sum(page.engine(i).count[Engine.LINES_LOST] for i in range(ENGINES_MAX))


def run_spans(engine: StatusBlock) -> list[tuple[int, int]]:
    """The first and last request id of each span that is in the engine's batch, or was in its last one."""
    count = engine.count
    at = [RUN_SPANS + 1 + 2 * i for i in range(min(count[RUN_SPANS], RUN_SPANS_MAX))]
    return [(count[i], count[i + 1]) for i in at]


@dataclass(frozen=True, slots=True)
class EngineView:
    """One engine's block, read at one moment."""

    place: int
    pid: int
    epoch: int
    state: ReplicaState
    was_ready: bool
    warm_done: int
    warm_total: int
    queue_rows: int
    run_started_s: float
    run_deadline_s: float
    batches: int
    rows: int
    state_since_s: float = 0.0
    beat_s: float = 0.0
    run_rows: int = 0
    run_predicted_s: float = 0.0  # 0: nothing is known of such a batch
    run_longest_s: float = 0.0
    run_limit_s: float = 0.0
    run_again: bool = False
    stuck: bool = False
    awaits_s: float = 0.0
    leaving_epoch: int = 0


def read_engine(page: StatusPage, place: int) -> EngineView:
    block = page.engine(place)
    n, v = block.count, block.value
    return EngineView(
        place, n[Engine.PID], n[Engine.EPOCH], ReplicaState(n[Engine.STATE]), bool(n[Engine.WAS_READY]), n[Engine.WARM_DONE],
        n[Engine.WARM_TOTAL], n[Engine.QUEUE_ROWS], v[Engine.RUN_STARTED_S], v[Engine.RUN_DEADLINE_S],
        n[Engine.BATCHES], n[Engine.ROWS], v[Engine.STATE_SINCE_S], v[Engine.BEAT_S], n[Engine.RUN_ROWS],
        v[Engine.RUN_PREDICTED_S], v[Engine.RUN_LONGEST_S], v[Engine.RUN_LIMIT_S], bool(n[Engine.RUN_AGAIN]),
        bool(n[Engine.STUCK]), v[Engine.AWAITS_S], n[Engine.LEAVING_EPOCH])  # fmt: skip
