"""Before traffic comes: a worker asks itself a few questions, over the whole way that a client's will go.

The first request through cold code (imports, caches, memory never touched, an interpreter that has not specialised)
takes ten times as long as the hundredth. So when an engine says HELLO it brings request bodies along, and this worker
sends them to itself over a socket pair. The first engine that it meets gets them all, again and again; each other one, and
each that comes later, gets one: the proof that requests go through. The engine turns READY when every worker has had its
answer. Answers are counted where nobody reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import BLOCK_CELLS, TIME_CELLS, Engine, Front, StatusBlock
from evenkeel.serve.errors import FAMILIES
from evenkeel.serve.front.http.connections import Connections
from evenkeel.serve.front.routing.engine_channel import EngineChannel, ServedVersion
from evenkeel.serve.front.routing.self_connection import OURS, Connect, apart, ask_one, own_line, request

RUNS = 50  # of each body: Python specialises code within about 50 calls
SECONDS_MAX = 0.4  # of the rehearsal with one engine, for a model that answers sooner
ANSWER_S_MAX = 30.0  # for the first answer: a model may be slow
AGAIN_S = 0.5  # after a question that was not answered


class FrontWarmup:
    """One worker's rehearsals."""

    def __init__(self, connections: Connections, connect: Connect) -> None:
        """`connect` makes the protocol of a new connection, as for a client."""
        self._connections, self._connect = connections, connect
        self._engines = connections.invocations.engines
        self._done = False
        self._answered = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def engine_up(self, place: int, link: EngineChannel, takes_traffic: bool) -> None:
        assert link.model is not None, "called when the engine has said HELLO"
        if not link.model.rehearsals:
            self._engines.reach.rehearsed(place, link.epoch)
            return
        whole = not self._done and takes_traffic and warming(link)
        self._done = self._done or whole
        task = asyncio.get_running_loop().create_task((self._all if whole else self._one)(place, link, link.model))
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _one(self, place: int, link: EngineChannel, model: ServedVersion) -> None:
        """Until it is answered, or the engine has gone."""
        data = smallest(model)
        while link.model is model:
            try:
                if await ask_one(self._connect, self._connections, link, model, data):
                    break
            except OSError as e:
                log("no_rehearsal", f"the way to engine {place} is not proven yet: {e!r}")
            await asyncio.sleep(AGAIN_S)
        self._proven(place, link, model)

    async def _all(self, place: int, link: EngineChannel, model: ServedVersion) -> None:
        aside = CountersOff(model.tally)
        self._engines.rehearse_with(link)
        self._answered = 0
        proven = False
        try:
            async with asyncio.timeout(ANSWER_S_MAX) as bound:
                proven = await self._send(model.rehearsals, link, bound)
        except (OSError, TimeoutError) as e:
            proven = self._answered > 0
            if not proven:
                log("no_rehearsal", f"the way to engine {place} is not warm: {e!r}")
        finally:
            self._engines.rehearse_with(None)
            aside.end(self._answered)
        if proven:
            self._proven(place, link, model)
        else:
            await self._one(place, link, model)

    def _proven(self, place: int, link: EngineChannel, model: ServedVersion) -> None:
        if link.model is model:
            self._engines.reach.rehearsed(place, link.epoch)

    async def _send(self, bodies: tuple[Mapping[str, str], ...], link: EngineChannel, bound: asyncio.Timeout) -> bool:
        """All bodies, one after the other, again and again. Whether the engine has answered any."""
        end_s, proven = time.monotonic() + SECONDS_MAX, False
        async with own_line(self._connect, apart(self._connections)) as line:
            requests = [request(body) for body in bodies]
            for _ in range(RUNS):
                for data in requests:
                    if not warming(link) or (time.monotonic() > end_s and self._answered >= len(requests)):
                        return proven
                    proven = await line.ask(data) not in OURS or proven
                    self._answered += 1
                    if self._answered == 1:  # the others have what is left of twice the time
                        bound.reschedule(asyncio.get_running_loop().time() + max(0.0, end_s + SECONDS_MAX - time.monotonic()))
        return proven


def smallest(model: ServedVersion) -> bytes:
    return request(min(model.rehearsals, key=lambda body: len(body["body"])))


class CountersOff:
    """While it lasts a version's answers are counted where nobody reads: a counter that rose and fell again would look like a
    restart. Whoever asks although the container is not ready is answered, too; then all of it counts in the end."""

    def __init__(self, tally: StatusBlock) -> None:
        self._tally, self._real = tally, (tally.count, tally.value)
        memory = memoryview(bytearray(BLOCK_CELLS * 8))
        tally.count, tally.value = memory.cast("Q"), memory.cast("d")

    def end(self, rehearsed: int) -> None:
        """`rehearsed`: so many of the answers were ours."""
        aside, tally = (self._tally.count, self._tally.value), self._tally
        tally.count, tally.value = self._real
        if aside[0][Front.OK] + sum(aside[0][Front.ERRORS : Front.ERRORS + len(FAMILIES)]) == rehearsed:
            return
        tally.value[Front.LATENCY_SUM_S] += aside[1][Front.LATENCY_SUM_S]
        for cell in (Front.OK, Front.ABANDONED, *range(Front.ERRORS, Front.ERRORS + len(FAMILIES)),
                     *range(Front.LATENCY, Front.LATENCY + TIME_CELLS)):  # fmt: skip
            tally.count[cell] += aside[0][cell]


def warming(link: EngineChannel) -> bool:
    """Whether the engine there still waits for us. One that is ready, or waits no longer, counts what it is sent as traffic."""
    return link.block.count[Engine.STATE] == ReplicaState.WARMING
