"""One instance's requests apart by a label, such as route or model: what is compared must be alike. Pure.

Only where a label has at least two values, and not too many: what a client may choose freely is no stratum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STRATA_MAX = 32
NAME_CHARS_MAX = 80


@dataclass(frozen=True, slots=True)
class Stratum:
    """Of one value of the label: counts since the start, or of a window. `slower` as the window's edges are."""

    name: str
    requests: int = 0
    judged: int = 0
    errors: int = 0
    timed: int = 0
    slower: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StratumCounters:
    """As it was scraped."""

    name: str
    codes: Mapping[str, int]
    seconds: tuple[tuple[float, int], ...] = ()  # the cumulative latency histogram


Strata = tuple[Stratum, ...]


def shown_value(value: str) -> str:
    """A label's value as it may be shown: it came from an instance."""
    return "".join(c if c.isprintable() else "?" for c in value[:NAME_CHARS_MAX]) or "(none)"


def counters_from_json(data: Iterable[Mapping[str, Any]]) -> tuple[StratumCounters, ...]:
    return tuple(StratumCounters(s["name"], s["codes"], tuple((float(e), int(n)) for e, n in s["seconds"])) for s in data)


def counters_to_json(strata: Sequence[StratumCounters]) -> list[dict[str, Any]]:
    """Edges as text: the last one is infinite, which JSON cannot hold."""
    return [{"name": s.name, "codes": dict(s.codes), "seconds": [[repr(e), n] for e, n in s.seconds]} for s in strata]


def from_json(data: Iterable[Mapping[str, Any]]) -> Strata:
    return tuple(Stratum(**{**s, "slower": tuple(s["slower"])}) for s in data)
