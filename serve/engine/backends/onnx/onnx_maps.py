"""Maps among the outputs of an ONNX model: what converters of classifiers put behind the probabilities (ZipMap).

Such an output is a sequence with one map a row, from a class to a number, and the classes are the same for every row. It is
served as a tensor with one column a class; which classes there are, one run on zeros shows. Pure, but for that run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evenkeel.serve.contract.signature import TensorSpec
from evenkeel.serve.engine.backends.base import Array
from evenkeel.serve.engine.backends.model_shapes import Found
from evenkeel.serve.engine.backends.trial_runs import Runs, made_up_sizes, trial_inputs
from evenkeel.serve.errors import ModelFailed

MAPS = re.compile(r"seq\(map\((?:int64|string),tensor\((float|double)\)\)\)")
DTYPES_OF_MAPS = {"float": "float32", "double": "float64"}
KEYS_MAX = 4096  # classes of one model; each becomes a column
ROWS_MADE_UP = 2


def with_keys(outs: Sequence[Found], ins: Sequence[Found], run: Callable[[Sequence[str], Sequence[str]], Any]) -> list[Found]:
    """The outputs, maps among them as tensors of (rows, keys). One that no run shows stays what it is, and is refused.

    `run(inputs, outputs)`: what runs the model by names.
    """
    names = [f.name for f in outs if MAPS.fullmatch(f.dtype)]
    if not names:
        return list(outs)
    seen = _first_answer(ins, run([f.name for f in ins], names))
    keys = {name: _keys(value) for name, value in zip(names, seen, strict=False)}
    return [_tensor(f, keys[f.name]) if keys.get(f.name) else f for f in outs]


def _tensor(f: Found, keys: tuple[str, ...]) -> Found:
    match = MAPS.fullmatch(f.dtype)
    assert match is not None, "asked for maps only"
    return Found(f.name, DTYPES_OF_MAPS[match[1]], (None, len(keys)), keys)


def _first_answer(ins: Sequence[Found], run: Runs) -> Sequence[Any]:
    """On zeros, of the first sizes that the model takes; empty where it takes none."""
    dims = [tuple(d if isinstance(d, int) and d > 0 else f"{f.name}.{i}" for i, d in enumerate(f.shape or ())) for f in ins]
    shapes = [(ROWS_MADE_UP if isinstance(d[0], str) else d[0], *d[1:]) if d else d for d in dims]
    specs = [TensorSpec(f.name, f.dtype, shape) for f, shape in zip(ins, shapes, strict=True)]
    for sizes in made_up_sizes(specs, rows_axis=False):
        try:
            return run(trial_inputs(specs, None, sizes))
        except Exception:  # whatever the runtime says of a size
            continue
    return ()


def _keys(value: Any) -> tuple[str, ...]:
    """Of the first row, if all rows have the same and they stay different as texts."""
    if not isinstance(value, list) or not value or not all(isinstance(row, Mapping) for row in value):
        return ()
    keys = tuple(value[0])
    same = all(tuple(row) == keys for row in value)
    return tuple(map(str, keys)) if same and len(set(map(str, keys))) == len(keys) <= KEYS_MAX else ()


def columns(value: Any, spec: TensorSpec) -> Array:
    """One output with keys, as the runtime gives it, as an array. Raises ModelFailed."""
    rows = [list(row.values()) for row in value]
    if any(len(row) != len(spec.keys) for row in rows):
        raise ModelFailed(f"output {spec.name!r} has other keys than at the start: {len(spec.keys)} are expected in each row")
    return np.array(rows, spec.dtype).reshape(len(rows), len(spec.keys))
