"""What a signature means to the codecs, worked out once: names, stored dtypes, the packer of a plain row.

A signature is frozen, but hashing it for every request would cost more than decoding a small body, so plans are found
by identity. Each plan holds its signature, hence the identity cannot be reused while the plan is known.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenkeel.serve.contract.signature import ITEM_BYTES, Signature, TensorSpec

PLANS_MAX = 64  # signatures remembered; a process serves a handful of versions at a time

# How each dtype is stored in an array. Text formats, NPY and NPZ show bfloat16 as float32 instead.
STORED: dict[str, np.dtype[Any]] = {
    name: np.dtype({"bfloat16": "uint16", "string": "object"}.get(name, name)) for name in ITEM_BYTES
}
# Only dtypes whose pack code refuses all that we refuse: "?" takes anything for a bool, and bfloat16 has no code.
PACK_CODES = {"int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q",
              "uint64": "Q", "float16": "e", "float32": "f", "float64": "d"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CodecPlan:
    signature: Signature
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    single: TensorSpec | None  # the input, when there is only one
    # Of the single input, when an array of that dtype needs no further look; else object, which is never read. (It must
    # not be None: to numpy, float64 == None.)
    view_dtype: np.dtype[Any]
    single_dims: tuple[int | str, ...]
    input_names: frozenset[str]
    output_names: tuple[str, ...]
    shared_free: bool  # some free dim is named twice, so that sizes must be compared
    # A row of the single input as Python numbers -> its bytes, checking count, type and range in one call of C; and
    # the dtype of such a whole row. None when the row is not plain: free dims, bool, bfloat16, string, no rows axis.
    pack_row: Callable[..., bytes] | None
    row_dtype: np.dtype[Any] | None
    pack_flat_row: Callable[..., bytes] | None  # pack_row where a row is one list of numbers
    row_bytes: int  # of such a row; 0 when there is none
    has_texts: bool  # among the inputs
    plain_output: bool  # one output that orjson writes as it is


_plans: dict[int, CodecPlan] = {}


def plan_of(signature: Signature) -> CodecPlan:
    plan = _plans.get(id(signature))
    if plan is None:
        if len(_plans) >= PLANS_MAX:
            _plans.clear()
        plan = _plans[id(signature)] = _make(signature)
    return plan


def _make(signature: Signature) -> CodecPlan:
    inputs, outputs = signature.inputs, signature.outputs
    single = inputs[0] if len(inputs) == 1 else None
    free = [d for spec in inputs for d in spec.dims if isinstance(d, str)]
    pack_row, row_dtype = None, None
    if single is not None and signature.rows_axis and not single.free and single.dtype in PACK_CODES:
        size = math.prod(d for d in single.dims if isinstance(d, int))
        if size > 0:
            pack_row = struct.Struct(f"<{size}{PACK_CODES[single.dtype]}").pack
            row_dtype = np.dtype((STORED[single.dtype], single.dims))
    return CodecPlan(
        signature=signature, inputs=inputs, outputs=outputs, single=single,
        view_dtype=STORED[single.dtype] if single is not None and single.dtype in PACK_CODES else STORED["string"],
        single_dims=() if single is None else single.dims,
        input_names=frozenset(spec.name for spec in inputs), output_names=tuple(spec.name for spec in outputs),
        shared_free=len(free) != len(set(free)), pack_row=pack_row, row_dtype=row_dtype,
        pack_flat_row=pack_row if single is not None and len(single.dims) == 1 else None,
        row_bytes=0 if row_dtype is None else row_dtype.itemsize, has_texts=any(spec.dtype == "string" for spec in inputs),
        plain_output=len(outputs) == 1 and outputs[0].dtype not in ("bfloat16", "string") and not outputs[0].keys)  # fmt: skip
