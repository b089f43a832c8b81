"""CUDA graphs: what one batch makes the device do, recorded once, begun again by one call. Knows no framework.

Without a graph the CPU begins each of a model's kernels by itself, which for small batches takes longer than the kernels. A
graph holds for one shape and number of rows and for fixed places in the device's memory. So warm-up records the shapes and
sizes that it warms (`add`), and never service: recording waits for the device and takes memory. A batch between two sizes is
run by the graph of the larger one, with rows of no meaning at its end, where that was measured to be faster.

How it works. A batch is copied into the graph's inputs, the graph runs, and its outputs are copied out, all on the device and
in the order of one stream. So the next batch may be launched while this one runs, also with the same graph. What a recording
gives is compared with what the program gives before it is used. How a framework records is in torch_graphs.py and
onnx_graphs.py.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from evenkeel.serve.engine.backends.base import Array

MEMORY_SHARE_MAX = 0.25  # of what the replica may allocate, for all recordings
RUNS_TIMED = 3  # of each kind, in turn; the fastest counts, since noise only adds time
# Of the largest value of an output: a library may choose another algorithm while it is recorded.
DIFFERENCE_MAX = 0.01
WHY_CHARS_MAX = 200

G = TypeVar("G")  # what a framework has recorded


class NotRecordable(Exception):
    """What was recorded cannot be used; the text says why."""


class GraphProgram(Protocol[G]):
    """A model on the device, as its framework runs it."""

    def run(self, inputs: Sequence[Array], by: G | None) -> Sequence[Array]:
        """A whole batch there and back, by this graph; None: without one. The outputs hold until the batch after the next."""

    def record(self, inputs: Sequence[Array]) -> G:
        """Raises NotRecordable, or whatever the framework raises."""

    def allocated_bytes(self) -> int:
        """Of the device, by this replica, whether in use or kept."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of a whole batch of so many rows, without the graph and with it."""

    rows: int
    eager_s: float
    graph_s: float


NOT_TIMED = Timed(0, 0.0, 0.0)


def chosen(rows: int, sizes: Sequence[Timed]) -> int | None:
    """Which of these sizes, in ascending order, runs a batch of `rows` faster than it would run without a graph. Between two
    sizes the time without is taken to lie on a line between theirs."""
    at = bisect_left([s.rows for s in sizes], rows)
    if at == len(sizes):
        return None
    above, below = sizes[at], sizes[at - 1] if at else NOT_TIMED
    share = (rows - below.rows) / (above.rows - below.rows)
    eager_s = below.eager_s + share * (above.eager_s - below.eager_s)
    return at if above.graph_s < eager_s else None


class Graphs(Generic[G]):
    """Owner of what has been recorded. `rows_axis`: whether the first axis of all inputs and outputs is that of the rows."""

    def __init__(self, limit_bytes: int, rows_axis: bool, clock: Callable[[], float] = time.perf_counter) -> None:
        """`limit_bytes`: what the replica may allocate in all."""
        self._rows_axis, self._clock = rows_axis, clock
        self._left_bytes = self._budget_bytes = int(MEMORY_SHARE_MAX * limit_bytes)
        self._found: dict[Hashable, list[tuple[Timed, G]]] = {}
        self._tried: set[Hashable] = set()
        self._no_more = ""  # why nothing is recorded any more

    def best(self, inputs: Sequence[Array]) -> G | None:
        """None: no graph is of use for them."""
        recorded = self._found.get(self._shape(inputs))
        if not recorded:
            return None
        at = chosen(self._rows(inputs), [timed for timed, _ in recorded])
        return None if at is None else recorded[at][1]

    def add(self, program: GraphProgram[G], inputs: Sequence[Array]) -> None:
        """Record this shape and number of rows, and keep it if it gives the same and is faster. Never raises for what it met:
        then the program runs without, and `describe` says why."""
        size = self._shape(inputs), self._rows(inputs)
        if self._no_more or size in self._tried:
            return
        try:
            # What is made at the first call must not be made while recording.
            want = [np.array(a) for a in program.run(inputs, None)]
        except Exception:  # foreign code; its next run meets that error where it is told
            return
        self._tried.add(size)
        try:
            self._try(program, inputs, want)
        except NotRecordable as e:
            self._no_more = str(e)
        except Exception as e:  # foreign code: programs that wait for the device, or copy from the host, cannot be recorded
            self._no_more = f"{type(e).__name__}: {' '.join(str(e).split())[:WHY_CHARS_MAX]}"

    def _try(self, program: GraphProgram[G], inputs: Sequence[Array], want: Sequence[Array]) -> None:
        before_bytes = program.allocated_bytes()
        graph = program.record(inputs)
        self._left_bytes -= program.allocated_bytes() - before_bytes
        if self._left_bytes < 0:
            raise NotRecordable(f"{self._budget_bytes >> 20} MB is all that they may take")
        if not alike(program.run(inputs, graph), want):
            raise NotRecordable("a recording gave other values than the program")
        timed = self._time(program, inputs, graph)
        if timed.graph_s < timed.eager_s:
            recorded = self._found.setdefault(self._shape(inputs), [])
            recorded.append((timed, graph))
            recorded.sort(key=lambda f: f[0].rows)

    def _time(self, program: GraphProgram[G], inputs: Sequence[Array], graph: G) -> Timed:
        took: tuple[list[float], list[float]] = ([], [])
        for _ in range(RUNS_TIMED):
            for by, seconds in zip((None, graph), took, strict=True):
                begun_s = self._clock()
                program.run(inputs, by)
                seconds.append(self._clock() - begun_s)
        return Timed(self._rows(inputs), min(took[0]), min(took[1]))

    def _rows(self, inputs: Sequence[Array]) -> int:
        return int(inputs[0].shape[0]) if self._rows_axis else 1

    def _shape(self, inputs: Sequence[Array]) -> Hashable:
        """Of the batch, but for its number of rows."""
        return tuple([x.shape[self._rows_axis :] for x in inputs])

    def describe(self) -> str:
        count, used_mb = sum(len(f) for f in self._found.values()), (self._budget_bytes - self._left_bytes) >> 20
        words = f"{count} recorded of {len(self._tried)} tried, {used_mb} MB"
        return f"{words}; no more, because {self._no_more}" if self._no_more else words


def alike(got: Sequence[Array], want: Sequence[Array]) -> bool:
    """Equal up to what another algorithm gives; NaN and infinity where the other has them too."""
    for a, b in zip(got, want, strict=True):
        if a.shape != b.shape:
            return False
        if a.dtype.kind != "f":
            if not np.array_equal(a, b):
                return False
            continue
        finite = np.isfinite(b)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return False
        if finite.any() and not np.abs(a[finite] - b[finite]).max() <= DIFFERENCE_MAX * max(1e-6, np.abs(b[finite]).max()):
            return False
    return True
