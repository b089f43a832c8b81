"""What the kernel tells of a listening TCP socket."""

from __future__ import annotations

import socket
import struct

BACKLOG = 2048  # SageMaker gives a connect 250 ms; what the kernel holds for us is never refused
_ACCEPT_QUEUE_AT = 24  # of tcpi_unacked in struct tcp_info; for a listening socket it is the length of its accept queue


def waiting(listener: socket.socket) -> int:
    """Connections that nobody has accepted yet; 0 where the kernel does not tell."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACCEPT_QUEUE_AT + 4)
    except OSError:
        return 0
    return int(struct.unpack_from("I", info, _ACCEPT_QUEUE_AT)[0]) if len(info) >= _ACCEPT_QUEUE_AT + 4 else 0
