"""Takes new connections from a listening socket: in each turn of the event loop what waits, up to a bound.

uvloop's own server takes one a turn. A turn serves every busy connection once, so it lasts a tenth of a second when bodies are
large, and the last of 150 new clients waited 10 s for an answer to its first /ping.

How it works. The length of the accept queue is asked first: a try that finds nothing costs the kernel more than the question. Of
several fronts each takes its share, so that a burst does not end up in the one that was quickest.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn

from evenkeel.serve.contract.listen_queue import waiting
from evenkeel.serve.contract.logline import log

ACCEPTS_MAX = 64  # a turn, which they make some 6 ms longer; where turns are long, as many as add a tenth to them
ACCEPT_S, TURN_SHARE = 1e-4, 0.1
PAUSE_S = 0.1  # until the next try, when the system has no file or memory for another connection
TELL_EVERY_S = 60.0
# Errors of one connection, not of ours: accept(2) passes on what befell it in the queue.
_ITS_OWN = frozenset({
    errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH,
    errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EPERM,
})  # fmt: skip


def share(queued: int, fronts: int, turn_s: float = 0.0) -> int:
    """How many to take in this turn, of so many that wait, when the turn before took so long. Pure.

    0 queued: the kernel did not tell, or another front was quicker.
    """
    most = max(ACCEPTS_MAX, int(turn_s * TURN_SHARE / ACCEPT_S))
    return min(most, -(-queued // fronts)) if queued else most


class Acceptor:
    """Owner of one listening socket's place in the event loop. Has what uvicorn asks of asyncio's servers: close, wait_closed."""

    def __init__(self, listener: socket.socket, fronts: int, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener, self._fronts, self._make_protocol = listener, fronts, make_protocol
        self._left_s = 0.0  # when somebody was left in the queue; 0: in the turn before nobody was
        self._pause: asyncio.TimerHandle | None = None
        self._refusals, self._told_s = 0, -TELL_EVERY_S  # since it was last told of, and when that was
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for: connections are uvicorn's."""

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._accept_waiting)

    def _accept_waiting(self) -> None:
        queued, now_s = waiting(self._listener), self._loop.time()
        number = share(queued, self._fronts, now_s - self._left_s if self._left_s else 0.0)
        self._left_s = now_s if queued > number else 0.0
        for _ in range(number):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno in _ITS_OWN:
                    continue
                self._wait_for_room(e)
                return
            self._open(connection)

    def _open(self, connection: socket.socket) -> None:
        """As a task would, but at once: a task begins a turn later."""
        opening = self._loop.connect_accepted_socket(self._make_protocol, connection)
        try:
            opened: asyncio.Future[None] = opening.send(None)
        except OSError:  # it has gone already
            connection.close()
            return
        opened.add_done_callback(_Finish(opening))

    def _wait_for_room(self, error: OSError) -> None:
        """Who waits in the queue goes on waiting there; to try without a pause would take the time of those who are served."""
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(PAUSE_S, self._listen)
        self._refusals += 1
        now_s = time.monotonic()
        if now_s - self._told_s >= TELL_EVERY_S:
            why = os.strerror(error.errno or 0)
            log("accept_paused", f"no new connection can be taken: {why}; those that wait are taken when it has passed",
                level="warning", times=self._refusals)  # fmt: skip
            self._refusals, self._told_s = 0, now_s


class _Finish:
    """Runs the rest of uvloop's coroutine, once its connection is made."""

    __slots__ = ("_opening",)

    def __init__(self, opening: Coroutine[Any, None, Any]) -> None:
        self._opening = opening

    def __call__(self, opened: asyncio.Future[None]) -> None:
        try:
            self._opening.send(None)
        except StopIteration:
            pass


class Server(uvicorn.Server):
    """uvicorn's, but for how it takes new connections."""

    def __init__(self, config: uvicorn.Config, fronts: int) -> None:
        """`config` is loaded. `fronts`: how many share the listening sockets."""
        super().__init__(config)
        self._fronts = fronts
        protocol: Callable[..., asyncio.Protocol] = config.http_protocol_class
        self.connect = functools.partial(protocol, config=config, server_state=self.server_state, app_state={})

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.servers = [Acceptor(listener, self._fronts, self.connect) for listener in sockets or ()]  # type: ignore[misc]
        self.started = True
