"""Ask the supervisor something from the event loop of a front, and wait for its answer for a bounded time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from evenkeel.serve.contract.commands import (
    LINE_BYTES_MAX,
    Command,
    CommandError,
    Refusal,
    Result,
    Verb,
    read_answer,
    request_line,
)
from evenkeel.serve.front.routing.engine_channel import connected

ASKED_MAX = 4  # at once, by one worker: others wait for their turn
RETRY_S = 1.0


class SupervisorClient:
    """A connection for each question."""

    def __init__(self, address: str) -> None:
        self._address, self._turns = address, asyncio.Semaphore(ASKED_MAX)

    async def ask(self, verb: Verb, arguments: Mapping[str, Any], within_s: float) -> Result:
        """Raises CommandError: what the supervisor said, or NO_ANSWER, and then nobody knows what comes of it."""
        line = request_line(Command(1, verb, time.monotonic() + within_s, arguments))
        try:
            async with asyncio.timeout(within_s), self._turns:
                return await self._answer(line)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as e:
            raise CommandError(Refusal.NO_ANSWER, f"the supervisor has not answered: {e!r}", retry_after_s=RETRY_S) from e

    async def _answer(self, line: bytes) -> Result:
        reader, writer = await asyncio.open_unix_connection(sock=connected(self._address), limit=LINE_BYTES_MAX)
        try:
            writer.write(line)
            return read_answer(await reader.readuntil(b"\n")).unwrapped()
        finally:
            writer.close()
