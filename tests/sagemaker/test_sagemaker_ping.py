"""The health check, as the platform asks it."""

from __future__ import annotations

import pytest

from tests.sagemaker.box import Box, wire
from tests.support.wire import request


@pytest.mark.contract("12.3")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_ping_is_200_with_an_empty_body(digits_box: Box, method: str) -> None:
    with wire(digits_box) as w:
        reply = w.ask(request(None if method == "GET" else b"", None, method=method, path="/ping"))
    assert (reply.status, reply.body) == (200, b"")
