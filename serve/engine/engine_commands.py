"""What the supervisor can tell an engine: to say what is loaded, and to drain. A thread, so that the cycle never looks.

Owner of the engine's end of the socket. Draining is SIGTERM's own way, whatever the engine is doing: while it loads it ends, and
while it serves it finishes what was accepted.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from select import select
from typing import Protocol

from evenkeel.serve.contract.command_peer import CommandPeer, PeerClosed
from evenkeel.serve.contract.commands import Command, Result, Verb, unknown_here


class DescribesModels(Protocol):
    def describe(self) -> list[Result]:
        """Each model that is loaded: its name, version, revision and the sum of its files."""


class EngineCommands:
    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._main = threading.main_thread().ident or 0
        self._drains = False

    def start(self, models: DescribesModels) -> None:
        """Before user code is imported."""
        self._models = models
        os.register_at_fork(after_in_child=self._socket.close)  # in a child of the script: commands are the parent's
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    def handle(self, command: Command, now_s: float) -> Result:
        match command.verb:
            case Verb.DESCRIBE:
                return {"models": self._models.describe()}
            case Verb.DRAIN:
                self._drains = True
                return {}
            case _:
                raise unknown_here(command.verb)

    def _listen(self) -> None:
        peer = CommandPeer(self._socket)
        try:
            while True:
                select([peer] if peer.wants_to_read else [], [peer] if peer.wants_to_write else [], [])
                if peer.wants_to_write:
                    peer.flush()
                else:
                    peer.obey(self, time.monotonic())
                if self._drains and not peer.wants_to_write:  # the answer first: we may end at once
                    self._drains = False
                    signal.pthread_kill(self._main, signal.SIGTERM)
        except PeerClosed:  # the supervisor speaks no more to this engine
            return
