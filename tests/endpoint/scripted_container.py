"""A container that does what a test says, byte by byte, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

Talk = Callable[[bytes, bytes, asyncio.StreamWriter], Awaitable[None]]


class ScriptedContainer:
    """`talk` gets the head and body of each request, and writes what it likes."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.port = 0

    async def __aenter__(self) -> ScriptedContainer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
                body = await reader.readexactly(length)
                self.heads.append(head)
                self.bodies.append(body)
                await self._talk(head, body, writer)
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()


def saying(status: bytes, body: bytes, *headers: bytes) -> Talk:
    async def talk(head: bytes, asked: bytes, writer: asyncio.StreamWriter) -> None:
        lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers, b"", b""]
        writer.write(b"\r\n".join(lines) + body)

    return talk
