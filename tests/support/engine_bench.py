"""A Cycle on a bench: real socket, real arena, a manual clock, and the front's end in the hands of the test."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.engine.cycle.cycle import Cycle
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.errors import FAMILIES
from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.arena import Arena, read_spill
from evenkeel.serve.transport.channel import Channel
from evenkeel.serve.transport.descriptor import FINITE, OVERFLOW, PROTOCOL, REPLY, REQUEST, Reply, model_ref
from evenkeel.serve.transport.slots import Slot, Slots
from evenkeel.serve.transport.whole_body import start_of_body
from tests.support.clock import ManualClock

SMALL = ((1 << 10, 256), (1 << 16, 32), (1 << 20, 4))
SMALL_BYTES = sum(size * count for size, count in SMALL)


@dataclass
class Answer:
    arrays: list[Any]
    finite: bool
    spilled: bool
    raw: bytes


@dataclass
class Fault:
    code: str
    message: str


class FrontEnd:
    """What a front does, by hand. Replies are read with `replies`, each slot is released as its reply comes."""

    def __init__(self, bench: Bench, slot_bytes: int = 0) -> None:
        self.bench = bench
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(bench.path)
        self.channel = Channel(self.sock, lambda channel, waits: None)
        self.arena = Arena.create(SMALL_BYTES)
        self.slots = Slots(SMALL)
        self.held: dict[int, Slot] = {}
        self.asked: dict[int, int] = {}  # how each request named its model
        self.slot_bytes = slot_bytes  # least size of a slot; more makes room for larger answers
        self._next_id = bench.next_front() << 32  # as fronts do: ids are unique among all of them
        hello = REQUEST.pack(descriptor.HELLO, PROTOCOL, 0, 0, 0, SMALL_BYTES, 0, 0, 0.0)
        self.channel.send_with(hello, self.arena.fd, gives=False)
        bench.turn()
        greeting = self.channel.receive()
        first = Reply(*REPLY.unpack_from(greeting))
        assert first.kind == descriptor.HELLO
        card_fd = self.channel.fds.popleft()
        self.info = json.loads(read_spill(card_fd, first.bytes))
        self.epoch = self.info["epoch"]
        self.refs = [model_ref(model["number"], model["revision"]) for model in self.info["models"]]
        self.ref = self.refs[0] if self.refs else 0
        os.close(card_fd)

    def submit(self, *arrays: Any, within_s: float = 60.0) -> int:
        """Put the arrays into a slot and send the record. Returns the request's id."""
        (id,) = self.submit_all([arrays], within_s)
        return id

    def submit_all(self, requests: Sequence[Sequence[Any]], within_s: float | Sequence[float] = 60.0) -> list[int]:
        """Several requests whose records arrive together, in one message."""
        spans = [within_s] * len(requests) if isinstance(within_s, float | int) else within_s
        ids, records = [], b""
        for arrays, span in zip(requests, spans, strict=True):
            id, record = self._place(*arrays, within_s=span)
            ids.append(id)
            records += record
        self.channel.send(records)
        return ids

    def _place(self, *arrays: Any, within_s: float) -> tuple[int, bytes]:
        layout = self.bench.replica.inputs
        assert layout is not None
        made = [np.asarray(a, t) for a, t in zip(arrays, layout.dtypes, strict=True)]
        count = len(made[0]) if layout.rows_axis else 1
        slot = self.claim(layout.bytes_of(made, count) + 64)
        used = layout.pack(made, self.arena.memory, slot.offset)
        return self._record(slot, used, count, within_s)

    def submit_raw(self, body: bytes, **meta: Any) -> int:
        data = start_of_body(**{"content_type": "", "accept": "", "headers": None, "request_id": "r", **meta}) + body
        slot = self.claim(len(data))
        self.arena.memory[slot.offset : slot.offset + len(data)] = data
        id, record = self._record(slot, len(data), 1, 60.0)
        self.channel.send(record)
        return id

    def claim(self, size: int) -> Slot:
        slot = self.slots.claim(max(size, self.slot_bytes))
        assert slot is not None, "the test holds too much"
        return slot

    def _record(self, slot: Slot, used: int, rows: int, within_s: float) -> tuple[int, bytes]:
        self._next_id += 1
        self.held[self._next_id], self.asked[self._next_id] = slot, self.ref
        now_s = self.bench.clock()
        return self._next_id, REQUEST.pack(
            descriptor.SUBMIT, 0, rows, self._next_id, slot.offset, slot.capacity, used, self.ref, now_s + within_s
        )

    def cancel(self, id: int) -> None:
        self.channel.send(REQUEST.pack(descriptor.CANCEL, 0, 0, id, 0, 0, 0, self.ref, 0.0))

    def replies(self) -> dict[int, Answer | Fault]:
        """Everything that has been answered since the last call; fails when a request is answered twice."""
        found: dict[int, Answer | Fault] = {}
        while data := self.channel.receive():
            for record in REPLY.iter_unpack(data):
                reply = Reply(*record)
                if reply.kind == descriptor.MODELS:
                    self._hear(reply.bytes)
                    continue
                if reply.kind == descriptor.PART:  # of an answer in parts, whose end is a reply like others
                    self.channel.send(REQUEST.pack(descriptor.MORE, 0, 1, reply.id, 0, 0, 0, self.ref, 0.0))
                    continue
                assert reply.model == self.asked[reply.id], "a reply names the model of its request"
                slot = self.held.pop(reply.id, None)
                assert slot is not None, f"request {reply.id} was answered twice"
                found[reply.id] = self._read(reply)
                self.slots.release(slot)
        return found

    def _hear(self, size: int) -> None:
        """Of models that came or went."""
        fd = self.channel.fds.popleft()
        news = json.loads(read_spill(fd, size))
        os.close(fd)
        added = [model_ref(model["number"], model["revision"]) for model in news["added"]]
        self.refs = [ref for ref in [*self.refs, *added] if ref not in news["removed"]]

    def _read(self, reply: Reply) -> Answer | Fault:
        memory, at, spilled = self.arena.memory, reply.offset, bool(reply.flags & OVERFLOW)
        if spilled:
            fd = self.channel.fds.popleft()
            memory, at = memoryview(read_spill(fd, reply.bytes)), 0
            os.close(fd)
        raw = bytes(memory[at : at + reply.bytes])
        if reply.kind == descriptor.FAULT:
            return Fault(FAMILIES[reply.family].code, raw.decode())
        layout = self.bench.replica.outputs
        arrays = [np.array(a) for a in layout.unpack(memory, at, reply.rows)] if layout is not None else []
        return Answer(arrays, bool(reply.flags & FINITE), spilled, raw)

    def close(self) -> None:
        self.channel.close()
        os.close(self.arena.fd)


class Bench:
    """The engine's side. `with Bench(replica) as bench: front = bench.front(); ...; bench.turn()`."""

    def __init__(self, replica: Replica, epoch: int = 1, clock: ManualClock | None = None) -> None:
        self.replica = replica
        self.clock = clock or ManualClock()
        self.page = StatusPage.create()
        self.block = self.page.engine(0)
        self._folder = tempfile.TemporaryDirectory()
        self.path = str(Path(self._folder.name) / "e")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.cycle = Cycle(self.listener, self.block, epoch, self.clock)
        self.model = self.cycle.add(replica)
        self._fronts: list[FrontEnd] = []

    def next_front(self) -> int:
        return len(self._fronts) + 1

    def front(self, slot_bytes: int = 0) -> FrontEnd:
        front = FrontEnd(self, slot_bytes)
        self._fronts.append(front)
        return front

    def turn(self, times: int = 4) -> None:
        """Enough turns for whatever lies in the sockets; never sleeps."""
        for _ in range(times):
            self.cycle.turn(0)

    def take(self) -> None:
        """What lies in the sockets is queued, and nothing runs."""
        for peer, records in self.cycle._peers.receive(0):
            self.cycle._take(peer, records)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        for front in self._fronts:
            front.close()
        self.cycle._peers.close()
        self.listener.close()
        self._folder.cleanup()
        os.close(self.page.fd)


def only(replies: dict[int, Answer | Fault]) -> Answer | Fault:
    """The one reply there is."""
    assert len(replies) == 1
    return next(iter(replies.values()))


def answer(replies: dict[int, Answer | Fault], id: int) -> Sequence[Any]:
    """The arrays of an answer; fails with the fault's words when it is one."""
    reply = replies[id]
    assert isinstance(reply, Answer), reply
    return reply.arrays
