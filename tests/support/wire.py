"""HTTP as bytes: a client that says exactly what the test says, and keeps exactly what the server answered."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any

READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Response:
    """`raw` is the answer as it came, from the status line to the end of the body; interim answers are left out."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes
    raw: bytes
    interim: int = 0  # how many 1xx came before

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error, whose body must be our small JSON with a Content-Length."""
        assert self.headers.get("content-type") == "application/json", self.raw[:500]
        assert self.headers.get("content-length") == str(len(self.body)), self.raw[:500]
        error = self.json()["error"]
        assert sorted(error) == ["code", "message"] and error["message"], error
        return str(error["code"])

    @property
    def message(self) -> str:
        return str(self.json()["error"]["message"])


class Closed(ConnectionError):
    """The server closed the connection before a whole answer. `rest` is what had come."""

    def __init__(self, rest: bytes) -> None:
        super().__init__(f"closed after {len(rest)} bytes of an answer: {rest[:200]!r}")
        self.rest = rest


def request(
    body: bytes | None = b"", content_type: str | None = "application/json", accept: str | None = None, *,
    path: str = "/invocations", method: str = "POST", headers: tuple[str, ...] = (), version: str = "1.1", length: bool = True,
) -> bytes:  # fmt: skip
    """One request as bytes. `headers` are lines as they go out."""
    lines = [f"{method} {path} HTTP/{version}", "Host: test"]
    if content_type is not None and body is not None:
        lines.append(f"Content-Type: {content_type}")
    if accept is not None:
        lines.append(f"Accept: {accept}")
    lines += headers
    if length and body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def chunked(
    pieces: list[bytes], content_type: str = "application/json", *, headers: tuple[str, ...] = (), trailer: bytes = b""
) -> bytes:
    """The same as `request`, as a chunked body."""
    head = request(None, headers=(f"Content-Type: {content_type}", "Transfer-Encoding: chunked", *headers), length=False)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces if p) + b"0\r\n" + trailer + b"\r\n"


class Wire:
    """One connection."""

    def __init__(self, port: int, timeout_s: float = 30.0, host: str = "127.0.0.1") -> None:
        self.sock = socket.create_connection((host, port), timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = bytearray()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(self, data: bytes, *, head: bool = False) -> Response:
        self.send(data)
        return self.read(head=head)

    def post(
        self, body: bytes, content_type: str | None = "application/json", accept: str | None = None, *headers: str
    ) -> Response:
        return self.ask(request(body, content_type, accept, headers=headers))

    def get(self, path: str) -> Response:
        return self.ask(request(None, method="GET", path=path))

    def read(self, *, head: bool = False) -> Response:
        """The next final answer. `head`: it answers a HEAD, so no body follows. Raises Closed at an early end."""
        interim = 0
        while True:
            end = self._until(b"\r\n\r\n")
            start = bytes(self._rest[:end])
            status_line, *lines = start.decode("latin-1").split("\r\n")[:-2]
            version, status_text, _ = f"{status_line} ".split(" ", 2)
            assert version == "HTTP/1.1", status_line
            status = int(status_text)
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            del self._rest[:end]
            if status >= 200:
                break
            interim += 1
        if head or status in (204, 304):
            body = raw_body = b""
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            body, raw_body = self._chunks()
        else:
            assert "content-length" in headers, f"an answer without Content-Length: {start!r}"
            body = raw_body = self._take(int(headers["content-length"]))
        return Response(status, headers, body, start + raw_body, interim)

    def begin(self) -> tuple[int, dict[str, str]]:
        """Status and headers of an answer whose body is read by `chunk`."""
        start = bytes(self._take(self._until(b"\r\n\r\n"))).decode("latin-1")
        status_line, *lines = start.split("\r\n")[:-2]
        pairs = [line.partition(":") for line in lines]
        return int(status_line.split(" ")[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}

    def chunk(self) -> bytes:
        """The next chunk; empty at the end of the answer. Raises Closed when the answer is cut."""
        size = int(self._take(self._until(b"\r\n")).split(b";")[0], 16)
        return self._take(size + 2)[:size]

    def _chunks(self) -> tuple[bytes, bytes]:
        parts: list[bytes] = []
        raw = bytearray()
        while True:
            line = self._take(self._until(b"\r\n"))
            size = int(line.split(b";")[0], 16)
            data = self._take(size + 2)
            raw += line + data
            if size == 0:
                return b"".join(parts), bytes(raw)
            parts.append(data[:size])

    def _until(self, mark: bytes) -> int:
        start = 0
        while True:
            at = self._rest.find(mark, max(0, start - len(mark)))
            if at >= 0:
                return at + len(mark)
            start = len(self._rest)
            self._fill()

    def _take(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._fill()
        taken = bytes(memoryview(self._rest)[:size])
        del self._rest[:size]
        return taken

    def _fill(self) -> None:
        try:
            data = self.sock.recv(READ_BYTES)
        except ConnectionResetError as e:
            raise Closed(bytes(self._rest)) from e
        if not data:
            raise Closed(bytes(self._rest))
        self._rest += data

    def closed_by_server(self, within_s: float = 30.0) -> bool:
        """Whether the server ends the connection with nothing more to say."""
        self.sock.settimeout(within_s)
        try:
            return not self._rest and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
