"""What is fuzzed: each target takes bytes, and anything but a value or a refusal of ours is a finding.

A new codec or parser gets a line in TARGETS. What was ever found is kept as a test beside the code it was found in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from hypothesis import strategies as st

from evenkeel.serve.codec import Form
from evenkeel.serve.codec.registry import CODECS
from evenkeel.serve.errors import EvenkeelError
from evenkeel.sidecar.rollout import scrape
from evenkeel.sidecar.rollout.counters import Key
from evenkeel.sidecar.rollout.rule import Arm
from tests.security.cases import REFUSED
from tests.serve.codec.samples import model, x
from tests.serve.front.http.test_body_reader import Line
from tests.support.front_bench import FrontBench
from tests.support.models import replica, signature, spec

TURNS = 6  # of the event loop after each piece
PIECES_MAX = 4


@dataclass(frozen=True)
class Target:
    """`starts`: valid inputs, from which others are made; `joints`: bytes that mean something there."""

    check: Callable[[bytes], None]
    starts: tuple[bytes, ...]
    joints: tuple[bytes, ...]


@st.composite
def mutated(draw: st.DrawFn, target: Target) -> bytes:
    """A valid input with a few places changed, cut, doubled or filled with what means something."""
    data = bytearray(draw(st.sampled_from(target.starts)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([0, 1, 2, 8, 64])))
        kept = bytes(data[at:end])
        dose = draw(st.one_of(st.binary(max_size=4), st.sampled_from(target.joints), st.just(kept * 2), st.just(b"")))
        data[at:end] = dose
    return bytes(data)


# ---- codecs --------------------------------------------------------------------------------------------------------------

ROWS = np.array([[1, 2.5, -3e-7], [4, 5, 6]], np.float32)
TEXTS = np.array([["p", 'q"', "ü"], ["", "r", "s"]], dtype=object)
SIGNATURES = (
    model(x("float32", 3)), model(x("float32", "n")), model(x("string", 3)), model(x("uint8", 3)), model(x("bool", 3)),
    model(x("bfloat16", 3)), model(x("float64", 2, 3), rows_axis=False), model(x()),
)  # fmt: skip
BODY_JOINTS = (
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"\n", b"\r", b"\x00", b"\xff\xff\xff\xff", b"NaN", b"1e999", b"-0", b"9" * 40,
    b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY", b"'shape': (", b"\xef\xbb\xbf", b'"instances":', b'"data":', b"\\u0000",
)  # fmt: skip


def decoding(mime: str) -> Target:
    def check(body: bytes) -> None:
        for one in SIGNATURES:
            with contextlib.suppress(EvenkeelError):
                found = CODECS[mime].decode(body, one, {})
                assert found.rows >= 1 and all(len(a) == found.rows for a in found.arrays if one.rows_axis)

    starts = [b""]
    for one, rows in ((SIGNATURES[0], ROWS), (SIGNATURES[2], TEXTS), (SIGNATURES[3], ROWS.astype(np.uint8))):
        for form in Form:
            with contextlib.suppress(EvenkeelError):
                starts.append(CODECS[mime].encode([rows], one, form))
    starts += [s.replace(b'"predictions":', b'"instances":').replace(b'"outputs":', b'"inputs":') for s in starts]
    return Target(check, tuple(dict.fromkeys(starts)), BODY_JOINTS)


# ---- the data port's protocol --------------------------------------------------------------------------------------------

PORT = spec("x", "float64", 1)
HEAD = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
GOOD = (
    HEAD + b"Content-Length: 5\r\n\r\n[[1]]",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n[[\r\n3;x=y\r\n1]]\r\n0\r\nT: u\r\n\r\n",
    b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n" * 3,
    b"GET /ping HTTP/1.0\r\n\r\n",
    b"GET http://a/ping HTTP/1.1\r\nHost: a\r\n\r\n",
    HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n[[1]]",
)
HEAD_JOINTS = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b";", b"\x00", b"\r\n\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n",
    b"HTTP/1.1", b"HTTP/1.0",
    b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Upgrade: h2c\r\n", b"Host: b\r\n", b"Expect: 100-continue\r\n", b"x" * 5000,
)  # fmt: skip


@cache
def _bench() -> FrontBench:
    return FrontBench(lambda: replica(signature([PORT], [PORT]), lambda inputs: inputs))


def answer_bytes(data: bytes) -> None:
    """Whole and in pieces: answers are HTTP, and no task or callback of the loop ends in an exception of ours."""
    bench = _bench()
    for size in (len(data) or 1, max(1, len(data) // PIECES_MAX)):
        line = Line(bench)
        for at in range(0, len(data), size):
            line.send(data[at : at + size])
            for _ in range(TURNS):
                with contextlib.suppress(OSError):  # the other side may have closed
                    line._let_flow()
                bench.settle(1)
                bench.clock.advance(0.01)
        line.client.close()
        bench.settle(TURNS)
        assert not bench.errors, bench.errors.pop()
        assert not line.heard or line.heard.startswith(b"HTTP/1.1 "), line.heard[:100]


# ---- metrics that the judge reads ----------------------------------------------------------------------------------------

PAGE = b"""# TYPE evenkeel_requests counter
evenkeel_requests_total{model="digits",version="1",code="200"} 100
evenkeel_requests_total{model="digits",version="1",code="500"} 1
evenkeel_request_seconds_bucket{model="digits",version="1",le="0.016"} 50
evenkeel_request_seconds_bucket{model="digits",version="1",le="+Inf"} 101
evenkeel_restarts_total{process="engine",reason="died"} 1
evenkeel_ready 1
evenkeel_state{state="ready"} 2
"""
PAGE_JOINTS = (b"{", b"}", b'"', b"\\", b",", b"=", b"\n", b" ", b"nan", b"+Inf", b"-1", b"1e308", b'le="', b"#", b"\x00")


def read_metrics(data: bytes) -> None:
    with contextlib.suppress(EvenkeelError):
        scrape.build(scrape.from_text(data.decode("utf-8", "replace")), Key(Arm.CANDIDATE, "c"), 0.0)


TARGETS: dict[str, Target] = {
    **{mime: decoding(mime) for mime in CODECS},
    "requests": Target(answer_bytes, (*GOOD, *(data for data in REFUSED.values() if len(data) < 1000)), HEAD_JOINTS),
    "metrics": Target(read_metrics, (PAGE,), PAGE_JOINTS),
}
