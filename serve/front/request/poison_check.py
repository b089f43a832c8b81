"""Whether a request is the same as one that ended engines. What is remembered lies on the status page, see
contract/poison_page.py.

The fingerprint is of what the engine would be given: the tensors, or what a handler is told and the whole body. Its sample is of
a few kilobytes, so that a request that is another one is known for that at once, however large; only the same sample costs a
look at all bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from evenkeel.serve.contract import poison_page
from evenkeel.serve.contract.poison_page import REMEMBERED_S, Fingerprint, Poison
from evenkeel.serve.contract.status_page import FRONTS_MAX, StatusPage
from evenkeel.serve.front.request.suspects import poisoned_again
from evenkeel.serve.transport.whole_body import BodyFacts, read_start

if TYPE_CHECKING:
    from hashlib import _Hash

    from evenkeel.serve.front.request.invocation import Invocation

PIECE = 1024  # bytes at the beginning, in the middle and at the end that make the sample
BYTES_MAX = 32 << 20  # larger requests are not remembered: to look at all bytes of one takes 1.2 ms a MiB of the event loop
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"  # of the headers, what a handler answers by; others differ at every try


class Poisons:
    """What this front knows of them. `count`: how many there are; nothing else is looked at while it is 0."""

    def __init__(self, page: StatusPage, place: int, memory: memoryview) -> None:
        self._page, self._place, self._memory = page, place, memory
        self._counts = [page.poisons(front).count for front in range(FRONTS_MAX)]
        self._revision, self._written, self._oldest_s = -1, -1, 0.0
        self._by_sample: dict[int, set[bytes]] = {}
        self.count = 0

    def look(self, revision: int, now_s: float) -> None:
        """Called twenty times a second, and when one is found: what all fronts have found of the version that serves."""
        written = sum(count[0] for count in self._counts)
        aged = self.count > 0 and now_s - self._oldest_s >= REMEMBERED_S
        if written == self._written and revision == self._revision and not aged:
            return
        self._written, self._revision = written, revision
        poisons = poison_page.remembered(self._page, range(FRONTS_MAX), revision, now_s)
        self._by_sample = {}
        for poison in poisons:
            self._by_sample.setdefault(poison.fingerprint.sample, set()).add(poison.fingerprint.digest)
        self.count, self._oldest_s = len(poisons), min((p.found_s for p in poisons), default=0.0)

    def check(self, invocation: Invocation) -> None:
        """Raises PoisonedRequest."""
        if self.count and self.has(invocation):
            raise poisoned_again()

    def has(self, invocation: Invocation) -> bool:
        """Whether one is remembered that is the same as this request, which lies in its slot."""
        if invocation.model.revision != self._revision or invocation.used > BYTES_MAX:
            return False
        data = EngineInput(self._memory, invocation)
        digests = self._by_sample.get(data.sample())
        return digests is not None and data.digest() in digests

    def remember(self, invocation: Invocation, now_s: float) -> None:
        if invocation.used <= BYTES_MAX and not self.has(invocation):
            data = EngineInput(self._memory, invocation)
            revision = invocation.model.revision
            poison_page.write(self._page, self._place, Poison(now_s, revision, Fingerprint(data.sample(), data.digest())))
            self.look(self._revision, now_s)


class EngineInput:
    """What an engine is given of a request: what it is told, and bytes."""

    def __init__(self, memory: memoryview, invocation: Invocation) -> None:
        slot = invocation.slot
        assert slot is not None, "it lies there until it has been answered"
        data = memory[slot.offset : slot.offset + invocation.used]
        description = str(invocation.rows)
        if invocation.model.signature is None:
            facts, _, body_at = read_start(data, 0)
            description, data = _handler_description(facts), data[body_at:]
        self._description, self._data = f"{description}\0{len(data)}\0".encode(), data

    def sample(self) -> int:
        data, made = self._data, hashlib.blake2b(self._description, digest_size=8)
        if len(data) <= 3 * PIECE:
            made.update(data)
        else:
            middle = len(data) // 2
            for piece in (data[:PIECE], data[middle : middle + PIECE], data[-PIECE:]):
                made.update(piece)
        return int.from_bytes(made.digest(), "little")

    def digest(self) -> bytes:
        made: _Hash = hashlib.sha256(self._description)
        made.update(self._data)
        return made.digest()[:16]


def _handler_description(facts: BodyFacts) -> str:
    """Of what a handler may ask, all that is the same when a client tries again."""
    return json.dumps([facts.content_type, facts.accept, facts.headers.get(ATTRIBUTES)])
