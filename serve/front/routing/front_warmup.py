"""Before traffic comes: a worker asks itself a few questions, over the whole way that a client's will go.

The first request through cold code (imports, caches, memory never touched, an interpreter that has not specialised)
takes ten times as long as the hundredth. So when an engine says HELLO it brings request bodies along, and this worker
sends them to itself over a socket pair. The first engine that it meets gets them all, again and again; each other one, and
each that comes later, gets one: the proof that requests go through. The engine turns READY when every worker has had its
answer. What a worker asks itself is not counted.
"""

from __future__ import annotations

import asyncio
import time

from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Engine
from evenkeel.serve.front.http.connections import Connections
from evenkeel.serve.front.routing.engine_channel import EngineChannel, ServedVersion
from evenkeel.serve.front.routing.self_connection import OURS, Connect, ask_one, connected_to, request

RUNS = 50  # of each body: Python specialises code within about 50 calls
SECONDS_MAX = 0.4  # of the rehearsal with one engine, for a model that answers sooner
ANSWER_S_MAX = 30.0  # for the first answer: a model may be slow
AGAIN_S = 0.5  # after a question that was not answered


class FrontWarmup:
    """One worker's requests to itself, before traffic comes."""

    def __init__(self, connections: Connections, connect: Connect) -> None:
        """`connect` makes the protocol of a new connection, as for a client."""
        self._connections, self._connect = connections, connect
        self._engines = connections.invocations.engines
        self._done = False
        self._answered = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def engine_up(self, place: int, link: EngineChannel, takes_traffic: bool) -> None:
        assert link.model is not None, "called when the engine has said HELLO"
        if not link.model.warmup_requests:
            self._engines.reach.answered(place, link.epoch)
            return
        is_full = not self._done and takes_traffic and warming(link)
        self._done = self._done or is_full
        task = asyncio.get_running_loop().create_task((self._all if is_full else self._one)(place, link, link.model))
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
        self._answered = 0
        proven = False
        try:
            async with asyncio.timeout(ANSWER_S_MAX) as bound:
                proven = await self._send(link, model, bound)
        except (OSError, TimeoutError) as e:
            proven = self._answered > 0
            if not proven:
                log("no_rehearsal", f"the way to engine {place} is not warm: {e!r}")
        if proven:
            self._proven(place, link, model)
        else:
            await self._one(place, link, model)

    def _proven(self, place: int, link: EngineChannel, model: ServedVersion) -> None:
        if link.model is model:
            self._engines.reach.answered(place, link.epoch)

    async def _send(self, link: EngineChannel, model: ServedVersion, bound: asyncio.Timeout) -> bool:
        """All bodies, one after the other, again and again. Whether the engine has answered any."""
        end_s, proven = time.monotonic() + SECONDS_MAX, False
        requests = [request(body) for body in model.warmup_requests]
        async with connected_to(self._connect, self._connections, link, model) as line:
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
    return request(min(model.warmup_requests, key=lambda body: len(body["body"])))


def warming(link: EngineChannel) -> bool:
    """Whether the engine there still waits for us. One that is ready, or waits no longer, counts what it is sent as traffic."""
    return link.block.count[Engine.STATE] == ReplicaState.WARMING
