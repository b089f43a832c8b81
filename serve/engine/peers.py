"""The fronts that are connected to this engine: accepting, greeting, receiving, sending, forgetting.

Owner of the sockets, and of what fronts are told of the models. Knows records only as bytes, but for HELLO and MODELS.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import time
from collections import deque
from typing import Any

from evenkeel.serve.contract.logline import log
from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.arena import Arena, spill
from evenkeel.serve.transport.channel import NO_FD, RETRY_S, Channel, ChannelClosed, OnWaits, SendWaits
from evenkeel.serve.transport.descriptor import PROTOCOL, REPLY
from evenkeel.serve.transport.rows import SharedRows

_encode = json.JSONEncoder().encode  # ours: a script may replace json.dumps
FULL_S = 0.5  # between two tries to accept when there was no file descriptor


class Peer:
    """One connected front: its channel, its arena once HELLO has come, and the replies waiting to go out."""

    __slots__ = ("channel", "greeted", "memory", "outbox", "rows")

    def __init__(self, sock: socket.socket, on_waits: OnWaits) -> None:
        self.channel = Channel(sock, on_waits)
        self.greeted = False  # it has been told of the models
        self.memory: memoryview = memoryview(b"")
        self.rows = SharedRows(self.memory)
        self.outbox = bytearray()

    def send(self) -> None:
        """Everything that waits, in one system call."""
        records = bytes(self.outbox)
        self.outbox.clear()
        self.channel.send(records)


class Peers:
    """All of them, and the listening socket, which belongs to the supervisor and outlives this process."""

    def __init__(self, listener: socket.socket, epoch: int, many: bool) -> None:
        """`many`: no model is this engine's own."""
        self._epoch, self._many = epoch, many
        self._infos: dict[int, dict[str, Any]] = {}  # of the models that are loaded, by reference
        self._news: deque[tuple[Peer, bytes]] = deque()  # about models, to be told as soon as that is possible
        self._info_fd, self._hello = NO_FD, b""  # what a front that comes is told; NO_FD: to be made anew
        listener.setblocking(False)
        self._listener = listener
        self._by_fd: dict[int, Peer] = {}
        self._again: set[Channel] = set()  # those that wait for the machine: nobody tells when it can
        self._full_since_s = 0.0  # since when the listener is not watched, for want of file descriptors
        self._poll = select.epoll()
        self._poll.register(listener.fileno(), select.EPOLLIN)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake_fd, select.EPOLLIN)

    def wake(self) -> None:
        """End the sleep in `receive`, from another thread."""
        os.eventfd_write(self._wake_fd, 1)

    # ---- what fronts know of the models ------------------------------------------------------------------------------

    def introduce(self, ref: int, info: dict[str, Any]) -> None:
        """Tell all fronts, those that come later too."""
        self._infos[ref] = info
        self._tell({"added": [info], "removed": []})

    def withdraw(self, ref: int) -> None:
        """From now on nobody is to send requests for that model."""
        self._infos.pop(ref, None)
        self._tell({"added": [], "removed": [ref]})

    def _tell(self, news: dict[str, Any]) -> None:
        self._forget_hello()
        self._news += [(peer, _encode(news).encode()) for peer in self._by_fd.values() if peer.greeted]
        self._tell_news()

    def tell_all(self, peer: Peer) -> None:
        """It has missed something."""
        self._news.append((peer, _encode({"models": list(self._infos.values())}).encode()))
        self._tell_news()

    def _tell_news(self) -> None:
        """What cannot be told for want of descriptors is told in a later turn."""
        while self._news:
            peer, text = self._news[0]
            if self._by_fd.get(peer.channel.sock.fileno()) is peer:
                try:
                    fd = spill(text)
                except OSError:
                    return
                peer.channel.send_with(REPLY.pack(descriptor.MODELS, 0, 0, 0, 0, 0, len(text), 0), fd, gives=True)
            self._news.popleft()

    def _forget_hello(self) -> None:
        if self._info_fd != NO_FD:
            os.close(self._info_fd)
            self._info_fd = NO_FD

    def _say_hello(self, peer: Peer) -> None:
        if self._info_fd == NO_FD:
            text = _encode({"models": list(self._infos.values()), "epoch": self._epoch, "many": self._many}).encode()
            self._info_fd = spill(text)
            self._hello = REPLY.pack(descriptor.HELLO, PROTOCOL, 0, 0, 0, 0, len(text), 0)
        peer.channel.send_with(self._hello, os.dup(self._info_fd), gives=True)
        peer.greeted = True

    # ---- they come and go --------------------------------------------------------------------------------------------

    def _pause(self, why: str) -> None:
        """Let nobody in for a moment: those who are here are served, and who comes waits in the kernel."""
        log("accept_failed", f"no front can be let in: {why}; it is tried again", level="warning")
        if not self._full_since_s:
            self._poll.unregister(self._listener.fileno())
        self._full_since_s = time.monotonic()

    def _accept_again(self) -> None:
        if time.monotonic() - self._full_since_s > FULL_S:
            self._full_since_s = 0.0
            self._poll.register(self._listener.fileno(), select.EPOLLIN)

    def receive(self, wait_s: float) -> list[tuple[Peer, bytes | None]]:
        """Whole records by peer; None once for a peer that has gone. Sleeps up to `wait_s` for the first."""
        if self._full_since_s:
            self._accept_again()
        if self._news:
            wait_s = min(wait_s, RETRY_S)
            self._tell_news()
        if self._again:
            wait_s = min(wait_s, RETRY_S)
            for channel in list(self._again):
                channel.flush()
        received: list[tuple[Peer, bytes | None]] = []
        for fd, events in self._ready(wait_s):
            peer = self._by_fd.get(fd)
            if peer is None:
                self._accept() if fd != self._wake_fd else os.eventfd_read(self._wake_fd)
                continue
            if events & select.EPOLLOUT:
                peer.channel.flush()
            try:
                records = peer.channel.receive()
            except ChannelClosed:
                self.forget(peer)
                received.append((peer, None))
                continue
            if records:
                received.append((peer, records))
        return received

    def _ready(self, wait_s: float) -> list[tuple[int, int]]:
        if 0 < wait_s < 0.005:  # epoll counts in milliseconds; select waits exactly, and an epoll is a file like others
            select.select([self._poll.fileno()], [], [], wait_s)
            wait_s = 0
        return self._poll.poll(wait_s)

    def send(self) -> None:
        """All outboxes. What a peer's socket does not take now goes out when it can."""
        for peer in self._by_fd.values():
            if peer.outbox:
                peer.send()

    def _watch(self, channel: Channel, waits: SendWaits) -> None:
        """See to it that what waits in this channel goes out."""
        self._poll.modify(channel.sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if waits is SendWaits.PEER else 0))
        if waits is SendWaits.MACHINE:
            self._again.add(channel)
        else:
            self._again.discard(channel)

    @property
    def unsent(self) -> bool:
        return any(peer.outbox or peer.channel.unsent for peer in self._by_fd.values())

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as e:  # no file descriptors left: those who are here are served, who comes waits in the kernel
            self._pause(str(e.strerror))
            return
        self._by_fd[sock.fileno()] = Peer(sock, self._watch)
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def greet(self, peer: Peer, protocol: int, arena_bytes: int) -> None:
        """Map the arena that came with HELLO and tell the front what model this is: one record, and the info in a file
        with it."""
        if protocol != PROTOCOL or not peer.channel.fds:
            log("bad_hello", "a front speaks another protocol; is an old process still running?")
            self.forget(peer)
            return
        fd = peer.channel.fds.popleft()
        try:
            if fd == NO_FD:  # to map it would give memory that is nobody's
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            peer.memory = Arena(fd, arena_bytes).memory  # the map takes a descriptor of its own
            peer.rows = SharedRows(peer.memory)
            peer.channel.takes_fds = False  # its arena was the only one
            self._say_hello(peer)
        except OSError as e:
            self._pause(f"its arena cannot be mapped, or nothing be told: {e.strerror}")
            self.forget(peer)
        finally:
            if fd != NO_FD:
                os.close(fd)

    def forget(self, peer: Peer) -> None:
        """Its arena is unmapped when the last view of it is gone."""
        fd = peer.channel.sock.fileno()
        if self._by_fd.pop(fd, None) is not None:
            self._poll.unregister(fd)
            self._again.discard(peer.channel)
            peer.channel.close()

    def leave_to_parent(self) -> None:
        """In a child that the script forked: our ends of the sockets are closed, without a word to those at the others. While it
        had them nobody would learn that this engine has ended."""
        for peer in self._by_fd.values():
            os.close(peer.channel.sock.detach())
        os.close(self._listener.detach())
        self._poll.close()
        self._by_fd.clear()

    def close(self) -> None:
        for peer in list(self._by_fd.values()):
            self.forget(peer)
        self._poll.close()
        os.close(self._wake_fd)
        self._forget_hello()
