"""What a model takes and gives, and its way from the engine to the fronts as JSON."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.contract.signature import ITEM_BYTES, Signature, TensorSpec

SPECS = st.builds(
    TensorSpec, name=st.text(min_size=1), dtype=st.sampled_from(sorted(ITEM_BYTES)),
    dims=st.lists(st.integers(1, 10**6) | st.text(min_size=1), max_size=5).map(tuple), allow_nan=st.booleans(),
    pad=st.none() | st.floats(allow_nan=False))  # fmt: skip
SIDES = st.lists(SPECS, min_size=1, max_size=4).map(tuple)
SIGNATURES = st.builds(Signature, SIDES, SIDES, st.booleans())


@given(SIGNATURES)
def test_a_signature_comes_back_from_json_as_it_was(signature: Signature) -> None:
    assert Signature.from_json(json.loads(json.dumps(signature.to_json()))) == signature


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (TensorSpec("x", "float32", (3, 4)), 48),
        (TensorSpec("x", "bfloat16", (3,)), 6),
        (TensorSpec("x", "bool", ()), 1),
        (TensorSpec("x", "float32", (3, "n")), None),
        (TensorSpec("x", "string", (3,)), None),
    ],
)
def test_a_row_has_a_size_only_when_every_dim_and_element_has(spec: TensorSpec, size: int | None) -> None:
    assert spec.row_bytes == size


@given(SPECS)
def test_free_dims_are_found_by_their_places(spec: TensorSpec) -> None:
    assert all((i in spec.free) == isinstance(d, str) for i, d in enumerate(spec.dims))
    if spec.row_bytes is not None:
        item = ITEM_BYTES[spec.dtype]
        assert item is not None and spec.row_bytes == item * math.prod(d for d in spec.dims if isinstance(d, int))


def test_a_spec_describes_itself_for_people() -> None:
    assert TensorSpec("x", "float32", (3, "n")).describe(True) == "x: float32[rows, 3, n]"
    assert TensorSpec("x", "int64", ()).describe(False) == "x: int64[]"
