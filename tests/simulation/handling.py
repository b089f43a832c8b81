"""A handler for the small world: whole answers and answers in parts, with something to go wrong in each. What a request asks
for stands in its body, so the right answer is known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass

from evenkeel.serve.engine.backends.base import RawReply, RawRequest, RawResult, RawStream

LINES = "application/jsonlines"


@dataclass(frozen=True)
class Wish:
    """`parts` 0: a whole answer. `mark` is met before part `at`; in a whole answer at once."""

    number: int
    parts: int
    size: int
    mark: str = ""
    at: int = 0

    def body(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def wish(number: int, chance: random.Random, spoiled: float) -> Wish:
    parts = chance.choice([0, 0, 1, 2, 5, 30])
    mark = chance.choice(["raises", "crashes"]) if chance.random() < spoiled else ""
    size = chance.choice([1, 10, 500, 20_000]) if parts < 30 else 3000
    return Wish(number, parts, size, mark, chance.randrange(parts) if parts else 0)


def record(wish: Wish, part: int, revision: int) -> bytes:
    return json.dumps([wish.number, part, revision, "x" * wish.size]).encode() + b"\n"


def answer(wish: Wish, revision: int) -> bytes:
    return b"".join(record(wish, i, revision) for i in range(max(1, wish.parts)))


class Handler:
    """`crash` is called with the numbers of those who may have been the cause; it raises, or lets it be."""

    def __init__(self, revision: int, open_parts: set[object], crash: Callable[[list[int]], None]) -> None:
        self._revision, self._open, self._crash = revision, open_parts, crash

    def __call__(self, requests: Sequence[RawRequest]) -> list[RawResult]:
        wishes = [Wish(**json.loads(r.body)) for r in requests]
        if any(w.mark == "crashes" and not w.parts for w in wishes):
            self._crash([w.number for w in wishes])
        return [self._one(w) for w in wishes]

    def _one(self, wish: Wish) -> RawResult:
        if wish.parts:
            return RawStream(self._parts(wish), LINES)
        return ValueError("it says so") if wish.mark == "raises" else RawReply(record(wish, 0, self._revision), LINES)

    def _parts(self, wish: Wish) -> Generator[bytes, None, None]:
        me = object()
        self._open.add(me)
        try:
            for i in range(wish.parts):
                if i == wish.at and wish.mark == "raises":
                    raise ValueError("it says so")
                if i == wish.at and wish.mark == "crashes":
                    self._crash([wish.number])
                yield record(wish, i, self._revision)
        finally:
            self._open.discard(me)
