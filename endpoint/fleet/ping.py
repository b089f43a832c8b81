"""One health check of an instance, as the platform makes it: GET /ping, 2 s, 200 is healthy and everything else is not."""

from __future__ import annotations

import asyncio
import contextlib

TIMEOUT_S = 2.0  # D: HOST
HEAD = (
    b"GET /ping HTTP/1.1\r\nHost: model.aws.local:8080\r\nUser-Agent: AHC/2.0\r\nConnection: close\r\n\r\n"  # O: seen on the wire
)
STATUS_BYTES = 12  # of `HTTP/1.1 200`


async def ping(address: str, port: int) -> str:
    """Nothing where it is healthy, else what is wrong."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status = await _status(address, port)
    except TimeoutError:
        return f"no answer to /ping within {TIMEOUT_S:g} s"
    except (OSError, EOFError) as e:
        return f"/ping could not be asked: {e or type(e).__name__}"
    return "" if status == "200" else f"/ping said {status}"


async def _status(address: str, port: int) -> str:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(HEAD)
        start = await reader.readexactly(STATUS_BYTES)
        return start[9:].decode("ascii", "replace")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
