"""One request of benchmarks/gpu.py and its answer, on a plain socket. Loads no framework: the clients import this."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any

import numpy as np

READ_BYTES = 1 << 18


def request(body: bytes) -> bytes:
    mime = "application/x-npy"
    head = f"POST /invocations HTTP/1.1\r\nHost: gpu\r\nContent-Type: {mime}\r\nAccept: {mime}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def requests(folder: Path) -> list[tuple[bytes, int]]:
    """Each with the units that it asks for: the words of its row, or one image."""
    arrays = [np.load(p) for p in sorted(folder.glob("*.x.npy"))]
    return [(request(npy(x)), x.shape[1] if x.ndim == 2 else 1) for x in arrays]


def rotated(made: list[tuple[bytes, int]], by: int) -> list[tuple[bytes, int]]:
    """So that processes do not all ask for the same at the same time."""
    return made[by % len(made) :] + made[: by % len(made)]


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def lengths(got: bytes | bytearray) -> tuple[int, int] | None:
    """Where the body begins, and how long the message is with it. None: the head is not here yet."""
    end = got.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = bytes(got[:end]).lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
    return end + 4, end + 4 + int(length)


def ask(wire: socket.socket, data: bytes) -> tuple[int, bytes]:
    """Status and body. Raises OSError when the connection ends."""
    wire.sendall(data)
    got = bytearray()
    while (found := lengths(got)) is None or len(got) < found[1]:
        part = wire.recv(READ_BYTES)
        if not part:
            raise ConnectionResetError("the server closed the connection")
        got += part
    return status_of(got), bytes(got[found[0] : found[1]])


def status_of(got: bytes | bytearray) -> int:
    return int(got[9:12])
