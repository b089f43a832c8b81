"""What ends the supervisor's sleep: a signal, a child that ended or said something, a command; or the time to look again.

Owner of the pipe that signals wake it through. Nothing here waits for anybody but in the one sleep, which has an end.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Collection, Sequence

from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.command_server import CommandServer


class Wakeups:
    def __init__(self, children: Sequence[Child], commands: CommandServer | None) -> None:
        self._children, self._commands = children, commands
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def heed_signals(self) -> None:
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def sleep(self, wait_s: float) -> None:
        """Up to `wait_s`, and heed what came meanwhile."""
        now_s = time.monotonic()
        outputs, wait_s = self._outputs(now_s, wait_s)
        if self._commands is not None:
            self._commands.answer_due(now_s)
        readers, writers, wait_s = self._commanding(now_s, wait_s)
        links, asking, wait_s = self._links(now_s, wait_s)
        readable, writable, _ = select.select([self._read_end, *outputs, *readers, *links], [*writers, *asking], [], wait_s)
        self._empty_pipe()
        for fd in readable:
            if fd in outputs:
                _read_output(outputs[fd])
        ready, now_s = {*readable, *writable}, time.monotonic()
        for child in self._children:
            if child.link is not None:
                child.link.turn(child.link.fileno() in ready, now_s)
        if self._commands is not None:
            self._commands.turn(ready, now_s)

    def _outputs(self, now_s: float, wait_s: float) -> tuple[dict[int, Child], float]:
        """The pipes to be read next, and how long to wait for them: less if one is due sooner."""
        due = {c.output.fd: (c, c.output.due_s(now_s)) for c in self._children if c.output is not None}
        resting = [due_s for _, due_s in due.values() if due_s > 0]
        return {fd: c for fd, (c, due_s) in due.items() if due_s <= 0}, min([wait_s, *resting])

    def _commanding(self, now_s: float, wait_s: float) -> tuple[Collection[int], Collection[int], float]:
        if self._commands is None:
            return (), (), wait_s
        if rests_s := self._commands.rests_for(now_s):
            return (), (), min(wait_s, rests_s)
        return self._commands.readers, self._commands.writers, wait_s

    def _links(self, now_s: float, wait_s: float) -> tuple[list[int], list[int], float]:
        """Those of engines that were asked something."""
        asked = [c.link for c in self._children if c.link is not None and c.link.asks]
        readers = [link.fileno() for link in asked if not link.rests_for(now_s)]
        writers = [link.fileno() for link in asked if link.wants_to_write]
        return readers, writers, min([wait_s, *(link.rests_for(now_s) or wait_s for link in asked)])

    def _empty_pipe(self) -> None:
        try:
            while os.read(self._read_end, 1024):
                pass
        except BlockingIOError:
            pass


def _read_output(child: Child) -> None:
    if child.output is not None and not child.output.read():
        child.output.close()
        child.output = None
