"""What the supervisor can tell an engine: to load and unload models, to say what is loaded, to drain. A thread of its own, so
that the cycle never looks.

How it works. Loading and unloading take their time elsewhere, and who does them hands the answer in here, from any thread;
this one sends it. Draining is SIGTERM's own way, whatever the engine is doing: while it loads it ends, and while it serves it
finishes what was accepted. Owner of the engine's end of the socket.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from select import select
from typing import Protocol

from evenkeel.serve.contract.command_peer import CommandPeer, PeerClosed
from evenkeel.serve.contract.commands import Command, CommandError, Later, Result, Verb, unknown_here
from evenkeel.serve.contract.model_order import ModelOrder

FLUSH_S = 1.0
Finish = Callable[[Result | CommandError], None]
"""Called once with what came of a command, from any thread."""


class LoadsModels(Protocol):
    def load(self, order: ModelOrder, finish: Finish) -> None:
        """Begin. Raises CommandError, with nothing changed."""

    def unload(self, number: int, generation: int, finish: Finish) -> None:
        """Begin. Raises CommandError, with nothing changed."""

    def describe(self) -> Result:
        """What is loaded."""


class EngineCommands:
    """`models`: who loads and unloads."""

    def __init__(self, fd: int, models: LoadsModels) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._main = threading.main_thread().ident or 0
        self._drains = False
        self.models = models
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._answered = threading.Event()  # nothing waits to be answered
        self._answered.set()

    def start(self) -> None:
        """Before user code is imported."""
        os.register_at_fork(after_in_child=self._socket.close)  # in a child of the script: commands are the parent's
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    def handle(self, command: Command, now_s: float) -> Result | Later:
        arguments = command.arguments
        match command.verb:
            case Verb.LOAD:
                return self._begin(partial(self.models.load, ModelOrder.from_arguments(arguments)))
            case Verb.UNLOAD:
                return self._begin(partial(self.models.unload, arguments["number"], arguments["generation"]))
            case Verb.DESCRIBE:
                return self.models.describe()
            case Verb.DRAIN:
                self._drains = True
                return {}
            case _:
                raise unknown_here(command.verb)

    def _begin(self, begin: Callable[[Finish], None]) -> Later:
        later = Later()
        begin(partial(self._finish, later))
        return later

    def _finish(self, later: Later, outcome: Result | CommandError) -> None:
        self._answered.clear()
        later.outcome = outcome
        os.eventfd_write(self._wake_fd, 1)

    def flush(self) -> None:
        """Before the process ends: give the answers that are there a moment to go out."""
        self._answered.wait(FLUSH_S)

    def _listen(self) -> None:
        peer = CommandPeer(self._socket)
        try:
            while True:
                readers: list[CommandPeer | int] = [self._wake_fd, *([peer] if peer.wants_to_read else [])]
                ready, _, _ = select(readers, [peer] if peer.wants_to_write else [], [])
                if self._wake_fd in ready:
                    os.eventfd_read(self._wake_fd)
                if peer.wants_to_write:
                    peer.flush()
                elif peer in ready:
                    peer.obey(self, time.monotonic())
                peer.answer_due(time.monotonic())
                if not peer.wants_to_write:
                    self._answered.set()
                if self._drains and not peer.wants_to_write:  # the answer first: we may end at once
                    self._drains = False
                    signal.pthread_kill(self._main, signal.SIGTERM)
        except PeerClosed:  # the supervisor speaks no more to this engine
            return
