"""Does what this worker sends to an engine come back? It looks once a second, and asks something where nobody else does.

Two questions. Requests that wait at an engine which has nothing to do were lost on the way: such an engine is given no more,
and the status page says that this worker does not reach it, so that the verdict falls and the supervisor ends the engine. It
needs no knowledge of how slow a model may be, since an engine that is busy says so. And an engine that has said nothing for
`quiet_s` is sent the smallest of its own request bodies, so that there is something to be lost. If not even this worker knows of
that question any more, the fault is its own, and it makes room for another.

Owner of how long each link has been silent.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import leave, log
from evenkeel.serve.contract.process_setup import EXIT_BUG
from evenkeel.serve.contract.status_page import Engine, Main, StatusBlock
from evenkeel.serve.front.routing.front_warmup import smallest
from evenkeel.serve.front.routing.self_connection import Connect, ask_one

if TYPE_CHECKING:
    from evenkeel.serve.front.http.connections import Connections
    from evenkeel.serve.front.routing.engine_channel import EngineChannel, ServedVersion

LOOK_S = 1.0
LOST_LOOKS = 6  # in a row; an engine with nothing to do takes what has come within milliseconds
OWN_LOOKS = 15
BEAT_S = 2.0  # an engine that is idle stamps twice as often and more; what stands still is the supervisor's to judge


@dataclass(slots=True)
class LinkSilence:
    """Of one link."""

    heard_s: float
    lost: int = 0  # looks, since it was heard, at which requests of ours waited there and the engine had nothing to do
    own: int = 0  # looks at which our question waited and no engine had it
    asking: asyncio.Task[None] | None = None


class SelfCheck:
    def __init__(self, connections: Connections, connect: Connect, quiet_s: float) -> None:
        """`quiet_s` 0: nothing is asked."""
        self._connections, self._connect, self._quiet_s = connections, connect, quiet_s
        self._engines, self._main = connections.invocations.engines, connections.page.main
        self._silences: dict[int, LinkSilence] = {}
        self._asking: set[asyncio.Task[None]] = set()  # kept: the loop itself holds tasks only weakly

    async def keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look(time.monotonic())

    def look(self, now_s: float) -> None:
        for place, link in enumerate(self._engines.links):
            if link.model is None:
                self._silences.pop(place, None)
                continue
            silence = self._silences.setdefault(place, LinkSilence(now_s))
            if link.heard:
                link.heard, silence.heard_s, silence.lost, silence.own = False, now_s, 0, 0
                if link.mistrusted:
                    log("answers_again", f"engine {place} answers again", place=place)
                    self._engines.trust(link)
                continue
            self._weigh(place, link, silence, now_s)

    def _weigh(self, place: int, link: EngineChannel, silence: LinkSilence, now_s: float) -> None:
        waits = self._connections.invocations.waits_at(link)
        if not waits:
            silence.lost = 0
        elif has_nothing_to_do(link.block, now_s):  # while it is busy, with what other fronts sent, nothing can be said
            silence.lost += 1
        if silence.lost >= LOST_LOOKS and not link.mistrusted:
            log("unanswered", f"engine {place} has nothing to do and does not answer what was sent there; it is sent no more",
                level="error", place=place)  # fmt: skip
            self._engines.mistrust(link)
        silence.own = silence.own + 1 if silence.asking is not None and self._connections.invocations.idle else 0
        if silence.own >= OWN_LOOKS:
            log("front_error", "this worker does not answer itself; it ends, and another takes its place", level="error")
            leave(EXIT_BUG)
        model = link.model
        if model is not None and silence.asking is None and self._is_quiet(link, model, silence, now_s):
            silence.asking = asyncio.get_running_loop().create_task(self._ask(place, link, model, silence))
            self._asking.add(silence.asking)
            silence.asking.add_done_callback(self._asking.discard)

    def _is_quiet(self, link: EngineChannel, model: ServedVersion, silence: LinkSilence, now_s: float) -> bool:
        asks = self._quiet_s > 0 and link in self._engines.serving.up and bool(model.warmup_requests)
        ready = link.block.count[Engine.STATE] == ReplicaState.READY and not self._main.count[Main.LEAVING]
        return asks and ready and now_s - silence.heard_s >= self._quiet_s

    async def _ask(self, place: int, link: EngineChannel, model: ServedVersion, silence: LinkSilence) -> None:
        try:
            await ask_one(self._connect, self._connections, link, model, smallest(model))
        except OSError as e:
            log("self_check", f"engine {place} could not be asked: {e!r}", level="warning")
        finally:
            silence.asking, silence.heard_s = None, time.monotonic()  # the next question is due in a while


def has_nothing_to_do(engine: StatusBlock, now_s: float) -> bool:
    count, value = engine.count, engine.value
    idle = not value[Engine.RUN_STARTED_S] and not count[Engine.QUEUE_ROWS]
    return idle and count[Engine.STATE] == ReplicaState.READY and now_s - value[Engine.BEAT_S] < BEAT_S
