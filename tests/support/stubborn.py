"""A channel's socket that fails on purpose, as the kernel's may."""

from __future__ import annotations

import os
import socket
from typing import Any

from evenkeel.serve.transport.channel import Channel


class Stubborn:
    """Its next calls of one kind (`send` or `recv`) fail with this error; all others are the real socket's."""

    def __init__(self, real: socket.socket, kind: str, number: int, times: int) -> None:
        self._real, self._kind, self._number, self._left = real, kind, number, times

    def __getattr__(self, name: str) -> Any:
        return self._fails if name.startswith(self._kind) and self._left else getattr(self._real, name)

    def _fails(self, *args: Any) -> Any:
        self._left -= 1
        raise OSError(self._number, os.strerror(self._number))


def sends_fail(channel: Channel, number: int, times: int = 1) -> None:
    channel.sock = Stubborn(channel.sock, "send", number, times)  # type: ignore[assignment]


def receives_fail(channel: Channel, number: int) -> None:
    channel.sock = Stubborn(channel.sock, "recv", number, 1)  # type: ignore[assignment]
