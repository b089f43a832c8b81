"""The end of the data port: nobody new is let in, everybody who is in is served, then the port is closed.

How it works. A listening socket that is just closed resets anyone who is in its accept queue: clients that had connected
and may have sent a request. So new connections are kept out first, while the fronts go on taking what is in the queue, and
connections whose handshake is under way. The port is closed once that has had its time and the queue is empty.

There are two ways to keep them out, see WAYS. Bound to an interface that does not exist, the socket is not found for a new
connection, and the client is refused at once; handshakes and connections that exist go on. Since Linux 5.7 that needs no
privilege where the socket was bound to no interface before. Or a filter drops what asks for a connection: the client asks again
after a second, and is then refused. Many kernels allow that to nobody without privileges.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable, Sequence

from evenkeel.serve.contract.listen_queue import waiting
from evenkeel.serve.contract.logline import log

SETTLE_S = 0.25  # for handshakes under way: a round trip, and a front that is busy for a moment
SETTLE_S_MAX = 2.0  # for fronts to empty the queue; beyond it they are stuck, and nobody would be served anyway

_SO_ATTACH_FILTER, _SO_BINDTOIFINDEX = 26, 62  # asm-generic/socket.h
_NO_INTERFACE = 0x7FFFFFFF  # interfaces are numbered from 1
# Classic BPF, of (code, jump if true, jump if false, operand): the data begins with the TCP header, flags are its byte 13.
_DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class ListenerDrain:
    """Owner of the supervisor's copy of the listening socket. Fronts have copies of their own, and close them as they go:
    with the last one the port is closed. What is set on one copy holds for all."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._shut_at_s = 0.0

    def closed(self, now_s: float, somebody_serves: bool) -> bool:
        """To be asked again and again while leaving; begins to close with the first call."""
        if self._listener.fileno() < 0:
            return True
        if not self._shut_at_s:
            self._shut_at_s = now_s
            shut(self._listener)
        for_s = now_s - self._shut_at_s
        if somebody_serves and (for_s < SETTLE_S or (waiting(self._listener) and for_s < SETTLE_S_MAX)):
            return False
        self._listener.close()
        return True


def refuse_new(listener: socket.socket) -> None:
    listener.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, struct.pack("i", _NO_INTERFACE))


def drop_new(listener: socket.socket) -> None:
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program)))


WAYS: tuple[Callable[[socket.socket], None], ...] = (refuse_new, drop_new)


def shut(listener: socket.socket, ways: Sequence[Callable[[socket.socket], None]] = WAYS) -> bool:
    """Nobody new comes in from now on. False, and said: there is no way here, and a connection that meets the very moment of
    closing may be reset."""
    why = []
    for way in ways:
        try:
            way(listener)
            return True
        except OSError as e:
            why.append(f"{way.__name__}: {e.strerror}")
    log(
        "no_door",
        f"new connections cannot be kept out while the port closes ({', '.join(why)}): some may be reset",
        level="warning",
    )
    return False
