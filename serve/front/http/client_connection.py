"""A connection of the data port, as those see it that share its worker or read for it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from evenkeel.serve.errors import EvenkeelError
from evenkeel.serve.front.http.idle import IdleCandidate
from evenkeel.serve.front.http.silence import Silence
from evenkeel.serve.front.request.invocation import Invocation
from evenkeel.serve.http.connection_state import ConnectionState


class ClientConnection(IdleCandidate, Protocol):
    """What protocol.py makes of it is its own affair."""

    transport: asyncio.Transport
    silence: Silence
    began_s: float

    @property
    def is_receiving(self) -> bool: ...

    def move(self, target: ConnectionState) -> None: ...

    def refuse(self, error: EvenkeelError) -> None: ...

    def restrict(self) -> None:
        """From now on it is good for one /ping."""

    def turn_away(self) -> None: ...

    def make_room(self) -> None: ...

    def answer_is_last(self) -> None: ...

    def excuse(self, away_s: float) -> None: ...

    def check_silence(self, now_s: float) -> None: ...

    def body_grew(self, invocation: Invocation, size: int) -> None: ...

    def eof_received(self) -> bool: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...
