"""Large JSON bodies: read in pieces, with the same answer as in one go, and without the memory."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.codec import json_large
from evenkeel.serve.codec.codec import Decoded, Form
from evenkeel.serve.codec.codec_plan import CodecPlan, plan_of
from evenkeel.serve.codec.json_document import decode_document, parse
from evenkeel.serve.codec.json_large import decode_large
from evenkeel.serve.contract.signature import TensorSpec
from evenkeel.serve.errors import BadRequest
from tests.serve.codec.samples import decode, model, same, x

WRAPPINGS = {
    Form.INSTANCES: (b'{"instances": ', b"}"),
    Form.BARE: (b"", b""),
    Form.COLUMNS: (b' {\n"inputs" :{ "x":', b"} }\n"),
}


@pytest.fixture(autouse=True, params=[24, 64 << 10])
def piece_bytes(request: pytest.FixtureRequest) -> Iterator[int]:
    """Every test runs with tiny pieces too, so that each byte is some time at the edge of one."""
    usual, json_large.PIECE_BYTES = json_large.PIECE_BYTES, request.param
    yield request.param
    json_large.PIECE_BYTES = usual


def general(body: bytes, plan: CodecPlan) -> Decoded | None:
    try:
        return decode_document(parse(body), plan)
    except BadRequest:
        return None


def agree(body: bytes, plan: CodecPlan) -> bool:
    """Whatever is read in pieces must be what the general path reads. Says whether it was read at all."""
    pieces = decode_large(body, plan)
    if pieces is not None:
        whole = general(body, plan)
        assert whole is not None, f"taken, but malformed: {body!r}"
        assert (pieces.rows, pieces.form) == (whole.rows, whole.form)
        assert all(same(a, b) for a, b in zip(pieces.arrays, whole.arrays, strict=True)), body
    return pieces is not None


@st.composite
def plain_bodies(draw: st.DrawFn) -> tuple[CodecPlan, bytes]:
    dims = draw(st.lists(st.integers(1, 4), max_size=3))
    rows_axis = draw(st.booleans()) or not dims
    dtype = draw(st.sampled_from(["float32", "int64", "float64", "bfloat16", "uint8"]))
    named = [f"d{i}" if draw(st.booleans()) else dim for i, dim in enumerate(dims)]
    numbers = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 200, (draw(st.integers(1, 5)), *dims))
    array = numbers if dtype in ("int64", "uint8") else np.array(numbers / 7, np.float32)
    text = orjson.dumps(array if rows_axis else array[0], option=orjson.OPT_SERIALIZE_NUMPY)
    for mark in (b",", b"[", b"]"):
        text = text.replace(mark, mark + b" \n"[: draw(st.integers(0, 2))])
    before, after = WRAPPINGS[draw(st.sampled_from(list(Form)))]
    return plan_of(model(x(dtype, *named), rows_axis=rows_axis)), before + text + after


@given(plain_bodies())
def test_a_plain_body_is_read_in_pieces_with_the_same_result(case: tuple[CodecPlan, bytes]) -> None:
    plan, body = case
    between_commas = max(map(len, body.split(b",")))
    assert agree(body, plan) or between_commas >= json_large.PIECE_BYTES


@given(plain_bodies(), st.data())
def test_a_mutated_body_is_never_taken_for_what_it_is_not(case: tuple[CodecPlan, bytes], data: st.DataObject) -> None:
    plan, body = case
    at = data.draw(st.integers(0, len(body)))
    cut = data.draw(st.integers(0, 3))
    new = data.draw(st.text(alphabet='[]{},:"0123 .-+eE\n\fnut', max_size=3)).encode()
    agree(body[:at] + new + body[at + cut :], plan)


RECORDS = ("x", "features", "data.features.values", "sparse", "plain")


@st.composite
def lists_of_records(draw: st.DrawFn) -> tuple[CodecPlan, bytes]:
    """Rows of three numbers, each written in a way of its own; or of two inputs, one of them text that looks like JSON."""
    rows, two = draw(st.integers(1, 6)), draw(st.booleans())
    numbers = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 200, (rows, 3)).tolist()
    if two:
        texts = [draw(st.sampled_from(["a", "},{", '"', "}],", "é", ""])) for _ in range(rows)]
        records: list[object] = [{"s": t, "a": n} for t, n in zip(texts, numbers, strict=True)]
        plan = plan_of(model(TensorSpec("a", "int32", (3,)), TensorSpec("s", "string", ())))
    else:
        records = [_record(draw(st.sampled_from(RECORDS)), row) for row in numbers]
        plan = plan_of(model(x(draw(st.sampled_from(["float32", "int64"])), draw(st.sampled_from([3, "n"])))))
    text = orjson.dumps(records)
    if draw(st.booleans()):
        text = text.replace(b"},", b"} ,\n")
    before, after = WRAPPINGS[draw(st.sampled_from([Form.INSTANCES, Form.BARE]))]
    return plan, before + text + after


def _record(kind: str, row: list[int]) -> object:
    if kind == "plain":
        return row
    if kind == "sparse":
        return {"keys": [0, 1, 2], "shape": [3], "values": row}
    record: object = row
    for key in reversed(kind.split(".")):
        record = {key: record}
    return record


@given(lists_of_records())
def test_a_list_of_records_read_in_pieces_is_what_it_is_in_one_go(case: tuple[CodecPlan, bytes]) -> None:
    agree(case[1], case[0])


@given(lists_of_records(), st.data())
def test_mutated_records_are_never_taken_for_what_they_are_not(case: tuple[CodecPlan, bytes], data: st.DataObject) -> None:
    plan, body = case
    at = data.draw(st.integers(0, len(body)))
    cut = data.draw(st.integers(0, 3))
    new = data.draw(st.text(alphabet='[]{},:"0123 .-+eE\n', max_size=3)).encode()
    agree(body[:at] + new + body[at + cut :], plan)


def test_usual_records_are_read_in_pieces() -> None:
    plan = plan_of(model(x("float32", 3)))
    two = plan_of(model(TensorSpec("a", "float32", (3,)), TensorSpec("s", "float32", ())))
    for kind in RECORDS[:3]:
        body = orjson.dumps({"instances": [_record(kind, [i, 2, 3]) for i in range(20)]})
        assert agree(body, plan), body
    assert agree(orjson.dumps([{"a": [i, 2, 3], "s": 7} for i in range(20)]), two)


@pytest.mark.parametrize("piece_bytes", [64 << 10], indirect=True)
@pytest.mark.parametrize("mime", ["application/json", "application/jsonlines"])
def test_large_records_cost_their_array_and_little_more(piece_bytes: int, mime: str) -> None:
    rows = np.random.default_rng(0).random((8000, 32)).astype(np.float32)
    records = [b'{"features":' + orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) + b"}" for row in rows]
    body = b"\n".join(records) if mime.endswith("lines") else b'{"instances":[' + b",".join(records) + b"]}"
    signature = model(x("float32", 32))
    tracemalloc.start()
    decoded = decode(mime, body, signature)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert same(decoded.arrays[0], rows)
    assert peak < rows.nbytes + 2_000_000, "the pieces' numbers take half a megabyte at a time"


def test_mutations_by_the_thousand_leave_no_gap() -> None:
    seed = 20240613
    print("seed", seed)
    dice = random.Random(seed)
    plan = plan_of(model(x("float32", 2, 2)))
    seeds = [b"[[[1,2],[3,4]],[[5,6],[7,8]]]", b'{"instances":[[[1.5,2e1],[-3,4]]]}', b"[[1,2],[3,4]]"]
    for _ in range(6000):
        body = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(len(body))
            body[at : at + dice.randint(0, 2)] = dice.choice([b"", b"[", b"]", b",", b" ", b"1", b"],[", b"[]", b"]1", b"1["])
        agree(bytes(body), plan)


@pytest.mark.parametrize(
    "body",
    [
        b"[[1[],2],[3,4]]", b"[[]1,2],[3,4]]", b"[[1,2]3,[4]]", b"[[1,2],3[4]]", b"[[1 2],[3,4]]", b"[[1,,2],[3,4]]",
        b"[[1,2],[3,4],]", b"[[1,2],[3,4]],", b"[[1,2],[3,4]]]", b"[[1,2][3,4]]", b"[[1,2],[3,4]", b"[,[1,2],[3,4]]",
        b"[[1,2],[3,04]]", b"[[1,2],[3,+4]]", b"[[1,2],[3,4.]]", b"[[1,2],[3,--4]]", b"[[1,2],[3,1e]]",
        b"[[1,2],[3,null]]",
        b"[[1,2],[3,true]]", b"[[1,2],[3]]", b"[[1,2],[3,4,5]]", b"[[1],[2,3,4]]", b'{"instances":[[1,2],[3,4]]',
        b'{"instances":[[1,2],[3,4]]}}', b'{"instances":[[1,2],[3,4]],"instances":[[1,2]]}', b'{"other":[[1,2],[3,4]]}',
        b'{"inputs":{"y":[[1,2],[3,4]]}}', b'{"instances":{"x":[[1,2],[3,4]]}}', b"\f[[1,2],[3,4]]", b"[[1,2],\f[3,4]]",
        b"[[1,2],[3,4]]\0", b"[]", b"[[]]", b"", b"[[1,2],[3,1e39]]",
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_the_general_path(body: bytes) -> None:
    assert decode_large(body, plan_of(model(x("float32", 2)))) is None


@pytest.mark.parametrize("dtype", ["bool", "string"])
def test_bools_and_strings_are_left_to_the_general_path(dtype: str) -> None:
    assert decode_large(b"[[1,0]]", plan_of(model(x(dtype, 2)))) is None


def test_sizes_of_free_dims_must_hold_for_equal_names_and_fixed_neighbours() -> None:
    assert decode_large(b"[[[1,2],[3,4]]]", plan_of(model(x("float32", "n", "n")))) is not None
    assert decode_large(b"[[[1,2]]]", plan_of(model(x("float32", "n", "n")))) is None
    assert decode_large(b"[[[1,2]]]", plan_of(model(x("float32", "n", 3)))) is None


@pytest.mark.parametrize("piece_bytes", [64 << 10], indirect=True)  # a million tiny pieces would take minutes
def test_a_large_body_costs_its_array_and_little_more(piece_bytes: int) -> None:
    rows = np.random.default_rng(0).random((8000, 32)).astype(np.float32)
    body = b'{"instances":' + orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY) + b"}"
    signature = model(x("float32", 32))
    tracemalloc.start()
    decoded = decode("application/json", body, signature)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert same(decoded.arrays[0], rows)
    assert peak < rows.nbytes + 2_000_000, "the pieces' numbers take half a megabyte at a time"


@pytest.mark.parametrize("piece_bytes", [64 << 10], indirect=True)
def test_a_large_body_in_error_gets_the_same_words_as_a_small_one(piece_bytes: int) -> None:
    body = b'{"instances":[' + b"[1,2,3]," * 40_000 + b"[1,2]]}"
    assert len(body) > json_large.LARGE_BYTES
    with pytest.raises(BadRequest, match="instance 40000: input 'x': expected 3 values, got 2"):
        decode("application/json", body, model(x("float32", 3)))
