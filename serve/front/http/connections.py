"""What all connections of a worker share: their number, the memory of bodies that come and of answers that nobody reads yet.

Owner of the set of connections. Each of them says when it comes, when it goes, and when it needs room; who has to give way is
decided here.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from evenkeel.serve.contract import logline
from evenkeel.serve.contract.status_page import Front, StatusBlock, StatusPage
from evenkeel.serve.errors import TooManyArriving, TooManyConnections
from evenkeel.serve.front.http.head_shapes import HeadShapes
from evenkeel.serve.front.http.idle import IdleConnections
from evenkeel.serve.front.request.invocations import Invocations
from evenkeel.serve.front.routing.router import AWAY_S
from evenkeel.serve.settings import Limits

if TYPE_CHECKING:
    from evenkeel.serve.front.http.client_connection import ClientConnection

BEAT_EVERY_S = 1.0
LATE_S = 0.5  # how often a worker that has no more time looks for requests that came so late
OLD_BODY_S = 10.0  # when memory for bodies is short, those that have been coming longer than this give way first
SWEPT_A_TURN = 32  # connections; a look takes 10 to 20 us
RESERVE = 64  # connections beyond the limit, for /ping; the oldest makes room for the next
_monotonic = time.monotonic


class Connections:
    """What all connections of a worker share."""

    def __init__(
        self, page: StatusPage, block: StatusBlock, invocations: Invocations, limits: Limits, default_accept: str | None
    ) -> None:
        self.page, self.block, self.invocations, self.limits = page, block, invocations, limits
        self.default_accept, self.many = default_accept, invocations.engines.named is not None
        self.shapes = HeadShapes()
        self.open: set[ClientConnection] = set()
        self._idle: IdleConnections[ClientConnection] = IdleConnections()
        self._stopping = False
        self.leaving = False  # the container is: each connection ends with its next answer
        self.reserve: dict[ClientConnection, None] = {}  # of them, those beyond the limit, the oldest first
        self.receiving_bytes = 0  # of bodies that are not complete yet, over all connections
        self._unread_bytes = 0  # of large answers, at most: counted anew when it seems too much

    def wind_down(self) -> None:
        """The container has begun to leave: who asks again shall do so elsewhere. Idle connections stay, for the quiet time,
        since a request may be on its way to us."""
        self.leaving = True
        for connection in self.open:
            connection.answer_is_last()

    def stop(self) -> None:
        """The worker stops: what is under way may go on for a while."""
        if not self._stopping:
            self._stopping = True
            asyncio.get_running_loop().call_later(self.limits.finish_s, self._end_all)

    def _end_all(self) -> None:
        """Those that wait, and then those that come so late."""
        self.invocations.end_all()
        asyncio.get_running_loop().call_later(LATE_S, self._end_all)

    def admit(self, connection: ClientConnection) -> None:
        """At the limit an idle connection makes room, see idle.py. Where none is, the newcomer is good for one /ping.
        Nobody is kept from that: the oldest there makes room."""
        self.open.add(connection)
        if len(self.open) - len(self.reserve) <= self.limits.connections_max:
            return
        waiting = (c for c in self.open if c not in self.reserve)
        idle = self._idle.choose(connection, waiting, _monotonic())
        if idle is not None:
            self.forget(idle)
            idle.make_room()
            return
        connection.restrict()
        self.reserve[connection] = None
        if len(self.reserve) > RESERVE:
            oldest = next(iter(self.reserve))
            del self.reserve[oldest]
            oldest.turn_away()

    def forget(self, connection: ClientConnection) -> None:
        self.open.discard(connection)
        self.reserve.pop(connection, None)

    def too_many(self) -> TooManyConnections:
        most = self.limits.connections_max
        return TooManyConnections(f"{most} connections are open already, the limit (EVENKEEL_MAX_CONNECTIONS)", retry_after_s=1)

    def make_room_for_body(self, newest: ClientConnection) -> None:
        """More is being received than may be. Anyone who has held memory longest gives way; without such, the newest."""
        began_s, oldest = min(((c.began_s, c) for c in self.open if c.is_receiving), key=lambda each: each[0])
        giving_way = oldest if _monotonic() - began_s > OLD_BODY_S else newest
        many = "too many large requests are being received at once (EVENKEEL_QUEUE_MB)"
        giving_way.refuse(TooManyArriving(many, retry_after_s=1))

    def make_room_for_answer(self, size: int) -> None:
        """Answers wait in memory until they are read. When that is too much, those read slowest are given up."""
        self._unread_bytes += size
        if self._unread_bytes <= self.limits.queue_bytes_max:
            return
        waiting = [(c.silence.taking.left_s, n, c) for c in self.open if (n := c.transport.get_write_buffer_size())]
        self._unread_bytes = size + sum(n for _, n, _ in waiting)
        for _, n, connection in sorted(waiting, key=lambda each: each[0]):
            if self._unread_bytes <= self.limits.queue_bytes_max:
                return
            self._unread_bytes -= n
            connection.transport.abort()

    def excuse(self, away_s: float) -> None:
        """For so long nobody listened here, so clients were not silent."""
        for connection in self.open:
            connection.excuse(away_s)

    async def keep_sweeping(self) -> None:
        looked_s = _monotonic()
        while True:
            await asyncio.sleep(BEAT_EVERY_S)
            away_s = _monotonic() - looked_s - BEAT_EVERY_S
            if away_s > AWAY_S:  # the container was paused, or we were: clients could say what they liked
                self.excuse(away_s)
            await self.sweep()
            logline.sink().tell_lost()
            looked_s = _monotonic()

    async def sweep(self) -> None:
        """Close what is idle or has stopped sending. Called about once a second. A look at each of thousands takes a tenth of a
        second, so requests have their turn after some."""
        now_s = _monotonic()
        self.block.count[Front.CONNECTIONS] = len(self.open)
        self.block.value[Front.BEAT_S] = now_s
        self.invocations.trim()
        for number, connection in enumerate(list(self.open), 1):
            if connection in self.open:  # it may have gone in the turns between
                connection.check_silence(now_s)
            if number % SWEPT_A_TURN == 0:
                left_s = _monotonic()
                await asyncio.sleep(0)
                if (away_s := _monotonic() - left_s) > AWAY_S:
                    self.excuse(away_s)
