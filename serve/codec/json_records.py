"""One row of a model as one JSON value: plain, named, wrapped as built-in algorithms do, or sparse.

    [1, 2]   7   {"x": [1, 2], "y": 7}   {"features": [1, 2]}   {"data": {"features": {"values": [1, 2]}}}
    {"keys": [0, 4], "shape": [6], "values": [1.5, 2]}

Instances of a JSON document and lines of JSON Lines are such records.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenkeel.serve.codec.codec import Array, Body
from evenkeel.serve.codec.codec_plan import STORED, CodecPlan
from evenkeel.serve.codec.decoded_size import ARRAY_BYTES_MAX, check_array
from evenkeel.serve.codec.fit import check_names, from_leaves, from_nested
from evenkeel.serve.contract.signature import TensorSpec
from evenkeel.serve.errors import BadShape

WRAPPERS = ("data", "features", "values")
SPARSE = frozenset({"keys", "shape", "values"})
SPARSE_SIZE = re.compile(rb'"shape"\s*:\s*\[\s*([0-9]{1,18})')


@dataclass(frozen=True, slots=True)
class Noun:
    """What the client calls a record, and the number that it gives to the first: instance 0, line 1."""

    word: str
    first: int = 0

    def __getitem__(self, i: int) -> str:
        return f"{self.word} {i + self.first}"


def from_records(records: list[Any], plan: CodecPlan, noun: Noun) -> list[Array]:
    """One array per input from a list of records."""
    if plan.single is None:
        for i, record in enumerate(records):
            if type(record) is not dict:
                raise BadShape(f"{noun[i]} must name the inputs: {', '.join(spec.name for spec in plan.inputs)}")
            check_names(record, plan, noun[i])
        return [_stack([record[spec.name] for record in records], spec, noun) for spec in plan.inputs]
    if dict in set(map(type, records)):
        records = [_unwrap(record, plan.single, noun[i]) for i, record in enumerate(records)]
    return [_stack(records, plan.single, noun)]


def _unwrap(record: Any, spec: TensorSpec, where: str) -> Any:
    """The value inside its wrappers: a scalar, a list, or a sparse record. The input's own name goes first."""
    if type(record) is not dict:
        return record
    if record.keys() == {spec.name}:
        return record[spec.name]
    for _ in WRAPPERS:
        if type(record) is not dict:
            return _folded(record, spec)
        if record.keys() == SPARSE:
            return record
        wrappers = [key for key in WRAPPERS if key in record]
        if len(wrappers) != 1 or record.keys() - {wrappers[0], "configuration"}:
            keys = ", ".join(sorted(record))[:80]
            raise BadShape(f'{where}: expected a value, {{"{spec.name}": ...}} or {{"features": [...]}}, got keys: {keys}')
        record = record[wrappers[0]]
    return record if type(record) is dict else _folded(record, spec)


def _folded(value: Any, spec: TensorSpec) -> Any:
    """Features are one flat list, whatever the shape of a row: as a row of CSV is."""
    flat = type(value) is list and len(spec.dims) > 1 and not spec.free and not any(type(leaf) is list for leaf in value)
    dims = [d for d in spec.dims if isinstance(d, int)]
    if not flat or len(value) != math.prod(dims):
        return value
    for size in reversed(dims[1:]):
        value = [value[i : i + size] for i in range(0, len(value), size)]
    return value


def in_rows(values: Any, spec: TensorSpec) -> Any:
    """A column of a table has rows of one value: skl2onnx makes an input of [N, 1] of each. So a plain value is such a row."""
    if spec.dims != (1,) or type(values) is not list:
        return values
    return [value if type(value) in (list, dict) else [value] for value in values]


def _stack(values: list[Any], spec: TensorSpec, noun: Noun) -> Array:
    values = in_rows(values, spec)
    if dict in set(map(type, values)):
        return _dense(values, spec, noun)
    try:
        return from_nested(values, spec, rows_axis=True)
    except BadShape:
        for i, value in enumerate(values):
            _row(value, spec, noun[i])
        raise  # each row is fine alone, so it is the rows that differ


def _row(value: Any, spec: TensorSpec, where: str) -> Array:
    try:
        return from_nested(value, spec, rows_axis=False)
    except BadShape as e:
        raise BadShape(f"{where}: {e.message}") from e


def _dense(values: list[Any], spec: TensorSpec, noun: Noun) -> Array:
    """Rows of which some are sparse. Their size is checked before anything is made of it."""
    if len(spec.dims) != 1 or spec.dtype == "string":
        raise BadShape(f"input {spec.name!r}: sparse records need numbers of one dimension, not {spec.describe(True)}")
    size = None if isinstance(spec.dims[0], str) else spec.dims[0]
    for i, value in enumerate(values):
        width = _sparse_size(value, noun[i]) if type(value) is dict else len(value) if type(value) is list else -1
        size = width if size is None else size
        if width != size:
            raise BadShape(f"{noun[i]}: expected {spec.describe(True)} with a row of {size}, got {max(width, 1)}")
    assert size is not None, "there is at least one sparse record"
    check_array(len(values) * size * STORED[spec.dtype].itemsize, f"input {spec.name!r}, with sparse records unfolded,")
    dense = np.zeros((len(values), size), dtype=STORED[spec.dtype])
    for i, value in enumerate(values):
        if type(value) is list:
            dense[i] = _row(value, spec, noun[i])
            continue
        keys, leaves = value["keys"], value["values"]
        if type(keys) is not list or type(leaves) is not list or len(keys) != len(leaves):
            raise BadShape(f'{noun[i]}: "keys" and "values" must be lists of the same length')
        if not all(type(key) is int and 0 <= key < size for key in keys) or len(set(keys)) != len(keys):
            raise BadShape(f'{noun[i]}: "keys" must be different whole numbers from 0 to {size - 1}')
        if keys:
            dense[i, keys] = from_leaves(leaves, (len(leaves),), spec, rows_axis=False)
    return dense


def sparse_bytes(body: Body, plan: CodecPlan) -> int:
    """What the sparse records in a text unfold to at most, by a look at the text alone."""
    spec = plan.single
    if spec is None or len(spec.dims) != 1 or spec.dtype == "string":
        return 0
    text = body if not isinstance(body, memoryview) else bytes(body)
    if b"\\" in text:  # a key may be spelled in a way that the search would miss
        return ARRAY_BYTES_MAX
    return STORED[spec.dtype].itemsize * sum(map(int, SPARSE_SIZE.findall(text))) if b"shape" in text else 0


def _sparse_size(record: dict[str, Any], where: str) -> int:
    if record.keys() != SPARSE:
        raise BadShape(f'{where}: expected {{"keys": [...], "shape": [n], "values": [...]}}, got: {", ".join(record)[:80]}')
    shape = record["shape"]
    if type(shape) is not list or len(shape) != 1 or type(shape[0]) is not int or shape[0] < 0:
        raise BadShape(f'{where}: "shape" of a sparse record must be one size, like [784]')
    return int(shape[0])
