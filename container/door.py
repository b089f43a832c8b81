"""The end of the data port: nobody new is let in, everybody who is in is served, then the port is closed.

How it works. A listening socket that is just closed resets whoever is in its accept queue: clients that had connected
and may have sent a request. So the socket first drops what asks for a new connection (a filter on SYN segments; the
client's kernel asks again after a second, and is then refused), while the fronts go on taking what is in the queue,
and connections whose handshake is under way. The port is closed once that has had its time and the queue is empty.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from serve.contract.listener import waiting

SETTLE_S = 0.25  # for handshakes under way: a round trip, and a front that is busy for a moment
SETTLE_S_MAX = 2.0  # for fronts to empty the queue; beyond it they are stuck, and nobody would be served anyway

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
# Classic BPF, of (code, jump if true, jump if false, operand): the data begins with the TCP header, flags are its byte 13.
_DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class Door:
    """Owner of the supervisor's copy of the listening socket. Fronts have copies of their own, and close them as they go:
    with the last one the port is closed."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._shut_at_s = 0.0

    def closed(self, now_s: float, somebody_serves: bool) -> bool:
        """To be asked again and again while leaving; begins to close with the first call."""
        if self._listener.fileno() < 0:
            return True
        if not self._shut_at_s:
            self._shut_at_s = now_s
            drop_new(self._listener)
        for_s = now_s - self._shut_at_s
        if somebody_serves and (for_s < SETTLE_S or (waiting(self._listener) and for_s < SETTLE_S_MAX)):
            return False
        self._listener.close()
        return True


def drop_new(listener: socket.socket) -> bool:
    """From now on SYN segments are dropped. False where the kernel has no such filter: then a connect that meets the very
    moment of closing may be reset."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program)))
    except OSError:
        return False
    return True
