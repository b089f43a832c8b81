"""The grammar of EVENKEEL_FAULTS: which faults a model shall have on purpose, and in which of its batches. Pure.

    faults  = fault (";" fault)*
    fault   = KIND ":" part ("," part)*
    part    = "every=" N | "at=" N | "rate=" P | "ms=" N

Exactly one of every, at and rate says when: each Nth batch, the Nth batch alone, or each batch with probability P.
Batches are counted from 1 in each life of an engine. Only `slow` has ms, and it must.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

KINDS = {
    "crash": "the engine process ends by SIGSEGV, as by a fault in native code",
    "hang": "the batch never ends",
    "slow": "the batch takes `ms` longer",
    "oom": "the model raises MemoryError",
    "nan": "the first row of every floating-point output is NaN",
}
WHEN = ("every", "at", "rate")
NTH_MAX = 10**9
MS_MAX = 3_600_000
FAULTS_MAX = 16
TEXT_CHARS_MAX = 1000


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One of `every`, `at` and `rate` is set, the others are 0."""

    kind: str
    every: int = 0
    at: int = 0
    rate: float = 0.0
    ms: int = 0

    def due(self, batch: int, chance: float) -> bool:
        """Whether it happens in this batch, the first being 1. `chance` lies in [0, 1)."""
        if self.every:
            return batch % self.every == 0
        return batch == self.at if self.at else chance < self.rate


def parse(text: str) -> tuple[PlannedFault, ...]:
    """Raises ValueError that says which part is wrong and what it must be."""
    if len(text) > TEXT_CHARS_MAX:
        raise ValueError(f"must be at most {TEXT_CHARS_MAX} characters long")
    words = [word.strip() for word in text.split(";")]
    if len(words) > FAULTS_MAX:
        raise ValueError(f"must hold at most {FAULTS_MAX} faults, not {len(words)}")
    return tuple(_fault(word) for word in words) if text.strip() else ()


def _fault(word: str) -> PlannedFault:
    kind, _, rest = word.partition(":")
    kind = kind.strip()
    if kind not in KINDS:
        raise ValueError(f"must name a fault of {', '.join(KINDS)}, not {kind!r}: for example crash:every=100")
    parts: dict[str, float] = {}
    for part in rest.split(",") if rest.strip() else ():
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name in parts:
            raise ValueError(f"must say {name} once in {word!r}")
        parts[name] = _number(name, value, word)
    if len([name for name in WHEN if name in parts]) != 1:
        raise ValueError(f"must say one of every=N, at=N and rate=P in {word!r}")
    if (kind == "slow") != ("ms" in parts):
        raise ValueError(f"must say ms=N for slow, and for nothing else: {word!r}")
    return PlannedFault(
        kind, int(parts.get("every", 0)), int(parts.get("at", 0)), parts.get("rate", 0.0), int(parts.get("ms", 0))
    )


def _number(name: str, value: str, word: str) -> float:
    if name == "rate":
        try:
            rate = float(value)
        except ValueError:
            rate = math.nan
        if not 0 < rate <= 1:
            raise ValueError(f"must have a rate above 0 and up to 1 in {word!r}")
        return rate
    if name not in ("every", "at", "ms"):
        raise ValueError(f"must have only every, at, rate and ms after a colon, not {name!r} in {word!r}")
    most = MS_MAX if name == "ms" else NTH_MAX
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= most):
        raise ValueError(f"must have a whole number from 1 to {most} for {name} in {word!r}")
    return int(value)
