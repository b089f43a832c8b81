"""The shape log: which shapes and batch sizes a model met in production, so that its next version warms up on them.

One small JSON file, written by the sidecar and read by the next engine. It holds sizes and counts, never a payload.
Anyone who reads it trusts nothing in it: it may be from another model, cut short, or made by somebody else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

FORMAT = 1
LOG_BYTES_MAX = 64 * 1024
SHAPES_MAX = 64  # the most used are kept
INPUTS_MAX, RANK_MAX = 64, 16
SIZE_MAX = 1 << 31
COUNT_MAX = 1 << 53  # beyond it JSON readers lose digits

Dims = tuple[tuple[int, ...], ...]  # of one row, for each input


@dataclass(frozen=True, slots=True)
class ShapeUse:
    """How often batches of each size ran for one shape. `runs` is by size of batch, rounded up to a power of two."""

    dims: Dims
    runs: tuple[tuple[int, int], ...]  # (rows, batches), ascending

    @property
    def total(self) -> int:
        return sum(count for _, count in self.runs)


def to_json(uses: Iterable[ShapeUse]) -> list[dict[str, Any]]:
    return [{"dims": [list(d) for d in use.dims], "runs": {str(n): count for n, count in use.runs}} for use in uses]


def from_json(data: object) -> list[ShapeUse]:
    """The inverse of `to_json`. Raises ValueError that says what is wrong."""
    if not isinstance(data, list) or len(data) > SHAPES_MAX:
        raise ValueError(f"shapes must be a list of at most {SHAPES_MAX}")
    return [_use(entry) for entry in data]


def _use(entry: object) -> ShapeUse:
    dims = entry.get("dims") if isinstance(entry, dict) else None
    runs = entry.get("runs") if isinstance(entry, dict) else None
    if not isinstance(dims, list) or not isinstance(runs, dict) or len(dims) > INPUTS_MAX:
        raise ValueError("each shape needs dims, a list for each input, and runs, counts by batch size")
    if not all(isinstance(d, list) and len(d) <= RANK_MAX and all(_whole(n, 0, SIZE_MAX) for n in d) for d in dims):
        raise ValueError("dims must be lists of sizes")
    sizes = [(int(n), count) for n, count in runs.items() if n.isdecimal() and len(n) < 8]
    if len(sizes) != len(runs) or len(runs) > 32 or not all(n >= 1 and _whole(count, 0, COUNT_MAX) for n, count in sizes):
        raise ValueError("runs must be counts by batch size")
    return ShapeUse(tuple(map(tuple, dims)), tuple(sorted(sizes)))


def _whole(n: object, low: int, high: int) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and low <= n <= high


def dump(model: str, uses: Iterable[ShapeUse]) -> bytes:
    """The file's bytes: the most used shapes, as many as fit."""
    kept = sorted(uses, key=lambda use: (-use.total, use.dims))[:SHAPES_MAX]
    while True:
        raw = json.dumps({"format": FORMAT, "model": model[:200], "shapes": to_json(kept)}).encode() + b"\n"
        if len(raw) <= LOG_BYTES_MAX or not kept:
            return raw
        kept.pop()


def parse(raw: bytes) -> list[ShapeUse]:
    """Raises ValueError that says what is wrong with the file."""
    if len(raw) > LOG_BYTES_MAX:
        raise ValueError(f"it is larger than {LOG_BYTES_MAX} bytes")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"it is not JSON: {str(e)[:80]}") from e
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"it is not of format {FORMAT}")
    return from_json(data.get("shapes"))


def read(path: str) -> list[ShapeUse]:
    """Raises ValueError when it is no shape log, FileNotFoundError when there is none yet, OSError."""
    with open(path, "rb") as file:
        return parse(file.read(LOG_BYTES_MAX + 1))
