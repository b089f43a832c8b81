"""Trial runs on made-up input: sizes that are tried in turn, and what two runs of different sizes say of the outputs.

A file says that a size is free; it does not say which sizes the model can do. Image networks want multiples of 32, audio
networks a second of sound or a window of one, exporters write a batch axis where only one item is possible. So the usual
sizes are tried until one runs. Which are tried depends on the signature alone, never on a clock: the same file gives the
same answer each time. Pure, but for the function that runs the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from evenkeel.serve.contract.manifest import ROWS
from evenkeel.serve.contract.signature import TensorSpec
from evenkeel.serve.engine.backends.base import Array

Dim = int | str | None  # a size, a named free dim, or a free dim without a name
Runs = Callable[[Sequence[Array]], Sequence[Array]]
Sizes = Mapping[str, int]  # of the free dims, by name

ROWS_TRIED = (2, 3)
FREE_SIZE = 16  # of a free dim when nothing else tells: small, so that a start is quick
# Pairs, since two sizes tell which dims of the outputs follow those of the inputs. Images: 64, 224, 320; audio: windows of 512
# and 576 samples, a second at 16 kHz. All but the last ones of audio are multiples of 32.
PAIRS = ((64, 96), (224, 256), (320, 640), (512, 576), (1024, 1280), (16000, 16384))
PLAIN_MAX = 1024  # larger sizes are for sound alone: a transformer of 16000 tokens would fill the memory
TRIAL_BYTES_MAX = 64 << 20  # of the inputs of one trial


def sizes_tried(names: Sequence[str], trial: int) -> dict[str, int]:
    """Different sizes for different names and trials; multiples of 32, since many image networks need that."""
    return {name: 32 * (2 + trial + 2 * i) for i, name in enumerate(names)}


def free_names(inputs: Sequence[TensorSpec]) -> list[str]:
    return sorted({d for s in inputs for d in s.dims if isinstance(d, str)})


def attempts(inputs: Sequence[TensorSpec], rows_axis: bool) -> Iterator[tuple[Sizes, Sizes]]:
    """Pairs of sizes, the most telling ones first. Names that could count items are 1 in some of them: the first dim of an
    input without a rows axis, or every dim but the last."""
    names = free_names(inputs)
    yield sizes_tried(names, 0), sizes_tried(names, 1)
    firsts = set() if rows_axis else {s.dims[0] for s in inputs if s.dims}
    lasts = {s.dims[-1] for s in inputs if s.dims}
    single = [sorted(set(names) & firsts), sorted(set(names) - lasts)]
    single = [some for i, some in enumerate(single) if some and len(some) < len(names) and some not in single[:i]]
    for some in single:
        others = [name for name in names if name not in some]
        yield _with_ones(some, sizes_tried(others, 0)), _with_ones(some, sizes_tried(others, 1))
    sound = all(len(s.dims) + rows_axis <= 2 and s.dtype.startswith("float") for s in inputs if s.free)
    for pair in PAIRS:
        if names and (sound or max(pair) <= PLAIN_MAX or min(pair) < PLAIN_MAX // 2):
            for some in (*single, []):
                first, second = (_with_ones(some, dict.fromkeys(names, size)) for size in pair)
                yield first, second


def _with_ones(some: Sequence[str], sizes: Sizes) -> Sizes:
    return {**sizes, **dict.fromkeys(some, 1)}


def made_up_sizes(inputs: Sequence[TensorSpec], rows_axis: bool) -> Iterator[Sizes]:
    """Sizes for a row that is made up, in the order in which to try them; each once."""
    seen: list[Sizes] = []
    for sizes in (dict.fromkeys(free_names(inputs), FREE_SIZE), *(first for first, _ in attempts(inputs, rows_axis))):
        if sizes not in seen and _bytes(inputs, sizes) <= TRIAL_BYTES_MAX:
            seen.append(sizes)
            yield sizes


def trial_inputs(inputs: Sequence[TensorSpec], rows: int | None, sizes: Sizes) -> list[Array]:
    """Zeros (a valid token number everywhere), False or empty strings."""
    lead = () if rows is None else (rows,)
    return [filled(s.dtype, lead + _dims(s, sizes)) for s in inputs]


def _dims(spec: TensorSpec, sizes: Sizes) -> tuple[int, ...]:
    return tuple(sizes[d] if isinstance(d, str) else d for d in spec.dims)


def _bytes(inputs: Sequence[TensorSpec], sizes: Sizes) -> int:
    return sum(8 * math.prod(_dims(s, sizes)) for s in inputs)


def filled(dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype == "string":
        return np.full(shape, "", dtype=object)
    return np.zeros(shape, dtype="uint16" if dtype == "bfloat16" else dtype)


def learn(inputs: Sequence[TensorSpec], rows_axis: bool, run: Runs, axis: str = ROWS) -> list[tuple[Dim, ...]] | None:
    """The shapes of the outputs, learnt from two runs of different sizes; None when the model refused all that was tried."""
    for pair in attempts(inputs, rows_axis):
        shapes = _seen(inputs, rows_axis, run, axis, pair)
        if shapes is not None:
            return shapes
    return None


def _seen(
    inputs: Sequence[TensorSpec], rows_axis: bool, run: Runs, axis: str, pair: tuple[Sizes, Sizes]
) -> list[tuple[Dim, ...]] | None:
    seen: list[list[tuple[int, ...]]] = []
    sizes: list[dict[str, int]] = []
    for rows, size in zip(ROWS_TRIED, pair, strict=True):
        if _bytes(inputs, size) > TRIAL_BYTES_MAX:
            return None
        try:
            outputs = run(trial_inputs(inputs, rows if rows_axis else None, size))
        except Exception:
            return None
        seen.append([np.shape(o) for o in outputs])
        sizes.append({**size, axis: rows} if rows_axis else dict(size))
    if list(map(len, seen[0])) != list(map(len, seen[1])):
        return None
    return [tuple(map(lambda a, b: _dim(a, b, sizes), *pair)) if pair[0] else () for pair in zip(*seen, strict=True)]


def _dim(first: int, second: int, sizes: Sequence[Sizes]) -> Dim:
    """A dim that follows one free dim of the inputs has its name; one that stays is fixed. It is free without a name when
    nothing was found, when two names could be meant, or when it is one and a free dim was one both times."""
    if first == second and first > 0:
        return None if (1, 1) in zip(sizes[0].values(), sizes[1].values(), strict=True) and first == 1 else first
    followed = [name for name in sizes[0] if (sizes[0][name], sizes[1][name]) == (first, second)]
    return followed[0] if len(followed) == 1 else None
