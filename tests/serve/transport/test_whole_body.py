"""A body and what is said of it come out of a slot as they went in."""

from __future__ import annotations

import pytest

from evenkeel.serve.transport.whole_body import SAID_BYTES_REMEMBERED, BodyFacts, read_start, start_of_body

LONG = "x" * (2 * SAID_BYTES_REMEMBERED)


@pytest.mark.parametrize("offset", [0, 64])
@pytest.mark.parametrize("body", [b"", b"\x00\xff{}"])
@pytest.mark.parametrize(
    ("kind", "accept", "headers", "id"),
    [
        ("application/json", "", None, "r1"),
        ("application/json", "*/*", None, ""),
        (
            "text/csv",
            "text/csv",
            {"x-amzn-sagemaker-inference-id": "1", "x-amzn-sagemaker-custom-attributes": '"\\\n\xe9'},
            "\xe9-1",
        ),
        (LONG, LONG, None, LONG),
        (LONG, "", {"a": LONG}, "r"),
    ],
)
def test_it_comes_out_as_it_went_in(
    kind: str, accept: str, headers: dict[str, str] | None, id: str, body: bytes, offset: int
) -> None:
    data = bytes(offset) + start_of_body(kind, accept, headers, id) + body
    for _ in range(2):  # remembered, too
        facts, read_id, body_at = read_start(memoryview(data), offset)
        assert (facts, read_id, data[body_at:]) == (BodyFacts(kind, accept, headers or {}), id, body)
