"""What is measured: one line for each workload. Pure data; `bodies.py` makes what is sent, `bars.py` says what must be reached.

Every workload is sent with heads of its own: a trace id and an inference id that no other request has, as platforms send them.
Where bodies are text, their lengths differ, too. The workloads of LEAD are sent with the same head every time as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

JSON, NPY, CSV, PICTURE = "json", "npy", "csv", "picture"
LEAD, ALONE, PEER, OPEN = "lead", "alone", "peer", "open"  # which of the bars holds
ONNX_MODELS = ("T", "S", "M")
HANDLERS = ("table", "together", "texts", "picture", "tensor")
CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Workload:
    """`rows`: rows of a request, least and most. `pads`: blanks behind a body, 0 to this less one, so that lengths differ.

    `fresh`: a new connection for each request. `load`: the share of its capacity at which requests are due; 0 is a closed loop.
    """

    name: str
    says: str
    model: str
    wire: str
    rows: tuple[int, int] = (1, 1)
    connections: int = CONNECTIONS
    bar: str = PEER
    pads: int = 0
    fresh: bool = False
    load: float = 0.0
    pinned: bool = True  # the server on core 0, the load on core 1; otherwise both on all cores

    @property
    def group(self) -> tuple[str, str, bool]:
        """What the servers are started for."""
        return self.model, self.wire, self.pinned


SHORT: tuple[Workload, ...] = (
    Workload("json-64", "T, JSON", "T", JSON, bar=LEAD),
    Workload("npy-64", "T, NPY", "T", NPY, bar=LEAD),
    Workload("csv-64", "T, CSV", "T", CSV, bar=LEAD),
    Workload("json-1", "T, JSON, 1 connection", "T", JSON, connections=1, bar=ALONE),
    Workload("json-rows-16", "T, JSON, 16 rows", "T", JSON, rows=(16, 16)),
    Workload("json-rows-mixed", "T, JSON, 1 to 100 rows", "T", JSON, rows=(1, 100)),
    Workload("json-lengths", "T, JSON, some 2,000 different lengths", "T", JSON, pads=2000),
    Workload("json-open", "T, JSON, open load at half of the capacity", "T", JSON, load=0.5, bar=OPEN),
    Workload("json-fresh", "T, JSON, a new connection for each request", "T", JSON, fresh=True),
    Workload("handler-64", "a Python handler of 0.1 ms, JSON", "table", JSON),
    Workload("texts-64", "a Python handler, 4 texts, JSON", "texts", JSON),
    Workload("picture-64", "a JPEG of 150 kB to a Python handler", "picture", PICTURE),
    Workload("cnn-8", "M, NPY of 602 kB, 8 connections", "M", NPY, connections=8, pinned=False),
)


def _at(n: int) -> str:
    return f"{n} connection{'s' * (n > 1)}"


MORE: tuple[Workload, ...] = (
    *(Workload(f"json-{n}", f"T, JSON, {_at(n)}", "T", JSON, connections=n) for n in (8, 256)),
    *(Workload(f"npy-{n}", f"T, NPY, {_at(n)}", "T", NPY, connections=n) for n in (1, 8, 256)),
    *(Workload(f"csv-{n}", f"T, CSV, {_at(n)}", "T", CSV, connections=n) for n in (1, 8, 256)),
    Workload("npy-rows-16", "T, NPY, 16 rows", "T", NPY, rows=(16, 16)),
    Workload("npy-rows-mixed", "T, NPY, 1 to 100 rows", "T", NPY, rows=(1, 100)),
    Workload("csv-rows-16", "T, CSV, 16 rows", "T", CSV, rows=(16, 16)),
    Workload("npy-open", "T, NPY, open load at half of the capacity", "T", NPY, load=0.5, bar=OPEN),
    Workload("npy-fresh", "T, NPY, a new connection for each request", "T", NPY, fresh=True),
    Workload("s-json-64", "S (1 ms), JSON", "S", JSON, pinned=False),
    Workload("s-npy-64", "S (1 ms), NPY", "S", NPY, pinned=False),
    *(Workload(f"handler-{n}", f"a Python handler of 0.1 ms, JSON, {_at(n)}", "table", JSON, connections=n)
      for n in (1, 8, 256)),
    Workload("handler-rows-16", "a Python handler of 0.1 ms, JSON, 16 rows", "table", JSON, rows=(16, 16)),
    Workload("handler-open", "the handler of 0.1 ms, open load at half of the capacity", "table", JSON, load=0.5, bar=OPEN),
    Workload("together-64", "a handler that takes a batch in one call of 0.1 ms, JSON", "together", JSON),
    Workload("texts-1", "a Python handler, 4 texts, JSON, 1 connection", "texts", JSON, connections=1),
    *(Workload(f"picture-{n}", f"a JPEG of 150 kB to a Python handler, {_at(n)}", "picture", PICTURE, connections=n)
      for n in (1, 8)),
    *(Workload(f"tensor-{n}", f"an NPY of 602 kB to a Python handler, {_at(n)}", "tensor", NPY, connections=n)
      for n in (1, 8, 64)),
    *(Workload(f"cnn-{n}", f"M, NPY of 602 kB, {_at(n)}", "M", NPY, connections=n, pinned=False) for n in (1, 64)),
)  # fmt: skip

WORKLOADS: dict[str, Workload] = {w.name: w for w in (*SHORT, *MORE)}


def chosen(names: str, *, every: bool) -> list[Workload]:
    """Those that are named, or the short set, or all; side by side where the same servers are asked. Raises KeyError."""
    wanted: Sequence[Workload] = [WORKLOADS[n] for n in names.split(",")] if names else [*SHORT, *(MORE if every else ())]
    groups = list(dict.fromkeys(w.group for w in wanted))
    return sorted(wanted, key=lambda w: groups.index(w.group))
