"""Invocations on a bench: an event loop stepped by hand, a manual clock, callers that remember what they were told."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from evenkeel.serve.contract import engine_ends
from evenkeel.serve.contract.engine_ends import Ended
from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.engine.cycle.cycle import Cycle
from evenkeel.serve.engine.cycle.model_cycle import ModelCycle
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.errors import EvenkeelError
from evenkeel.serve.front.http.request_head import Head, Route, build
from evenkeel.serve.front.request.invocation import Invocation
from evenkeel.serve.front.request.invocations import Invocations
from evenkeel.serve.settings import Limits
from tests.support.clock import ManualClock


class Caller:
    """The connection that waits. Fails on the spot when it is answered a second time. `keeps_up`: whether it takes the parts
    of a stream as fast as they come."""

    def __init__(self, keeps_up: Callable[[], bool] = lambda: True) -> None:
        self.body: bytes | None = None
        self.parts: list[bytes] | None = None  # of an answer that comes so
        self.keeps_up = keeps_up
        self.error: EvenkeelError | None = None
        self.extra = b""
        self.start = b""

    @property
    def answered(self) -> bool:
        return self.body is not None or self.error is not None

    def answer(self, invocation: Invocation, start: bytes, body: bytes, extra: bytes = b"") -> None:
        assert not self.answered and self.parts is None, "a request is answered once"
        self.start, self.body, self.extra = start, bytes(body), extra

    def answer_error(self, invocation: Invocation, error: EvenkeelError) -> None:
        assert not self.answered, "a request is answered once"
        self.error = error

    def open_stream(self, invocation: Invocation, content_type: str, extra: bytes) -> None:
        assert not self.answered and self.parts is None, "a request is answered once"
        self.parts = []

    def write_part(self, invocation: Invocation, part: bytes) -> bool:
        assert not self.answered and self.parts is not None, "only an open stream has parts"
        self.parts.append(part)
        return self.keeps_up()

    def end_stream(self, invocation: Invocation) -> None:
        assert not self.answered and self.parts is not None, "only an open stream ends"
        self.body = b"".join(self.parts)

    @property
    def code(self) -> str:
        """`ok`, the error's code, or `waits`."""
        if self.error is not None:
            return self.error.code
        return "waits" if self.body is None else "ok"


def head(content_type: str = "application/json", accept: str = "", **headers: str) -> Head:
    pairs = [(b"content-type", content_type.encode()), (b"content-length", b"1")]
    pairs += [(b"accept", accept.encode())] if accept else []
    pairs += [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return build(Route.INVOKE, b"POST", dict(pairs), True, None)


class EnginePlace:
    """One engine place: the listening socket that the supervisor keeps, and the Cycle behind it, if it lives."""

    def __init__(self, bench: FrontBench, number: int, make: Callable[[], Replica]) -> None:
        self.bench, self.number, self._make = bench, number, make
        self.path = str(Path(bench.folder.name) / f"engine-{number}")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(16)
        self.epoch = 0
        self.cycle: Cycle | None = None

    def start(self) -> Cycle:
        self.epoch += 1
        block = self.bench.page.engine(self.number)
        self.cycle = Cycle(self.listener.dup(), block, self.epoch, self.bench.clock)
        self.cycle.add(self._make())
        return self.cycle

    def crash(self, ended: Ended | None = Ended.BY_ITSELF) -> None:
        """As the kernel does it when the process dies: every socket closes, nothing else is said. `ended`: what the supervisor
        says of it; None: nothing yet."""
        cycle, self.cycle = self.cycle, None
        assert cycle is not None, "only a living engine crashes"
        if ended is not None:
            self.tell(ended)
        cycle._peers.close()
        cycle._peers._listener.close()

    def fall_silent(self) -> None:
        """From this moment on nothing more is said, though the turn goes on to its end."""
        assert self.cycle is not None, "only a living engine crashes"
        for peer in self.cycle._peers._by_fd.values():
            peer.channel.sock.shutdown(socket.SHUT_WR)

    def take(self) -> None:
        """What lies in the sockets is read and queued, and nothing runs."""
        assert self.cycle is not None, "only a living engine takes anything"
        for peer, records in self.cycle._peers.receive(0):
            self.cycle._take(peer, records)

    @property
    def model(self) -> ModelCycle:
        """The one that a living engine has."""
        assert self.cycle is not None, "only a living engine has one"
        (model,) = self.cycle.models.all
        return model

    def tell(self, ended: Ended) -> None:
        """As the supervisor does it before it starts the next engine."""
        engine_ends.write(self.bench.page.engine(self.number), self.epoch, ended)

    def leave(self) -> None:
        """Told to finish what it has accepted, as by SIGTERM."""
        if self.cycle is not None:
            self.cycle.closing = True

    def turn(self) -> None:
        cycle = self.cycle
        if cycle is None:
            return
        if not cycle.closing:
            cycle.turn(0)
        elif not cycle.idle:
            cycle.last_turn(0)
        else:
            self.cycle = None
            cycle.close()
            cycle._peers._listener.close()


class FrontBench:
    """`with FrontBench(make_replica) as bench: caller = bench.ask(...); bench.settle(); caller.code`."""

    def __init__(
        self, *replicas: Callable[[], Replica], limits: Limits | None = None, started: bool = True, access_log: float = 0.0
    ) -> None:
        self.access_log = access_log
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.page = StatusPage.create()
        self.fronts_made = 0
        self.limits = limits or Limits()
        self.loop = asyncio.new_event_loop()
        self.engines = [EnginePlace(self, i, make) for i, make in enumerate(replicas)]
        self.errors: list[dict[str, object]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.front = self.loop.run_until_complete(self._make())
        if started:
            for engine in self.engines:
                engine.start()
            self.settle()

    async def _make(self) -> Invocations:
        self.fronts_made += 1  # each process counts its requests from a start of its own
        return Invocations(self.page, 0, [e.path for e in self.engines], self.limits, self.clock, self.fronts_made << 32,
                           access_log=self.access_log)  # fmt: skip

    def kill_front(self) -> None:
        """As the kernel does it: its sockets close. Another worker goes on in its counters; its callers are the test's."""
        for invocation in [
            *self.front.in_flight.pending.values(),
            *(i for i, _ in [*self.front.row_batcher.arrived, *self.front.early.waiting]),
        ]:
            invocation.caller = None
        self.front.close()
        os.close(self.front.slot_writer.arena.fd)
        self.front = self.loop.run_until_complete(self._make())

    def ask(self, body: bytes, the_head: Head | None = None, head_bytes: bytes = b"") -> Caller:
        caller, _ = self.begin(body, the_head, head_bytes)
        return caller

    def begin(self, body: bytes, the_head: Head | None = None, head_bytes: bytes = b"") -> tuple[Caller, Invocation]:
        caller = Caller()
        invocation = Invocation(caller, the_head or head(), head_bytes)
        self.begin_alone(invocation, body)
        return caller, invocation

    def begin_alone(self, invocation: Invocation, body: bytes) -> None:
        """The general way of any request, now."""
        self.front.begin(invocation, body, self.front.engines.serving)

    def arrive(self, body: bytes, the_head: Head | None = None, head_bytes: bytes = b"") -> tuple[Caller, Invocation]:
        """As the hot path brings it: begun at the end of this turn of the event loop."""
        caller = Caller()
        invocation = Invocation(caller, the_head or head(), head_bytes)
        self.front.row_batcher.arrive(invocation, body)
        return caller, invocation

    def step_front(self) -> None:
        """One turn of the event loop: what is readable is read, what was called soon is called."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def settle(self, times: int = 5) -> None:
        """Let records go to and fro until both sides have said everything."""
        for _ in range(times):
            self.step_front()
            self.step_front()
            for engine in self.engines:
                engine.turn()
        self.step_front()

    def assert_clean(self) -> None:
        """Nothing in flight, no slot held, nothing queued, on either side; and no callback of the loop has failed."""
        assert self.errors == []
        assert (
            self.front.idle
            and not self.front.in_flight.rows
            and not self.front.in_flight.rows_left
            and not self.front.failover.held
        )
        assert self.front.in_flight.beyond == 0 and all(link.beyond == 0 for link in self.front.engines.links)
        assert all(link.rows == 0 for link in self.front.engines.links)
        for engine in self.engines:
            if engine.cycle is not None:
                for model in engine.cycle.models.all:
                    pending = model.queue.pending
                    assert len(pending) == 0 and pending.rows == 0 and pending.oldest() is None
                    assert not model.replies._parts and (model.streams is None or not model.streams.open)

    def __enter__(self) -> FrontBench:
        return self

    def __exit__(self, *_: object) -> None:
        self.front.close()
        for engine in self.engines:
            if engine.cycle is not None:
                engine.crash()
            engine.listener.close()
        self.loop.close()
        self.folder.cleanup()
        os.close(self.front.slot_writer.arena.fd)
        os.close(self.page.fd)


def codes(callers: Sequence[Caller]) -> list[str]:
    return [c.code for c in callers]
