"""From any body to its slot: decoded here where that is quick, in the thread where it may take over 2 ms.

Owner of nothing. One plain row does not come here, see row_batcher.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.serve.contract.status_page import Front
from evenkeel.serve.errors import BodyTooLarge, TooManyBytes
from evenkeel.serve.front.request.offload import Work

if TYPE_CHECKING:
    from evenkeel.serve.codec import Body, Decoded
    from evenkeel.serve.contract.signature import Signature
    from evenkeel.serve.front.request.invocation import Invocation, RequestPath
    from evenkeel.serve.front.request.offload import Offload
    from evenkeel.serve.front.request.outcomes import Outcomes
    from evenkeel.serve.front.request.slot_writer import SlotWriter
    from evenkeel.serve.front.routing.destination import Destination
    from evenkeel.serve.front.routing.engine_channel import ServedVersion
    from evenkeel.serve.front.routing.router import Router
    from evenkeel.serve.settings import Limits

_IN_BODIES, _IN_TENSORS, _IN_THREAD = int(Front.IN_BODIES), int(Front.IN_TENSORS), int(Front.IN_THREAD)
OFFLOADED_FROM = 1 << 20  # bytes of body that are decoded in the thread without a look at what they are


class BodyDecoder:
    """`path`: where a request goes on whose body was decoded in the thread."""

    def __init__(
        self, slot_writer: SlotWriter, offload: Offload, engines: Router, outcomes: Outcomes, limits: Limits,
        count: memoryview, path: RequestPath,
    ) -> None:  # fmt: skip
        self._slot_writer, self._offload, self._engines = slot_writer, offload, engines
        self._outcomes, self._count, self._path = outcomes, count, path
        self._bytes_max = limits.queue_bytes_max

    def place(self, invocation: Invocation, to: Destination, body: Body, decoded: Decoded | None) -> bool:
        """Its tensors, or its body for a handler, into a slot. False: it is being decoded, and will come back with `decoded`.
        Raises what is wrong with it, and TooManyBytes where there is no room."""
        model, formats = invocation.model, invocation.head.formats
        if model.signature is None:
            self._slot_writer.take_raw(invocation, body, model.reads_headers)
            self._count[_IN_BODIES] += 1
            return True
        if formats.wrong is not None:
            raise formats.wrong
        if decoded is None:
            if len(body) > OFFLOADED_FROM or not formats.decoder.is_quick(body, model.signature):
                self._decode_offloaded(invocation, to, body, model, model.signature)
                return False
            decoded = formats.decoder.decode(body, model.signature, formats.params)
            self._count[_IN_TENSORS] += 1
        else:
            self._count[_IN_THREAD] += 1
        self._slot_writer.take(invocation, model, decoded)
        invocation.beyond = max(0, invocation.rows - model.rows_max)
        return True

    def _decode_offloaded(
        self, invocation: Invocation, to: Destination, body: Body, model: ServedVersion, signature: Signature
    ) -> None:
        """A body of 25 MB takes most of a second, and /ping must not wait for it."""
        if self._offload.bytes > self._bytes_max:
            decoding = f"{self._offload.bytes >> 20} MiB of requests are being decoded already (EVENKEEL_QUEUE_MB)"
            raise self._engines.overloaded(decoding, TooManyBytes)

        def decode() -> Decoded:
            return self._decode(invocation, body, signature)

        def go_on(decoded: Decoded) -> None:  # another version may take the traffic by now
            fits = to.model is None or to.model.takes(model)
            self._path.begin(invocation, body, to, decoded if fits else None)

        self._offload.start(invocation, Work(len(body), decode, go_on, self._outcomes.refuse))

    def _decode(self, invocation: Invocation, body: Body, signature: Signature) -> Decoded:
        """In the thread. What it may take is what is left for requests: one body may become far more than it weighs."""
        formats, room = invocation.head.formats, self._bytes_max - self._slot_writer.slots.held_bytes - self._offload.bytes
        try:
            return formats.decoder.decode(body, signature, formats.params, max(room, 0))
        except BodyTooLarge as error:
            if 0 < error.needed <= self._bytes_max - len(body):  # at another time it would fit
                raise self._engines.overloaded(f"{error.message} that are left (EVENKEEL_QUEUE_MB)", TooManyBytes) from error
            raise
