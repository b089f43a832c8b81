"""One end of the socket between a front and an engine: send and receive runs of records, and descriptors of files.

Both ends are non-blocking. What cannot be sent at once waits here in order, descriptors included; that queue is
bounded by the number of slots, since every record but HELLO and CANCEL travels with one, and of a slot only so many PARTs
are under way at once. The peer is a process of ours, but it may die in the middle of a record: then `receive` says so once
and the broken record is dropped.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque

from serve.transport.framing import Framing

RECEIVE_BYTES = 64 * 1024  # below the size from which malloc maps and unmaps memory at each call
NO_FD = -1  # a descriptor that came and could not be taken: this process has as many as it may have
FDS_MAX = 16  # file descriptors taken from one message
_FDS_SPACE = socket.CMSG_SPACE(4 * FDS_MAX)
_CUT = int(socket.MSG_CTRUNC)  # plain, because `&` with a member of an enum takes 2 us, every time something is received


class ChannelClosed(Exception):
    """The other process has closed its end, or died."""


class Channel:
    """Owns the socket, the framing and the descriptors that arrived and were not yet asked for."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self.fds: deque[int] = deque()
        self.takes_fds = True  # False: nothing more will come with a descriptor, and receiving costs 2 us less
        self._framing = Framing()

    def receive(self) -> bytes:
        """Whole records that have arrived, maybe none. Raises ChannelClosed at the end of the stream."""
        try:
            data = self._receive_with_fds() if self.takes_fds else self.sock.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as e:
            raise ChannelClosed(str(e)) from e
        if not data:
            raise ChannelClosed("end of stream")
        return self._framing.feed(data)

    def _receive_with_fds(self) -> bytes:
        data, ancillary, flags, _ = self.sock.recvmsg(RECEIVE_BYTES, _FDS_SPACE)
        if ancillary:
            self._keep_fds(ancillary)
        if flags & _CUT:
            self.fds.append(NO_FD)  # in its place, so that no later descriptor is taken for it
        return data

    def _keep_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
                self.fds.extend(numbers)

    def send(self, records: bytes | bytearray, fds: tuple[int, ...] = ()) -> bool:
        """Send now what the socket takes, keep the rest for `flush`. Returns whether everything is out.

        Descriptors go out with the first byte of `records`; the caller may close its own right away.
        """
        if self._unsent:
            self._keep(records, fds)
            return self.flush()
        sent = self._try(records, fds)
        if sent < len(records):
            self._keep(bytes(records[sent:]), fds if sent == 0 else ())
        return not self._unsent

    def flush(self) -> bool:
        """Try again to send what waits. Returns whether everything is out."""
        while self._unsent:
            records, fds = self._unsent[0]
            sent = self._try(records, fds)
            if sent == 0:
                return False
            for fd in fds:
                os.close(fd)
            if sent < len(records):
                self._unsent[0] = (records[sent:], ())
            else:
                self._unsent.popleft()
        return True

    def _try(self, records: bytes | bytearray, fds: tuple[int, ...]) -> int:
        """Bytes sent. A peer that is gone takes everything: `receive` will say so, and its slots come back then."""
        try:
            if fds:
                return self.sock.sendmsg([records], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
            return self.sock.send(records)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return len(records)

    def _keep(self, records: bytes | bytearray, fds: tuple[int, ...]) -> None:
        self._unsent.append((bytes(records), tuple(os.dup(fd) for fd in fds)))

    @property
    def unsent(self) -> int:
        """Bytes that wait for the peer to read."""
        return sum(len(records) for records, _ in self._unsent)

    def close(self) -> None:
        self.sock.close()
        for _, fds in self._unsent:
            for fd in fds:
                os.close(fd)
        self._unsent.clear()
        while self.fds:
            if (fd := self.fds.popleft()) != NO_FD:
                os.close(fd)
