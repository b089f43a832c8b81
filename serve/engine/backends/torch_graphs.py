"""CUDA graphs for PyTorch programs: what one batch makes the device do, recorded once, begun again by one call.

Without a graph the CPU begins each of a model's kernels by itself, which for small batches takes longer than the kernels. A
graph holds for one shape and number of rows and for fixed places in the device's memory. So warm-up records the shapes and
sizes that it warms (`add`), and never service: recording waits for the device and takes memory. A batch between two sizes is
run by the graph of the larger one, with rows of no meaning at its end, where that was measured to be faster.

How it works. A batch is copied into the graph's inputs, the graph runs, and its outputs are copied out, all on the device and
in the order of one stream. So the next batch may be launched while this one runs, also with the same graph, and all graphs
can share one pool of memory: nothing in it is needed any more when the next graph starts. What a recording gives is compared
with what the program gives before it is used. Knows torch by what it is handed; the driver records (torch_device.py).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from serve.engine.backends.base import Array

Tensor = Any
MEMORY_SHARE_MAX = 0.25  # of what the replica may allocate, for all recordings
RUNS_TIMED = 3  # of each kind, in turn; the fastest counts, since noise only adds time
# Of the largest value of an output: a library may choose another algorithm while it is recorded.
DIFFERENCE_MAX = 0.01
WHY_CHARS_MAX = 200


class Recorder(Protocol):
    """What of the driver is needed here."""

    target: str

    def record(self, compute: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        """What begins it again, and the places where its results are then. Nothing is computed by the recording itself."""

    def allocated_bytes(self) -> int:
        """Of the device, by this process's framework, whether in use or kept."""


class Eager(Protocol):
    """The program as it runs without graphs."""

    def compute(self, tensors: list[Tensor]) -> list[Tensor]: ...

    def run(self, inputs: Sequence[Array], by: Callable[[list[Tensor]], list[Tensor]]) -> list[Array]:
        """A whole batch there and back, computed by `by`."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of a whole batch of so many rows, without the graph and with it."""

    rows: int
    eager_s: float
    graph_s: float


NOT_TIMED = Timed(0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Graph:
    timed: Timed
    takes: list[Tensor]
    gives: list[Tensor]
    replay: Callable[[], None]
    rows_axis: bool

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        some = (slice(tensors[0].shape[0]),) if self.rows_axis else ()  # of the rows that it has places for
        for place, tensor in zip(self.takes, tensors, strict=True):
            place[some].copy_(tensor)
        self.replay()
        return [t[some].clone() for t in self.gives]


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


class Graphs:
    """Owner of what has been recorded. `rows_axis`: whether the first axis of all inputs and outputs is that of the rows."""

    def __init__(self, torch: Any, recorder: Recorder, limit_bytes: int, rows_axis: bool,
                 clock: Callable[[], float] = time.perf_counter) -> None:  # fmt: skip
        """`limit_bytes`: what the replica may allocate in all."""
        self._torch, self._recorder, self._rows_axis, self._clock = torch, recorder, rows_axis, clock
        self._left_bytes = self._budget_bytes = int(MEMORY_SHARE_MAX * limit_bytes)
        self._found: dict[Hashable, list[Graph]] = {}
        self._tried: set[Hashable] = set()
        self._no_more = ""  # why nothing is recorded any more

    def run(self, tensors: list[Tensor]) -> list[Tensor] | None:
        """None: no graph is of use for them."""
        graphs = self._found.get(self._shape(tensors))
        if not graphs:
            return None
        at = chosen(self._rows(tensors), [g.timed for g in graphs])
        return None if at is None else graphs[at].run(tensors)

    def add(self, program: Eager, inputs: Sequence[Array]) -> None:
        """Record this shape and number of rows, and keep it if it gives the same and is faster. Never raises for what it met:
        then the program runs without, and `describe` says why. `inputs`: as `program.run` takes them."""
        if self._no_more:
            return
        taken: list[list[Tensor]] = []

        def compute(tensors: list[Tensor]) -> list[Tensor]:
            taken.append(tensors)  # kept: they are the graph's own places from now on
            return program.compute(tensors)

        try:
            want = program.run(inputs, compute)  # what is made at the first call must not be made while recording
        except Exception:  # foreign code; whoever runs it next meets that error where it is told
            return
        takes = taken[0]
        size = self._shape(takes), self._rows(takes)
        if size in self._tried:
            return
        self._tried.add(size)
        try:
            self._try(program, inputs, takes, want)
        except Exception as e:  # foreign code: programs that wait for the device, or copy from the host, cannot be recorded
            self._no_more = f"{type(e).__name__}: {' '.join(str(e).split())[:WHY_CHARS_MAX]}"

    def _try(self, program: Eager, inputs: Sequence[Array], takes: list[Tensor], want: Sequence[Array]) -> None:
        rows, before_bytes = self._rows(takes), self._recorder.allocated_bytes()
        with self._torch.inference_mode():
            replay, gives = self._recorder.record(lambda: program.compute(takes))
        graph = Graph(NOT_TIMED, takes, gives, replay, self._rows_axis)
        self._left_bytes -= self._recorder.allocated_bytes() - before_bytes
        if self._left_bytes < 0:
            self._no_more = f"{self._budget_bytes >> 20} MB is all that they may take"
            return
        device = self._torch.device(self._recorder.target).type
        if not all(t.device.type == device and self._has_rows(t, rows) for t in graph.gives):
            self._no_more = "an output is made on the host, or has no rows"
            return
        if not alike(program.run(inputs, graph.run), want):
            self._no_more = "a recording gave other values than the program"
            return
        timed = self._time(program, inputs, rows, graph)
        if timed.graph_s < timed.eager_s:
            graphs = self._found.setdefault(self._shape(takes), [])
            graphs.append(replace(graph, timed=timed))
            graphs.sort(key=lambda g: g.timed.rows)

    def _has_rows(self, tensor: Tensor, rows: int) -> bool:
        return not self._rows_axis or tuple(tensor.shape[:1]) == (rows,)

    def _time(self, program: Eager, inputs: Sequence[Array], rows: int, graph: Graph) -> Timed:
        took: tuple[list[float], list[float]] = ([], [])
        for _ in range(RUNS_TIMED):
            for by, seconds in zip((program.compute, graph.run), took, strict=True):
                begun_s = self._clock()
                program.run(inputs, by)
                seconds.append(self._clock() - begun_s)
        return Timed(rows, min(took[0]), min(took[1]))

    def _rows(self, tensors: Sequence[Tensor]) -> int:
        return int(tensors[0].shape[0]) if self._rows_axis else 1

    def _shape(self, tensors: Sequence[Tensor]) -> Hashable:
        """Of the batch, but for its number of rows."""
        return tuple(tuple(t.shape[self._rows_axis :]) for t in tensors)

    def describe(self) -> str:
        count, used_mb = sum(len(g) for g in self._found.values()), (self._budget_bytes - self._left_bytes) >> 20
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
