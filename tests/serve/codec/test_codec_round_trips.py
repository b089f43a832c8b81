"""What is encoded is decoded again, for any signature; and no bytes whatever make a decoder fail in a foreign way."""

from __future__ import annotations

import random

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.codec import Form, decoder_for
from evenkeel.serve.codec.codec import Array
from evenkeel.serve.codec.registry import CODECS
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.errors import BadRequest, BodyTooLarge, EvenkeelError, UnsupportedMedia
from tests.serve.codec.samples import NUMERIC, model, requests, same, x

ALL = [*NUMERIC, "bool", "string"]
LINES = "application/jsonlines"


def trip(mime: str, signature: Signature, arrays: list[Array], form: Form = Form.INSTANCES) -> None:
    body = CODECS[mime].encode(arrays, signature, form)
    if mime == "application/json" and form != Form.BARE:  # a reply says predictions and outputs where a request does not
        body = body.replace(b'"predictions":', b'"instances":', 1).replace(b'"outputs":', b'"inputs":', 1)
    for kind in (bytes, bytearray, memoryview):
        decoded = CODECS[mime].decode(kind(body), signature, {})
        assert decoded.rows == len(arrays[0])
        for sent, got in zip(arrays, decoded.arrays, strict=True):
            assert same(sent, got) and got.flags.c_contiguous


@given(requests(ALL), st.sampled_from(list(Form)))
def test_json_round_trips(case: tuple[Signature, list[Array]], form: Form) -> None:
    trip("application/json", *case, form)


@given(requests(ALL))
def test_json_lines_round_trip(case: tuple[Signature, list[Array]]) -> None:
    trip(LINES, *case)


@given(requests(ALL, free=False))
def test_csv_round_trips(case: tuple[Signature, list[Array]]) -> None:
    trip("text/csv", *case)


@given(requests(ALL))
def test_npz_round_trips(case: tuple[Signature, list[Array]]) -> None:
    trip("application/x-npz", *case)


@given(requests(ALL, inputs_max=1))
def test_npy_round_trips(case: tuple[Signature, list[Array]]) -> None:
    trip("application/x-npy", *case)
    trip("tensor/pt", *case)


@given(requests([*NUMERIC, "bool"], inputs_max=1, free=False))
def test_raw_bytes_round_trip(case: tuple[Signature, list[Array]]) -> None:
    trip("application/octet-stream", *case)


def test_float16_survives_text_in_every_bit_pattern() -> None:
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    halves = every.view(np.float16)
    halves = halves[np.isfinite(halves)]
    trip("application/json", model(x("float16")), [halves])
    brains = every[(every & 0x7F80) != 0x7F80]
    for mime in ("application/json", "application/x-npy"):
        trip(mime, model(x("bfloat16")), [brains])


# --- fuzz -------------------------------------------------------------------------------------------------------------

ROWS = np.array([[1, 2.5, -3e-7], [4, 5, 6]], np.float32)
TWO = model(TensorSpec("a", "float32", (3,)), TensorSpec("b", "string", ()))
SIGNATURES = [
    model(x("float32", 3)), model(x("float32", "n")), model(x("string", 3)), model(x("uint8", 3)), model(x("bool", 3)),
    model(x("bfloat16", 3)), model(x("float64", 2, 3), rows_axis=False), model(x()), TWO,
]  # fmt: skip


def bodies(mime: str) -> list[bytes]:
    """Valid bodies of a format, to start from."""
    strings = np.array(["p", 'q"'], dtype=object)
    found = []
    for signature, arrays in (
        (SIGNATURES[0], [ROWS]),
        (SIGNATURES[3], [ROWS.astype(np.uint8)]),
        (TWO, [ROWS, strings]),
    ):
        for form in Form:
            try:
                found.append(CODECS[mime].encode(arrays, signature, form))
            except EvenkeelError:
                pass
    if mime == "application/json":
        found += [body.replace(b'"predictions":', b'"instances":').replace(b'"outputs":', b'"inputs":') for body in found]
        found.append(b'{"instances":[{"data":{"features":{"keys":[0,2],"shape":[3],"values":[1,5]}}},{"features":[1,2,3]}]}')
    return found


@pytest.mark.parametrize("mime", [*CODECS, ""])
def test_no_mutated_body_makes_a_decoder_fail_in_a_foreign_way(mime: str) -> None:
    seed = 7
    print("seed", seed)
    dice = random.Random(seed)
    codec, starts = decoder_for(mime), bodies(mime or "application/json")
    for _ in range(1500):
        body = bytearray(dice.choice(starts))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(body) + 1)
            dose = dice.choice(
                [b"", dice.randbytes(1), dice.randbytes(4), b"0", b"9", b",", b"[", b"}", b'"', b"\n", b"\xff\xff"]
            )
            body[at : at + dice.choice([0, 1, 1, 1, 4])] = dose
        try:
            codec.decode(bytes(body), dice.choice(SIGNATURES), {})
        except (BadRequest, BodyTooLarge, UnsupportedMedia):
            pass


@pytest.mark.parametrize("mime", list(CODECS))
def test_every_torn_body_is_refused_or_reads_as_fewer_rows(mime: str) -> None:
    for body in bodies(mime):
        for length in range(len(body)):
            for signature in (SIGNATURES[0], TWO):
                try:
                    decoded = decoder_for(mime).decode(body[:length], signature, {})
                except (BadRequest, BodyTooLarge, UnsupportedMedia):
                    continue
                assert mime not in ("application/json", "application/x-npy", "application/x-npz", "tensor/pt")
                assert decoded.rows <= 2


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "instances",
                    "inputs",
                    "x",
                    "a",
                    "b",
                    "features",
                    "data",
                    "values",
                    "keys",
                    "shape",
                    "configuration",
                    "?",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES, st.sampled_from(SIGNATURES))
def test_no_json_value_makes_a_decoder_fail_in_a_foreign_way(value: object, signature: Signature) -> None:
    body = orjson.dumps(value)
    for mime in ("application/json", LINES):
        try:
            decoded = CODECS[mime].decode(body, signature, {})
        except EvenkeelError as e:
            assert isinstance(e, BadRequest)
            continue
        for spec, array in zip(signature.inputs, decoded.arrays, strict=True):
            assert array.ndim == len(spec.dims) + signature.rows_axis


@pytest.mark.parametrize("mime", ["application/json", "application/x-npy", "tensor/pt", "text/csv"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_many_rows_written_at_once_are_the_bytes_of_each_alone(mime: str, dtype: str) -> None:
    signature = Signature((TensorSpec("x", "float32", (2,)),), (TensorSpec("y", dtype, (3,)),))
    rows = np.array([[0, 1, 2], [3, 0, 250], [1, 1, 0]]).astype(dtype)
    codec = decoder_for(mime)
    alone = [codec.encode([row[None]], signature, Form.INSTANCES, finite=True) for row in rows]
    assert codec.encode_rows(rows) == alone
