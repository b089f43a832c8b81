"""One end of the socket between a front and an engine: send and receive runs of records, and descriptors of files.

Both ends are non-blocking. What cannot be sent at once waits here in order, descriptors included, and the owner of the
channel is told for what it waits: no sender has to look whether everything went out. That queue is bounded by the number of
slots, since every record but HELLO and CANCEL travels with one, and of a slot only so many PARTs are under way at once. The
peer is a process of ours, but it may die in the middle of a record: then `receive` says so once and the broken record is
dropped.

An error of a send means one of three things, see MEANING: later, when the peer has read; later, when the machine has what it
lacks just now; or never, because the peer is gone. Any other is a bug of ours.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from enum import Enum

from evenkeel.serve.transport.descriptor import RECORD_BYTES
from evenkeel.serve.transport.framing import Framing

RECEIVE_BYTES = 64 * 1024  # below the size from which malloc maps and unmaps memory at each call
NO_FD = -1  # a descriptor that came and could not be taken: this process has as many as it may have
FDS_MAX = 16  # file descriptors taken from one message
RETRY_S = 0.02  # after the machine was short of something: nobody tells when it has it again
_FDS_SPACE = socket.CMSG_SPACE(4 * FDS_MAX)
_CUT = int(socket.MSG_CTRUNC)  # plain, because `&` with a member of an enum takes 2 us, every time something is received


class SendWaits(Enum):
    """For what the records in a channel wait."""

    NOTHING = "nothing"  # all are out; or the peer is gone: `receive` will say so, and its slots come back then
    PEER = "peer"  # to read: the socket turns writable
    MACHINE = "machine"  # for memory or descriptors: try again after RETRY_S. The socket may well be writable meanwhile


# What an error of the socket says of the records, none of which has gone out. See unix(7), send(2) and recv(2).
MEANING: dict[int, SendWaits] = {
    errno.EAGAIN: SendWaits.PEER,
    errno.EINTR: SendWaits.MACHINE,
    errno.ENOBUFS: SendWaits.MACHINE,
    errno.ENOMEM: SendWaits.MACHINE,
    errno.EMFILE: SendWaits.MACHINE,
    errno.ENFILE: SendWaits.MACHINE,
    errno.ETOOMANYREFS: SendWaits.MACHINE,  # too many descriptors of this user are under way in sockets
    errno.EPIPE: SendWaits.NOTHING,
    errno.ECONNRESET: SendWaits.NOTHING,
    errno.ENOTCONN: SendWaits.NOTHING,
    errno.EBADF: SendWaits.NOTHING,
}


def meaning(error: OSError) -> SendWaits:
    waits = MEANING.get(error.errno or 0)
    assert waits is not None, f"the socket says what no table of ours knows: {error!r}"
    return waits


OnWaits = Callable[["Channel", SendWaits], None]


class ChannelClosed(Exception):
    """The other process has closed its end, or died."""


class Channel:
    """Owns the socket, the framing and the descriptors that arrived and were not yet asked for.

    `on_waits` is called whenever it changes for what the records here wait; its owner calls `flush` in time.
    """

    def __init__(self, sock: socket.socket, on_waits: OnWaits) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.waits = SendWaits.NOTHING
        self.fds: deque[int] = deque()
        self.takes_fds = True  # False: nothing more will come with a descriptor, and receiving costs 2 us less
        self._on_waits = on_waits
        self._unsent: deque[tuple[bytes, int, bool]] = deque()  # records, the descriptor with them, whether it is ours
        self._framing = Framing()

    # ---- receive ---------------------------------------------------------------------------------------------------

    def receive(self) -> bytes:
        """Whole records that have arrived, maybe none. Raises ChannelClosed at the end of the stream."""
        try:
            data = self._receive_with_fds() if self.takes_fds else self.sock.recv(RECEIVE_BYTES)
        except OSError as e:
            if meaning(e) is SendWaits.NOTHING:
                raise ChannelClosed(str(e)) from e
            return b""
        if not data:
            raise ChannelClosed("end of stream")
        framing = self._framing
        return data if not framing.rest and not len(data) % RECORD_BYTES else framing.feed(data)

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

    # ---- send ------------------------------------------------------------------------------------------------------

    def send(self, records: bytes | bytearray) -> None:
        """Send now what the socket takes; the rest goes out when it can."""
        if self._unsent:
            self._unsent.append((bytes(records), NO_FD, False))
            return
        try:
            sent = self.sock.send(records)
        except OSError as e:
            self._keep(meaning(e), bytes(records))
            return
        if sent < len(records):
            self._keep(SendWaits.PEER, bytes(records[sent:]))

    def send_with(self, records: bytes, fd: int, gives: bool) -> None:
        """The same with a descriptor, which travels with the first byte. `gives`: it is the channel's from now on, and is closed
        here when it is out or has nowhere to go; else the caller keeps it open for as long as the channel lives."""
        self._unsent.append((records, fd, gives))
        if len(self._unsent) == 1:
            self.flush()

    def flush(self) -> None:
        """Try again to send what waits."""
        waits = SendWaits.NOTHING
        while self._unsent and waits is SendWaits.NOTHING:
            records, fd, ours = self._unsent.popleft()
            try:
                sent = self._send(records, fd)
            except OSError as e:
                waits = meaning(e)
                if waits is not SendWaits.NOTHING:
                    self._unsent.appendleft((records, fd, ours))
                    break
                sent = len(records)
            if ours:
                os.close(fd)
            if sent < len(records):
                self._unsent.appendleft((records[sent:], NO_FD, False))
                waits = SendWaits.PEER
        self._tell(waits)

    def _send(self, records: bytes, fd: int) -> int:
        if fd == NO_FD:
            return self.sock.send(records)
        return self.sock.sendmsg([records], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])

    def _keep(self, waits: SendWaits, records: bytes) -> None:
        if waits is not SendWaits.NOTHING:
            self._unsent.append((records, NO_FD, False))
            self._tell(waits)

    def _tell(self, waits: SendWaits) -> None:
        if waits is not self.waits:
            self.waits = waits
            self._on_waits(self, waits)

    @property
    def unsent(self) -> int:
        """Bytes that wait."""
        return sum(len(records) for records, _, _ in self._unsent)

    def close(self) -> None:
        self.sock.close()
        for _, fd, ours in self._unsent:
            if ours:
                os.close(fd)
        self._unsent.clear()
        while self.fds:
            if (fd := self.fds.popleft()) != NO_FD:
                os.close(fd)
