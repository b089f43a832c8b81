"""What warm-up runs on: rows of real or made input for every shape that is expected, best source first.

1. the samples of model.toml; 2. the shapes that the last version met in production (the shape log), filled with the
values of a sample; 3. only when there is neither, one made up from the signature: the usual sizes, to be tried in turn.
Nothing is run here. What the shape log says is checked against the signature and bounded: it is advice from a file, not an
order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evenkeel.serve import codec
from evenkeel.serve.contract.manifest import ModelSample
from evenkeel.serve.contract.shape_uses import Dims, ShapeUse
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.engine.backends.base import Array
from evenkeel.serve.engine.backends.trial_runs import made_up_sizes
from evenkeel.serve.engine.cycle.tensors import Gather
from evenkeel.serve.errors import BadModel, EvenkeelError
from evenkeel.serve.transport.layout import numpy_dtype

SHAPES_MAX = 32  # of one plan; every one costs start-up time
ROWS_KEPT = 8  # different rows of one shape: enough to see whether rows of a batch touch each other
WARM_BYTES_MAX = 1 << 30  # of the inputs of one batch: a damaged shape log must not fill the memory


@dataclass(slots=True)
class Shape:
    """Rows of one shape. Each row is a list of arrays, of (1, *dims) when the model has a rows axis, else of dims."""

    key: Dims
    source: str  # sample, shape log or signature
    rows: list[list[Array]] = field(default_factory=list)
    sizes: tuple[int, ...] = ()  # batch sizes seen in production; empty: not known

    @property
    def label(self) -> str:
        return ", ".join("x".join(map(str, dims)) or "scalar" for dims in self.key)

    @property
    def origin(self) -> str:
        """Where its rows came from: what a message about it should name."""
        return {"sample": "the samples", "shape log": "the shape log", "signature": "the signature"}[self.source]

    def batch(self, rows: int) -> list[Array]:
        """`rows` rows, the different ones over and over."""
        if rows == 1:
            return self.rows[0]
        chosen = [self.rows[i % len(self.rows)] for i in range(rows)]
        return [np.concatenate(same) for same in zip(*chosen, strict=True)]

    @property
    def row_bytes(self) -> int:
        return sum(a.nbytes for a in self.rows[0])


def batch_sizes(rows_max: int) -> list[int]:
    """1, 2, 4, … and `rows_max`."""
    chosen = [1]
    while chosen[-1] * 2 <= rows_max:
        chosen.append(chosen[-1] * 2)
    return chosen if chosen[-1] == rows_max else [*chosen, rows_max]


def decoded(sample: ModelSample, signature: Signature) -> codec.Decoded:
    """Raises BadModel: a sample that the model's own signature refuses."""
    try:
        media = codec.parse_media(sample.content_type)
        return codec.decoder_for(sample.content_type).decode(sample.input.read_bytes(), signature, media.params)
    except EvenkeelError as e:
        raise BadModel(f"sample {sample.input.name} fails: {e.code}: {e.message}") from e


def shapes(
    signature: Signature, gather: Gather, samples: Sequence[ModelSample], used: Sequence[ShapeUse]
) -> tuple[list[Shape], str]:
    """The shapes of the plan, none where there are neither samples nor a log; and what was left out of it, in words."""
    by_key: dict[Any, Shape] = {}
    for sample in samples:
        arrays = decoded(sample, signature).arrays
        key = gather.key(tuple(a.shape[signature.rows_axis :] for a in arrays))
        shape = by_key.setdefault(key, Shape(key, "sample"))
        padded = gather.padded(arrays, key)
        for i in range(len(padded[0]) if signature.rows_axis else 1):
            if len(shape.rows) < ROWS_KEPT:
                shape.rows.append([a[i : i + 1] for a in padded] if signature.rows_axis else list(padded))
    pattern = next(iter(by_key.values())).rows[0] if by_key else None
    strange = 0
    for use in sorted(used, key=lambda u: -u.total):
        if not fits(use.dims, signature):
            strange += 1
            continue
        key = gather.key(use.dims)  # its buckets may have had other edges than ours
        sizes = tuple(n for n, count in use.runs if count)
        if key in by_key:
            by_key[key].sizes = tuple(sorted({*by_key[key].sizes, *sizes}))
        else:
            by_key[key] = Shape(key, "shape log", [_made(signature, key, pattern)], sizes)
    for shape in by_key.values():
        _vary(shape, signature, invented=pattern is None)
    left_out = f"{strange} shapes of the shape log do not fit this model" if strange else ""
    if len(by_key) > SHAPES_MAX:
        left_out += f"{'; ' if left_out else ''}{len(by_key) - SHAPES_MAX} shapes beyond {SHAPES_MAX}"
    return list(by_key.values())[:SHAPES_MAX], left_out


def made_up(signature: Signature, gather: Gather) -> Iterator[Shape]:
    """One shape after the other, for the first that runs to be taken: of ones, and where no size will do, of zeros."""
    for value in (1, 0):
        seen = set()
        for sizes in made_up_sizes(signature.inputs, signature.rows_axis):
            dims = tuple(tuple(sizes[d] if isinstance(d, str) else d for d in s.dims) for s in signature.inputs)
            key = gather.key(dims)
            if key in seen:
                continue
            seen.add(key)
            row = _made(signature, key, None)
            shape = Shape(key, "signature", [row if value else [_zeros(a) for a in row]])
            _vary(shape, signature, invented=True)
            yield shape


def _zeros(array: Array) -> Array:
    return array if array.dtype.hasobject else np.zeros_like(array)


def fits(key: Dims, signature: Signature) -> bool:
    """Whether a request could have this shape: ranks, fixed sizes, equal names, and a size that is no attack."""
    if len(key) != len(signature.inputs):
        return False
    named: dict[str, int] = {}
    total = 0
    for dims, spec in zip(key, signature.inputs, strict=True):
        if len(dims) != len(spec.dims):
            return False
        for size, want in zip(dims, spec.dims, strict=True):
            if size < 0 or size != (want if isinstance(want, int) else named.setdefault(want, size)):
                return False
        total += math.prod(dims) * (numpy_dtype(spec.dtype).itemsize or 1)
    return total <= WARM_BYTES_MAX


def _made(signature: Signature, key: Dims, pattern: Sequence[Array] | None) -> list[Array]:
    """One row of this shape, out of a sample's values repeated (they are ones that the model knows), else of ones."""
    row = []
    for i, (spec, dims) in enumerate(zip(signature.inputs, key, strict=True)):
        values = _one(spec) if pattern is None or not pattern[i].size else pattern[i]
        row.append(np.resize(values, (1, *dims) if signature.rows_axis else dims))
    return row


def _one(spec: TensorSpec) -> Array:
    dtype = numpy_dtype(spec.dtype)
    if spec.dtype == "bfloat16":
        return np.full(1, 0x3F80, dtype)  # the bits of 1.0
    return np.full(1, "a" if dtype.hasobject else 1, dtype)


def _vary(shape: Shape, signature: Signature, *, invented: bool) -> None:
    """More rows that differ, by turning the values of the first one round: the values stay ones that the model knows.

    Of an invented row every third value becomes zero before: ones turned round would be ones.
    """
    if not signature.rows_axis:
        return
    first = shape.rows[0]
    if invented:
        first = [
            a if a.dtype.hasobject else np.where(np.arange(a.size).reshape(a.shape) % 3 == 0, 0, a).astype(a.dtype) for a in first
        ]
    for turn in range(1, ROWS_KEPT - len(shape.rows) + 1):
        turned = [np.roll(a.reshape(-1), turn).reshape(a.shape) for a in first]
        if any(not np.array_equal(a, b) for a, b in zip(turned, first, strict=True)):
            shape.rows.append(turned)
