"""The shape log: what it says survives a round trip, and nothing in a damaged or hostile one does harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.contract.shape_uses import LOG_BYTES_MAX, SHAPES_MAX, ShapeUse, dump, parse, read

sizes = st.integers(0, 1 << 31)
uses = st.builds(
    ShapeUse,
    st.lists(st.lists(sizes, max_size=4).map(tuple), max_size=3).map(tuple),
    st.dictionaries(st.sampled_from([1 << i for i in range(13)]), st.integers(1, 1 << 40), max_size=5).map(
        lambda d: tuple(sorted(d.items()))
    ),
)


@given(st.lists(uses, max_size=10))
def test_what_is_written_is_read_again(found: list[ShapeUse]) -> None:
    assert sorted(parse(dump("m", found)), key=repr) == sorted(found, key=repr)


def test_the_most_used_shapes_are_kept_and_the_file_stays_small() -> None:
    many = [ShapeUse((tuple(range(1, 16)),) * 60, ((1, n),)) for n in range(1, 300)]
    raw = dump("m" * 10_000, many)
    kept = parse(raw)
    assert len(raw) <= LOG_BYTES_MAX and 0 < len(kept) <= SHAPES_MAX
    assert kept[0].total == 299


def entry(**parts: object) -> bytes:
    return json.dumps({"format": 1, "model": "m", "shapes": [{"dims": [[2]], "runs": {"1": 1}, **parts}]}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"\xff\xfe", b"[" * 50_000, b"[]", b"{}", b'{"format": 2, "shapes": []}', b'{"format": 1}',
        b'{"format": 1, "shapes": {}}', b'{"format": 1, "shapes": [3]}', b" " * (LOG_BYTES_MAX + 1),
        b'{"format": 1, "shapes": [' + b"{}," * (SHAPES_MAX + 1) + b"{}]}",
        entry(dims="x"), entry(dims=[3]), entry(dims=[[-1]]), entry(dims=[[1.5]]), entry(dims=[[True]]), entry(dims=[[1 << 40]]),
        entry(dims=[[1] * 99]), entry(dims=[[1]] * 99), entry(runs=[]), entry(runs={"0": 1}), entry(runs={"x": 1}),
        entry(runs={"1": -1}),
        entry(runs={"1": 1.5}), entry(runs={"9" * 5000: 1}), entry(runs={"²": 1}), entry(runs={str(n): 1 for n in range(1, 99)}),
        b'{"format": 1, "shapes": [{"dims": [[NaN]], "runs": {}}]}',
    ],
)  # fmt: skip
def test_whatever_is_no_shape_log_is_refused_in_words(raw: bytes) -> None:
    with pytest.raises(ValueError) as refused:
        parse(raw)
    assert 5 < len(str(refused.value)) < 200


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "shapes"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would take the machine down
    with pytest.raises(ValueError, match="larger than"):
        read(str(path))
