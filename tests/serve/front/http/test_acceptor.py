"""How a front takes new connections: many in one turn of its loop, its share where several listen, and on after trouble."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterator

import pytest
import uvloop

from evenkeel.serve.front.http import acceptor
from evenkeel.serve.front.http.acceptor import ACCEPTS_MAX, Acceptor, share

TURN_S = 0.02


class Seen(asyncio.Protocol):
    """Counts connections, and answers what they say."""

    count = 0
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        Seen.count += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    Seen.count = 0
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as sock:
        yield sock


def clients(listener: socket.socket, number: int) -> list[socket.socket]:
    return [socket.create_connection(listener.getsockname()[:2], 5.0) for _ in range(number)]


class Failing:
    """A listening socket whose accept fails so many times."""

    def __init__(self, listener: socket.socket, error: int, times: int) -> None:
        self._listener, self._error, self.left = listener, error, times
        self.tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        if self.left:
            self.left -= 1
            raise OSError(self._error, os.strerror(self._error))
        return self._listener.accept()

    def fileno(self) -> int:
        return self._listener.fileno()

    def setblocking(self, on: bool) -> None:
        self._listener.setblocking(on)

    def getsockopt(self, *args: int) -> bytes:
        return self._listener.getsockopt(*args)


async def seen(number: int, busy_s: float = 0.0) -> int:
    """Turns of the loop until so many connections are made."""
    turns, end_s = 0, time.monotonic() + 20.0
    while Seen.count < number:
        assert time.monotonic() < end_s, f"only {Seen.count} of {number} connections were made"
        time.sleep(busy_s)
        await asyncio.sleep(0)
        turns += 1
    return turns


def test_a_burst_is_taken_within_a_few_turns_of_a_busy_loop(listener: socket.socket) -> None:
    async def story() -> int:
        server = Acceptor(listener, 1, Seen)
        burst = clients(listener, 200)
        turns = await seen(200, TURN_S)
        server.close()
        for client in burst:
            client.close()
        return turns

    assert uvloop.run(story()) <= 10


def test_each_of_several_fronts_takes_its_share_of_what_waits() -> None:
    assert share(queued=1, fronts=4) == 1
    assert share(queued=10, fronts=4) == 3
    assert share(queued=1000, fronts=2) == ACCEPTS_MAX
    assert share(queued=0, fronts=2) == ACCEPTS_MAX, "where the kernel does not tell, it is tried"


def test_where_turns_are_long_more_are_taken_in_each() -> None:
    assert share(queued=2000, fronts=1, turn_s=0.001) == ACCEPTS_MAX
    assert share(queued=2000, fronts=1, turn_s=0.3) == 300
    assert share(queued=100, fronts=1, turn_s=0.3) == 100


def test_a_connection_is_served_from_its_first_byte_to_its_end(listener: socket.socket) -> None:
    async def story() -> bytes:
        server = Acceptor(listener, 1, Seen)
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        writer.write(b"hello")
        answer = await asyncio.wait_for(reader.read(), 5.0)
        writer.close()
        server.close()
        return answer

    assert uvloop.run(story()) == b"hello"


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_room_for_a_connection_it_pauses_says_so_once_and_goes_on(
    listener: socket.socket, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(acceptor, "log", lambda event, *_, **__: told.append(event))
    monkeypatch.setattr(acceptor, "PAUSE_S", 0.01)
    failing = Failing(listener, error, times=5)

    async def story() -> None:
        server = Acceptor(failing, 1, Seen)  # type: ignore[arg-type]
        waiting = clients(listener, 3)
        await seen(3, 0.001)
        server.close()
        for client in waiting:
            client.close()

    uvloop.run(story())
    assert told == ["accept_paused"]
    assert failing.tries <= 5 + 3 + 1, "a loop that tries without a pause serves nobody else"


def test_what_befell_one_connection_in_the_queue_does_not_concern_the_next(listener: socket.socket) -> None:
    async def story() -> None:
        server = Acceptor(Failing(listener, errno.ECONNABORTED, times=1), 1, Seen)  # type: ignore[arg-type]
        waiting = clients(listener, 2)
        await seen(2)
        server.close()
        for client in waiting:
            client.close()

    uvloop.run(story())


@pytest.mark.parametrize("paused", [False, True])
def test_once_closed_it_takes_nobody_even_out_of_a_pause(listener: socket.socket, paused: bool) -> None:
    async def story() -> None:
        failing = Failing(listener, errno.EMFILE, times=1 if paused else 0)
        server = Acceptor(failing, 1, Seen)  # type: ignore[arg-type]
        if paused:
            server._accept_waiting()
        server.close()
        with socket.create_connection(listener.getsockname()[:2], 5.0):
            await asyncio.sleep(2 * acceptor.PAUSE_S)
        await server.wait_closed()

    uvloop.run(story())
    assert Seen.count == 0
