"""The front's connection to each engine, and what it knows of the model there.

Owner of the channels. The supervisor keeps the listening sockets open while engines come and go, so connecting always
works at once and HELLO is answered as soon as an engine is READY: nothing is polled.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evenkeel.serve.codec import CodecPlan, plan_of
from evenkeel.serve.contract import engine_ends
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.contract.status_page import RUN_EPOCH, Engine, StatusBlock, run_spans
from evenkeel.serve.front.request.suspects import LastRun
from evenkeel.serve.front.routing.model_header import AnswerHeads
from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.arena import Arena, read_spill
from evenkeel.serve.transport.channel import NO_FD, RETRY_S, Channel, ChannelClosed, SendWaits
from evenkeel.serve.transport.descriptor import PROTOCOL, RECORD_BYTES, REPLY, REQUEST, model_ref
from evenkeel.serve.transport.layout import Layout
from evenkeel.serve.transport.slots import LIGHT_SLOT_BYTES_MAX

_BATCHES = int(Engine.BATCHES)
FULL_S = 0.5  # between two greetings when there was no file descriptor to take one
FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # to make a socket
RECONNECT_S = 0.05  # only when the supervisor's own socket refuses: its backlog is full, or it is stopping


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """What an engine said at HELLO. `signature` None: a handler that takes whole bodies."""

    name: str
    version: str
    rows_max: int
    signature: Signature | None
    inputs: Layout
    outputs: Layout
    # The codecs' view of the signature, if rows of the only input have a fixed size, and not a large one: a codec may then hand
    # over a request of one row as its bytes.
    row_plan: CodecPlan | None
    rows_together: bool  # one numeric output whose rows are short lists of one length: many replies are encoded at once
    slot_bytes: int  # room for one row and its answer, when both have a fixed size
    starts: AnswerHeads  # heads of its answers
    counters: StatusBlock  # where its answers are counted
    revision: int = 0  # which loading of the version; one of them takes the traffic
    ref: int = 0  # how records name it, see transport/descriptor.py
    reads_headers: bool = False  # a handler that may ask for them
    warmup_requests: tuple[Mapping[str, str], ...] = ()  # request bodies to warm the whole way with, see front_warmup.py

    @staticmethod
    def from_info(info: dict[str, Any], counters: Callable[[int], StatusBlock]) -> ServedVersion:
        sig = Signature.from_json(info["signature"]) if info["signature"] else None
        inputs = Layout(sig.inputs if sig else (), bool(sig and sig.rows_axis))
        outputs = Layout(sig.outputs if sig else (), bool(sig and sig.rows_axis))
        output = sig.outputs[0] if sig and len(sig.outputs) == 1 else None
        together = bool(sig and sig.rows_axis and output and len(output.dims) == 1 and output.row_bytes)
        together = together and output is not None and output.dtype != "bfloat16" and not output.keys
        plain = sig is not None and sig.rows_axis and inputs.single and outputs.fixed
        room = inputs.row_room + (outputs.row_room if outputs.fixed else inputs.row_room)
        plain, together = plain and room <= LIGHT_SLOT_BYTES_MAX, together and room <= LIGHT_SLOT_BYTES_MAX
        return ServedVersion(
            name=info["name"], version=info["version"], rows_max=info["rows_max"], signature=sig, inputs=inputs, outputs=outputs,
            row_plan=plan_of(sig) if sig and plain else None, rows_together=together, slot_bytes=room,
            starts=AnswerHeads(info["name"], info["version"]), counters=counters(info.get("counters", 0)),
            revision=info["revision"], ref=model_ref(info["number"], info["revision"]),
            reads_headers=info.get("reads_headers", False), warmup_requests=tuple(info.get("warmup_requests", ())))  # fmt: skip

    def takes(self, other: ServedVersion) -> bool:
        """Whether a request that was decoded for the other one can run on this one: the inputs in its slot are the same."""
        signature, decoded_for = self.signature, other.signature
        if signature is None or decoded_for is None:
            return signature is decoded_for
        return signature.inputs == decoded_for.inputs and signature.rows_axis == decoded_for.rows_axis


class ReplyTaker(Protocol):
    def replied(self, link: EngineChannel, records: bytes) -> None: ...


class ChannelOwner(Protocol):
    """Is told when an engine is there, and when it has gone."""

    def greeted(self, link: EngineChannel) -> None: ...

    def lost(self, link: EngineChannel) -> None: ...

    def models_changed(self) -> None:
        """Some came or went in an engine."""


class EngineChannel:
    """One engine place. `greeted`: an engine there is ready. `model`: the one that it was started for; None where
    there are many."""

    def __init__(
        self, path: str, block: StatusBlock, arena: Arena, counters: Callable[[int], StatusBlock], replies: ReplyTaker,
        owner: ChannelOwner,
    ) -> None:  # fmt: skip
        self.path, self.block, self._counters = path, block, counters
        self.greeted = False
        self.model: ServedVersion | None = None
        self.models: dict[int, ServedVersion] = {}  # all that are loaded there, by reference
        self.epoch = 0
        self._batches = 0  # that engines here had answered when this one greeted
        self.turn_rows = 1  # of the largest batch there
        self.rows = 0  # rows submitted here and not yet given back
        self.large = 0  # requests there of more rows than one batch
        self.beyond = 0  # of `rows`, those of large requests beyond one batch each, which nobody waits behind
        self.rows_sure = 0  # up to so many the wait needs no look, see admission.py
        self.heard = False  # whether it has said anything since somebody looked, see self_check.py
        self.mistrusted = False  # it answers nothing: nothing more is sent there
        self._arena = arena
        self._replies, self._owner = replies, owner
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._outbox: list[bytes] = []
        self._closing = False
        self._connect()

    def submit(self, record: bytes, now: bool = False) -> None:
        """Send with everything else of this turn of the event loop: one system call for many requests. `now`: there is nothing
        else."""
        if now and not self._outbox:
            self._send(record)
            return
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(record)

    def send(self, records: list[bytes]) -> None:
        """Send now, behind whatever this turn of the event loop has submitted already."""
        if self._outbox:
            records = [*self._outbox, *records]
            self._outbox.clear()
        if self._channel is not None:
            self._channel.send(b"".join(records))

    def _flush(self) -> None:
        if not self._outbox:  # it went out with what came after it
            return
        records = b"".join(self._outbox)
        self._outbox.clear()
        self._send(records)

    def _send(self, records: bytes) -> None:
        if self._channel is not None:
            self._channel.send(records)

    def _watch(self, channel: Channel, waits: SendWaits) -> None:
        """See to it that what waits in this channel goes out."""
        if waits is SendWaits.PEER:
            self._loop.add_writer(channel.sock.fileno(), channel.flush)
            return
        self._loop.remove_writer(channel.sock.fileno())
        if waits is SendWaits.MACHINE:
            self._loop.call_later(RETRY_S, self._again, channel)

    def _again(self, channel: Channel) -> None:
        if channel is self._channel:
            channel.flush()
            if channel.waits is SendWaits.MACHINE:
                self._loop.call_later(RETRY_S, self._again, channel)

    def _connect(self) -> None:
        if self._closing:
            return
        try:
            sock = connected(self.path)
        except OSError as e:  # nobody listens there; or no descriptor is left, for which a look now and then is enough
            self._loop.call_later(FULL_S if e.errno in FULL else RECONNECT_S, self._connect)
            return
        self._channel = Channel(sock, self._watch)
        self._loop.add_reader(sock.fileno(), self._readable)
        size = len(self._arena.memory)
        hello = REQUEST.pack(descriptor.HELLO, PROTOCOL, 0, 0, 0, size, 0, 0, 0.0)
        self._channel.send_with(hello, self._arena.fd, gives=False)

    def _readable(self) -> None:
        assert self._channel is not None, "the reader is removed with the channel"
        try:
            records = self._channel.receive()
        except ChannelClosed:
            self._lost()
            return
        if not self.greeted and records:
            records = self._greet(records)
        if records:
            self.heard = True
            try:
                self._replies.replied(self, records)
            except Exception as e:  # whose answers were behind it nobody knows: this worker cannot go on
                raise AssertionError("replies of an engine could not be handled") from e

    def look_again(self) -> None:
        """Called now and then. When an engine ends with records unread on its side, the kernel reports an error, and uvloop
        (0.23) then calls the reader once and never again. If replies are read by that call, the end comes to light here."""
        if self.greeted and self._channel is not None:
            self._readable()
        # A process that the engine left behind may have its socket, too: then only the supervisor knows of the end.
        if self.greeted and engine_ends.read(self.block, self.epoch) is not None:
            self._lost()

    def _greet(self, records: bytes) -> bytes:
        """Take HELLO and the model's info, which came with it as a file; returns what follows them."""
        hello = REPLY.unpack_from(records)
        assert hello[0] == descriptor.HELLO and hello[1] == PROTOCOL, "an engine speaks first, and our protocol"
        fd = self.take_fd()
        if fd == NO_FD:
            log("no_greeting", "what an engine says of its model cannot be taken: no file descriptor is left; it is asked again",
                level="warning")  # fmt: skip
            self._drop_channel()
            self._loop.call_later(FULL_S, self._connect)
            return b""
        info = json.loads(read_spill(fd, hello[6]))
        os.close(fd)
        self._replace_models(info["models"])
        self.model, self.greeted = None if info.get("many") else next(iter(self.models.values())), True
        self.epoch, self._batches = info["epoch"], self.block.count[_BATCHES]
        self._owner.greeted(self)
        return records[RECORD_BYTES:]

    def take_news(self, size: int) -> None:
        """Of models that came or went there."""
        fd = self.take_fd()
        if fd == NO_FD:  # everything is asked for as soon as there may be a descriptor for it
            self._loop.call_later(FULL_S, self._send, REQUEST.pack(descriptor.MODELS, 0, 0, 0, 0, 0, 0, 0, 0.0))
            return
        news = json.loads(read_spill(fd, size))
        os.close(fd)
        if "models" in news:
            self._replace_models(news["models"])
        for info in news.get("added", ()):
            self._add_model(info)
        for ref in news.get("removed", ()):
            self.models.pop(ref, None)
        self._owner.models_changed()

    def _replace_models(self, infos: Sequence[dict[str, Any]]) -> None:
        refs = {model_ref(info["number"], info["revision"]) for info in infos}
        self.models = {ref: model for ref, model in self.models.items() if ref in refs}
        for info in infos:
            self._add_model(info)

    def _add_model(self, info: dict[str, Any]) -> None:
        ref = model_ref(info["number"], info["revision"])
        if ref not in self.models:
            model = self.models[ref] = ServedVersion.from_info(info, self._counters)
            self.turn_rows = max(self.turn_rows, model.rows_max)

    def last_run(self, now_s: float) -> LastRun:
        """What the engine that has just been lost ran last."""
        wrote = self.block.count[RUN_EPOCH]
        spans = tuple(run_spans(self.block)) if wrote == self.epoch else () if wrote < self.epoch else None
        return LastRun(self.block, self.epoch, spans, self.block.count[_BATCHES] > self._batches, now_s)

    def take_fd(self) -> int:
        """The descriptor that came with an OVERFLOW reply."""
        assert self._channel is not None, "only replies from a live channel have descriptors"
        return self._channel.fds.popleft()

    def _lost(self) -> None:
        """The engine process has ended: its mapping of the arena is gone, so all slots it held are ours again."""
        self._drop_channel()
        was_up = self.greeted
        was_used = was_up and self.rows > 0  # a version that stood by leaves without a word
        self.model, self.rows, self.large, self.beyond, self.mistrusted = None, 0, 0, 0, False
        self.models, self.greeted = {}, False
        self._outbox.clear()
        if was_used and not self._closing:
            log("engine_lost", "an engine has gone; its requests are run again", epoch=self.epoch)
        self._owner.lost(self)
        if was_up:
            self._connect()
        else:  # it would not have us, or ended while it loaded
            self._loop.call_later(RECONNECT_S, self._connect)

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel.sock.fileno())
            self._loop.remove_writer(self._channel.sock.fileno())
            self._channel.close()
            self._channel = None

    def close(self) -> None:
        self._closing = True
        self._drop_channel()


def connected(path: str) -> socket.socket:
    """A socket that does not block. Raises OSError, and leaves none open then."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock
