"""The supervisor's end of the command channel: a Unix socket in the run directory, and who is connected to it.

How it works. Nothing here waits. The supervisor asks what to look at (`readers`, `writers`), sleeps on it with all else that
it waits for, and gives a `turn`. After a turn in which something came it rests a moment, so that nobody who asks without end
takes the supervisor's time. A connection is one of a few and ends when it asks nothing: each of ours is made for one
question.

Owner of the connections. The listening socket is the run directory's.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection

from evenkeel.serve.contract.command_peer import CommandPeer, PeerClosed
from evenkeel.serve.contract.commands import CommandHandler
from evenkeel.serve.contract.logline import log

CONNECTIONS_MAX = 8
IDLE_S_MAX = 10.0
REST_S = 0.02


class CommandServer:
    def __init__(self, listener: socket.socket, handler: CommandHandler) -> None:
        listener.setblocking(False)
        self._listener, self._handler = listener, handler
        self._peers: dict[int, CommandPeer] = {}
        self._asked_s: dict[int, float] = {}  # when each connection last asked something, or was made
        self._rests_until_s = 0.0

    def rests_for(self, now_s: float) -> float:
        """Seconds until it is to be looked at again; 0: now."""
        return max(0.0, self._rests_until_s - now_s)

    @property
    def readers(self) -> list[int]:
        return [self._listener.fileno(), *(fd for fd, peer in self._peers.items() if peer.wants_to_read)]

    @property
    def writers(self) -> list[int]:
        return [fd for fd, peer in self._peers.items() if peer.wants_to_write]

    def turn(self, ready: Collection[int], now_s: float) -> None:
        """`ready`: of all that the supervisor waited for, what can be read or written."""
        for fd, peer in list(self._peers.items()):
            try:
                if fd in ready:
                    self._serve(fd, peer, now_s)
                if peer.overdue(now_s) or (peer.idle and now_s - self._asked_s[fd] > IDLE_S_MAX):
                    raise PeerClosed
            except PeerClosed:
                self._forget(fd)
        if self._listener.fileno() in ready:
            self._accept(now_s)

    def answer_due(self, now_s: float) -> None:
        """What took its time and is over: before the sleep, for nothing would end it."""
        for fd, peer in list(self._peers.items()):
            try:
                peer.answer_due(now_s)
            except PeerClosed:
                self._forget(fd)

    def _serve(self, fd: int, peer: CommandPeer, now_s: float) -> None:
        if peer.wants_to_write:
            peer.flush()
        elif peer.obey(self._handler, now_s):
            self._asked_s[fd], self._rests_until_s = now_s, now_s + REST_S

    def _accept(self, now_s: float) -> None:
        self._rests_until_s = now_s + REST_S
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has left already, or no file descriptor is free: it waits in the kernel
            return
        peer = CommandPeer(sock)
        try:
            if _user_of(sock) not in (os.getuid(), 0):
                log("command_refused", "somebody of another user asked the supervisor for something", level="warning")
                raise PeerClosed
            if len(self._peers) >= CONNECTIONS_MAX:
                peer.refuse(f"at most {CONNECTIONS_MAX} connections at once", now_s)
            peer.obey(self._handler, now_s)  # those of ours ask as soon as they are connected
        except PeerClosed:
            sock.close()
            return
        self._peers[sock.fileno()], self._asked_s[sock.fileno()] = peer, now_s

    def _forget(self, fd: int) -> None:
        self._peers.pop(fd).close()
        del self._asked_s[fd]


def _user_of(sock: socket.socket) -> int:
    """Who connected, by the kernel's word. The mode of the file says the same, but a descriptor of it may be handed on."""
    _, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    return int(uid)
