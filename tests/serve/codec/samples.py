"""Signatures and values for the tests of the codecs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evenkeel.serve.codec.codec import Array, Decoded
from evenkeel.serve.codec.codec_plan import STORED
from evenkeel.serve.codec.registry import CODECS
from evenkeel.serve.contract.signature import Signature, TensorSpec

NUMERIC = [name for name in STORED if name not in ("string", "bool")]


def x(dtype: str = "float32", *dims: int | str, allow_nan: bool = False) -> TensorSpec:
    return TensorSpec("x", dtype, dims, allow_nan)


def model(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] | None = None, rows_axis: bool = True) -> Signature:
    """A model that gives what it takes, unless outputs are named."""
    return Signature(inputs, inputs if outputs is None else outputs, rows_axis)


def decode(mime: str, body: bytes, signature: Signature, **params: str) -> Decoded:
    return CODECS[mime].decode(body, signature, params)


def values(decoded: Decoded) -> Any:
    """The first array as nested lists."""
    return decoded.arrays[0].tolist()


def same(left: Array, right: Array) -> bool:
    """Bit for bit, and of the same dtype and shape."""
    if left.dtype == object:
        return left.shape == right.shape and bool(left.tolist() == right.tolist())
    return (left.dtype.str, left.shape, left.tobytes()) == (right.dtype.str, right.shape, right.tobytes())


@st.composite
def arrays_of(draw: st.DrawFn, spec: TensorSpec, rows: int, free: dict[str, int]) -> Array:
    """Any finite array for a spec; bfloat16 as bit patterns."""
    shape = (rows, *(free[d] if isinstance(d, str) else d for d in spec.dims))
    if spec.dtype == "string":
        count = math.prod(shape)
        texts = draw(st.lists(TEXTS, min_size=count, max_size=count))
        array = np.empty(count, dtype=object)
        array[:] = texts
        return array.reshape(shape)
    if spec.dtype == "bfloat16":
        wide = draw(hnp.arrays(np.uint16, shape))
        wide[(wide & 0x7F80) == 0x7F80] = 0x3F80  # no NaN, no infinity
        return wide
    dtype = STORED[spec.dtype]
    elements = hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    return draw(hnp.arrays(dtype, shape, elements=elements))


# No NUL (NPY pads with it) and no line ends (the csv module folds them in quotes, which has a test of its own).
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=6)


@st.composite
def requests(draw: st.DrawFn, dtypes: list[str], inputs_max: int = 3, free: bool = True) -> tuple[Signature, list[Array]]:
    """A signature and arrays that fit it."""
    rows = draw(st.integers(1, 4))
    sizes = {"n": draw(st.integers(1, 3)), "m": draw(st.integers(1, 3))}
    dim: st.SearchStrategy[int | str] = st.integers(1, 3)
    if free:
        dim = dim | st.sampled_from(["n", "m"])
    specs = [
        TensorSpec(f"in{i}", draw(st.sampled_from(dtypes)), tuple(draw(st.lists(dim, max_size=3))))
        for i in range(draw(st.integers(1, inputs_max)))
    ]
    return model(*specs), [draw(arrays_of(spec, rows, sizes)) for spec in specs]
