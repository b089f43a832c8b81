"""What a model takes and gives: names, dtypes and shapes. Read from the model file or from model.toml.

Frozen records that travel as JSON from the engine to the fronts when they connect. A *row* is one item of a batch;
the dims here are those of one row, without the leading rows axis. A dim is a size, or the name of a free dimension:
the same name means the same size within a request.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

# The dtypes that travel. Bytes per element; strings have no fixed size. bfloat16 has no NumPy type: its arrays are
# uint16 bit patterns everywhere between the codec and the backend.
ITEM_BYTES: dict[str, int | None] = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "string": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. `dims` leaves out the rows axis; `()` with rows is one scalar a row.

    `keys`: of an output that is a map for each row, as classifiers give (ONNX's ZipMap): it travels as one value a key, in this
    order, and JSON shows the map.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]
    allow_nan: bool = False
    pad: float | None = None  # padding value for free dims; None means: never pad, batch equal shapes only
    keys: tuple[str, ...] = ()

    @property
    def free(self) -> tuple[int, ...]:
        """Places of the free dims in `dims`."""
        return tuple(i for i, d in enumerate(self.dims) if isinstance(d, str))

    @property
    def row_bytes(self) -> int | None:
        """Bytes of one row, or None when a dim is free or the dtype has no fixed size."""
        item = ITEM_BYTES[self.dtype]
        if item is None or self.free:
            return None
        return item * math.prod(d for d in self.dims if isinstance(d, int))

    def describe(self, rows_axis: bool) -> str:
        dims = (["rows"] if rows_axis else []) + [str(d) for d in self.dims]
        return f"{self.name}: {self.dtype}[{', '.join(dims)}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """`rows_axis`: the first axis of every tensor counts rows and rows may be batched together.

    Without it a request is one indivisible item whose arrays have exactly `dims`, and counts as one row.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows_axis: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Signature:
        def spec(d: dict[str, Any]) -> TensorSpec:
            return TensorSpec(d["name"], d["dtype"], tuple(d["dims"]), d["allow_nan"], d["pad"], tuple(d["keys"]))

        return Signature(tuple(map(spec, data["inputs"])), tuple(map(spec, data["outputs"])), data["rows_axis"])
