"""What the supervisor asks one engine, and what it hears back, over a socket that the engine was started with.

How it works. Nothing here waits. `ask` gives a record that later has an answer: the engine's, or NO_ANSWER when its time is
over or the engine does not speak as it should. Only while something is asked is the socket looked at, so an engine whose
script writes into it takes nobody's time.

Owner of our end of the socket, for one life of one engine.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evenkeel.serve.contract.command_peer import CommandPeer, PeerClosed
from evenkeel.serve.contract.commands import Answer, Command, CommandError, Refusal, Verb, read_answer, request_line

ASKED_MAX = 4  # at once
REST_S = 0.02  # after something came, until it is looked at again


@dataclass(slots=True)
class AskedCommand:
    command: Command
    answer: Answer | None = None  # None: it may still come

    @property
    def failed(self) -> bool:
        return self.answer is not None and self.answer.error is not None


class CommandLink:
    def __init__(self, sock: socket.socket) -> None:
        self._peer = CommandPeer(sock)
        self._asked: dict[int, AskedCommand] = {}  # what has no answer yet, by id
        self._id = 0
        self._rests_until_s = 0.0
        self._closed = False

    def ask(self, verb: Verb, now_s: float, within_s: float, arguments: Mapping[str, Any] | None = None) -> AskedCommand:
        self._id += 1
        asked = AskedCommand(Command(self._id, verb, now_s + within_s, arguments or {}))
        try:
            line = request_line(asked.command)
        except CommandError as e:  # too long
            asked.answer = Answer(self._id, {}, e)
            return asked
        if self._closed or len(self._asked) >= ASKED_MAX:
            asked.answer = _no_answer(asked)
            return asked
        self._asked[self._id] = asked
        try:
            self._peer.send(line, now_s)
        except PeerClosed:
            self.close()
        return asked

    def fileno(self) -> int:
        return self._peer.fileno()

    @property
    def closed(self) -> bool:
        """Nothing more is asked or heard here."""
        return self._closed

    @property
    def has_room(self) -> bool:
        """Something more can be asked, and a drain after it."""
        return len(self._asked) < ASKED_MAX - 1

    @property
    def asks(self) -> bool:
        """Something that may still be answered."""
        return bool(self._asked)

    def rests_for(self, now_s: float) -> float:
        """Seconds until it is to be looked at again; 0: now."""
        return max(0.0, self._rests_until_s - now_s)

    @property
    def wants_to_write(self) -> bool:
        return self._peer.wants_to_write

    def turn(self, ready: bool, now_s: float) -> None:
        """`ready`: it can be read or written."""
        if ready and not self._closed:
            try:
                self._peer.flush()
                self._hear(now_s)
            except (PeerClosed, CommandError):  # it has ended, or says what is no answer: it is asked nothing more
                self.close()
        for asked in [a for a in self._asked.values() if a.command.deadline_s <= now_s]:
            self._answer(asked, _no_answer(asked))

    def _hear(self, now_s: float) -> None:
        for line in self._peer.read(now_s):
            self._rests_until_s = now_s + REST_S
            answer = read_answer(line)
            asked = self._asked.get(answer.id) if answer.id is not None else None
            if asked is not None:  # else it came too late
                self._answer(asked, answer)

    def _answer(self, asked: AskedCommand, answer: Answer) -> None:
        asked.answer = answer
        del self._asked[asked.command.id]

    def close(self) -> None:
        """What has no answer by now gets none."""
        if not self._closed:
            self._closed = True
            self._peer.close()
        for asked in list(self._asked.values()):
            self._answer(asked, _no_answer(asked))


def _no_answer(asked: AskedCommand) -> Answer:
    command = asked.command
    return Answer(command.id, {}, CommandError(Refusal.NO_ANSWER, f"{command.verb}: the engine has not answered"))
