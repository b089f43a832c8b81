"""The requests of a workload in one file, for the clients that send them. Pure.

A record is a line with two lengths, the header lines that this body needs, and the body:

    28 17\\nContent-Type: application/json\\r\\n...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.table.dialects import Request


@dataclass(frozen=True, slots=True)
class RequestRecord:
    head: bytes
    body: bytes


def written(requests: Sequence[Request]) -> bytes:
    return b"".join(_record(r) for r in requests)


def _record(request: Request) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items()).encode()
    return b"%d %d\n%b%b" % (len(head), len(request.body), head, request.body)


def read(data: bytes) -> list[RequestRecord]:
    found, at = [], 0
    while at < len(data):
        end = data.index(b"\n", at)
        head, body = (int(word) for word in data[at:end].split())
        start = end + 1
        found.append(RequestRecord(data[start : start + head], data[start + head : start + head + body]))
        at = start + head + body
    return found


def own_ids(seed: int, count: int) -> bytes:
    """The header lines that no other request has."""
    trace = b"X-Amzn-Trace-Id: Root=1-%08x-%012x%012x\r\n" % (1_700_000_000 + seed, seed, count)
    return trace + b"X-Amzn-SageMaker-Inference-Id: %08x-0000-4000-8000-%012x\r\n" % (seed, count)
