"""The way out of a process's log lines: it never waits for the reader of the log.

A pipe that nobody reads, a stopped terminal, a full disk or a stalled network file system must cost lines and
nothing else. A line that cannot go out now is lost, and counted. How that is had depends on what the
descriptor is:

- a pipe, a terminal or a device is opened once more through /proc/self/fd with O_NONBLOCK. That is an open
  file description of our own; the flag on the given one would also change every other process that has the
  same pipe or terminal;
- a socket cannot be opened again, but each send can ask not to wait;
- the rest (a regular file, a pipe of another user) is written by a thread behind a bounded queue: the thread
  waits. A line for a file is given a moment to get there, so that it is there for anyone who looks next, as long
  as the disk answers.

State belongs to the process: after a fork the child has its own queue and thread.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import stat
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

QUEUE_LINES_MAX = 1024  # of at most 4 KB, behind a thread that waits for the reader
# For a line to get into a file. A disk that was slower once is not waited for until it has caught up.
SETTLE_S = 0.02
FLUSH_S = 0.5  # at the end of a process, for what is queued


class Writer(Protocol):
    """Writes without waiting. `write` returns how many bytes went out or will; raises OSError when none."""

    @property
    def fd(self) -> int: ...

    def write(self, data: bytes) -> int: ...

    def settle(self) -> None:
        """Called after each line, when nothing is locked."""

    def has_room(self) -> bool:
        """Whether the reader has taken something since a write failed; a short line fits where a long one does not."""

    def flush(self, limit_s: float) -> None: ...

    def close(self) -> None:
        """Give up what was opened for this writer; the descriptor that it was given stays open."""


class DescriptorWriter:
    """For a descriptor of our own that does not block; -1: none, and every line is lost."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def settle(self) -> None:
        """The line is where it should be."""

    def write(self, data: bytes) -> int:
        return os.write(self.fd, data)

    def has_room(self) -> bool:
        return self.fd >= 0 and _has_room(self.fd)

    def flush(self, limit_s: float) -> None:
        """Nothing is kept here."""

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class SocketWriter:
    """For a socket, of which other processes may have the same open file description."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))
        self.fd = self._socket.fileno()

    def settle(self) -> None:
        """The line is where it should be."""

    def write(self, data: bytes) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def has_room(self) -> bool:
        return _has_room(self.fd)

    def flush(self, limit_s: float) -> None:
        """Nothing is kept here."""

    def close(self) -> None:
        self._socket.close()


class QueueWriter:
    """For a descriptor that may block: a thread writes. It calls `lose` for each line that fails, `idle` after the last.

    `settles`: a line is waited for, as long as that is quick.
    """

    def __init__(self, fd: int, lose: Callable[[], None], idle: Callable[[], None], *, settles: bool) -> None:
        self._fd, self._handed_down = fd, -1
        self._lose, self._idle, self._settles = lose, idle, settles
        self._behind = False
        # A signal handler may put into a SimpleQueue. An event is set when it is reached, None ends the thread.
        self._queue: queue.SimpleQueue[bytes | threading.Event | None] = queue.SimpleQueue()
        self._started = False
        self.start()

    @property
    def fd(self) -> int:
        if self._handed_down < 0:
            self._handed_down = os.dup(self._fd)
        return self._handed_down

    def start(self) -> None:
        """At once, since a first line may come from a signal handler, which must not start threads."""
        with contextlib.suppress(RuntimeError):  # no thread is left: each line tries again
            threading.Thread(target=self._run, name="log", daemon=True).start()
            self._started = True

    def forked(self) -> None:
        """In the child: what is queued is the parent's to write, and its thread is not here."""
        self._queue, self._started = queue.SimpleQueue(), False

    def write(self, data: bytes) -> int:
        if self._queue.qsize() >= QUEUE_LINES_MAX:
            raise BlockingIOError("the queue is full")
        self._queue.put(data)
        if not self._started:
            self.start()
        return len(data)

    def has_room(self) -> bool:
        return self._queue.qsize() <= QUEUE_LINES_MAX // 2

    def settle(self) -> None:
        if self._started and self._settles and not self._behind:
            self._behind = not self._written(SETTLE_S)

    def flush(self, limit_s: float) -> None:
        if self._started:
            self._written(limit_s)

    def close(self) -> None:
        self._queue.put(None)

    def _written(self, limit_s: float) -> bool:
        """Whether what is queued now was written within this time."""
        written = threading.Event()
        self._queue.put(written)
        return written.wait(limit_s)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
            else:
                self._write_out(item)
            if self._queue.empty():
                self._behind = False
                self._idle()

    def _write_out(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError:
            self._lose()


class Sink:
    """Takes lines, counts those that are lost, and says how many were once a line goes out again.

    `tell` makes that line. The count may be shown in a cell of the status page that is this process's to write.
    """

    def __init__(self, fd: int, tell: Callable[[int], bytes]) -> None:
        self.lost = 0
        self._tell, self._untold = tell, 0
        self._rest = b""  # of a line that went out in part: it is finished before the next one
        self._cells: memoryview | None = None
        self._cell = 0
        self._lock = threading.RLock()  # a signal handler may log in the middle of a line
        self._writer = self._open(fd)
        _living.add(self)

    @property
    def fd(self) -> int:
        """For another process of ours, which makes a sink of its own of it. Never the number that was given: it may
        be 1, which such a process has for other things."""
        return self._writer.fd

    def write(self, line: bytes) -> None:
        """The line goes out whole or is lost. Never waits, never raises."""
        with self._lock:
            self.tell_lost()
            if self._untold or not self._put(line):
                self.lose()
        self._writer.settle()

    def tell_lost(self) -> None:
        """Say how many lines were lost, if the reader is back. Call it now and then: the next line may be far off."""
        with self._lock:
            if self._untold and self._writer.has_room() and self._put(self._tell(self._untold)):
                self._untold = 0

    def lose(self, lines: int = 1) -> None:
        with self._lock:
            self._untold += lines
            self.count(lines)

    def count(self, lines: int) -> None:
        """Count lines as lost of which the log is told in another way."""
        with self._lock:
            self.lost += lines
            if self._cells is not None:
                self._cells[self._cell] += lines

    def count_in(self, cells: memoryview, cell: int) -> None:
        """The count goes on in this cell; the first one also gets what has been lost so far."""
        with self._lock:
            if self._cells is None:
                cells[cell] += self.lost
            self._cells, self._cell = cells, cell

    def flush(self, limit_s: float = FLUSH_S) -> None:
        self._writer.flush(limit_s)

    def close(self) -> None:
        self._writer.close()

    def forked(self) -> None:
        """In the child: the counts and the rest of a line are the parent's affair."""
        self._lock = threading.RLock()
        self.lost, self._untold, self._rest, self._cells = 0, 0, b"", None
        if isinstance(self._writer, QueueWriter):
            self._writer.forked()

    def _put(self, line: bytes) -> bool:
        try:
            if self._rest:
                self._rest = self._rest[self._writer.write(self._rest) :]
                if self._rest:
                    return False
            self._rest = line[self._writer.write(line) :]
        except OSError:  # no room, no reader, no space: all the same to us
            return False
        return True

    def _open(self, fd: int) -> Writer:
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISSOCK(mode):
                return SocketWriter(fd)
            if not os.get_blocking(fd):
                return DescriptorWriter(os.dup(fd))
            if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
                with contextlib.suppress(OSError):  # another user's, or a pipe without a reader
                    return DescriptorWriter(open_again(fd))
        except OSError:  # closed: the number may come to mean something else, which must not get our lines
            return DescriptorWriter(-1)
        return QueueWriter(fd, self.lose, self.tell_lost, settles=stat.S_ISREG(mode))


def open_again(fd: int) -> int:
    """The same pipe, terminal or device by a description of our own that does not block. Raises OSError."""
    return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)


def _has_room(fd: int) -> bool:
    """Of a pipe: a whole page is free, so that any line of ours fits."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


_living: weakref.WeakSet[Sink] = weakref.WeakSet()


def _after_fork() -> None:
    for sink in list(_living):
        sink.forked()


os.register_at_fork(after_in_child=_after_fork)
