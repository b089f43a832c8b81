"""One end of the socket between a front and an engine: send and receive runs of records, and descriptors of files.

Both ends are non-blocking. What cannot be sent at once waits in `unsent`, which is bounded by the number of slots,
since every record but HELLO and CANCEL travels with one. The peer is a process of ours, but it may die in the middle of
a record: then `receive` says so once and the broken record is dropped.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque

from serve.transport.framing import Framing

RECEIVE_BYTES = 64 * 1024  # below the size from which malloc maps and unmaps memory at each call
FDS_MAX = 16  # file descriptors taken from one message


class ChannelClosed(Exception):
    """The other process has closed its end, or died."""


class Channel:
    """Owns the socket, the framing and the descriptors that arrived and were not yet asked for."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.unsent = bytearray()
        self.fds: deque[int] = deque()
        self._framing = Framing()

    def receive(self) -> bytes:
        """Whole records that have arrived, maybe none. Raises ChannelClosed at the end of the stream."""
        try:
            data, ancillary, _, _ = self.sock.recvmsg(RECEIVE_BYTES, socket.CMSG_SPACE(4 * FDS_MAX))
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as e:
            raise ChannelClosed(str(e)) from e
        if ancillary:
            self._keep_fds(ancillary)
        if not data:
            raise ChannelClosed("end of stream")
        return self._framing.feed(data)

    def _keep_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
                self.fds.extend(numbers)

    def send(self, records: bytes | bytearray, fds: tuple[int, ...] = ()) -> bool:
        """Send now what the socket takes, keep the rest. Returns whether everything is out.

        Descriptors go out with the first byte of `records`; if older bytes wait, they are pushed out first, waiting
        for the peer at most as long as the socket's own buffer takes to drain.
        """
        if fds:
            self._flush_blocking()
            try:
                sent = self.sock.sendmsg([records], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
            except (BlockingIOError, InterruptedError):
                self.sock.settimeout(5.0)
                sent = self.sock.sendmsg([records], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
                self.sock.setblocking(False)
            self.unsent += records[sent:]
            return not self.unsent
        if self.unsent:
            self.unsent += records
            return self.flush()
        try:
            sent = self.sock.send(records)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return True  # the peer is gone; `receive` will say so, and its slots come back then
        if sent < len(records):
            self.unsent += records[sent:]
            return False
        return True

    def flush(self) -> bool:
        """Try again to send what waits. Returns whether everything is out."""
        while self.unsent:
            try:
                sent = self.sock.send(self.unsent)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                self.unsent.clear()
                return True
            del self.unsent[:sent]
        return True

    def _flush_blocking(self) -> None:
        if not self.unsent:
            return
        self.sock.settimeout(5.0)
        try:
            self.sock.sendall(self.unsent)
        except OSError:
            pass  # the peer is gone or frozen; the records would never be read
        self.unsent.clear()
        self.sock.setblocking(False)

    def close(self) -> None:
        self.sock.close()
        while self.fds:
            os.close(self.fds.popleft())
