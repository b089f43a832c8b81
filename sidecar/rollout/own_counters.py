"""From one instance's samples to the counts of the user's own metrics. Pure.

A metric whose whole is not there, or whose histogram lacks the edge, is not measured: None, which holds, and never a zero. Events
that are not there yet are none so far, since a counter with labels begins with its first event; whether anybody names them at all
is kept beside the count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from evenkeel.sidecar.rollout.judge_errors import BadMetrics
from evenkeel.sidecar.rollout.metrics_text import NUMBER, NUMBER_CHARS_MAX, ParsedSample
from evenkeel.sidecar.rollout.own_metrics import OwnMetric, SeriesSelector

COUNT_MAX = 2**53  # from there on a float counts no further


@dataclass(frozen=True, slots=True)
class OwnCount:
    whole: int
    events: int
    is_named: bool = True  # the events' metric is there, with whatever labels


OwnCounts = tuple[OwnCount | None, ...]


def from_json(data: Iterable[Mapping[str, Any] | None]) -> OwnCounts:
    return tuple(None if c is None else OwnCount(**c) for c in data)


def names(metrics: Iterable[OwnMetric]) -> frozenset[str]:
    return frozenset().union(*(m.series for m in metrics))


def count(metrics: Sequence[OwnMetric], samples: Sequence[ParsedSample]) -> OwnCounts:
    """In the order of the metrics. Raises BadMetrics."""
    return tuple(_above(m, samples) if m.edge else _share(m, samples) for m in metrics)


def _share(m: OwnMetric, samples: Sequence[ParsedSample]) -> OwnCount | None:
    whole, events = _sum(m.out_of, samples), _sum(m.events, samples) or 0
    if whole is None or events > whole:
        return None
    named = any(s.name == e.name for s in samples for e in m.events)
    return OwnCount(whole, whole - events if m.is_rest else events, named)


def _sum(selectors: Sequence[SeriesSelector], samples: Sequence[ParsedSample]) -> int | None:
    values = [_value(s) for s in samples if any(selector.takes(s.name, s.labels) for selector in selectors)]
    return sum(values) if values else None


def _above(m: OwnMetric, samples: Sequence[ParsedSample]) -> OwnCount | None:
    (histogram,) = m.out_of
    buckets = [s for s in samples if s.name == f"{histogram.name}_bucket" and histogram.takes(histogram.name, s.labels)]
    whole = [_value(s) for s in buckets if _edge(s) == inf]
    below = [_value(s) for s in buckets if _edge(s) == m.edge]
    if not whole or len(below) != len(whole):
        return None
    if sum(below) > sum(whole):
        raise BadMetrics(f"the histogram of {m.name} falls from one edge to the next")
    return OwnCount(sum(whole), sum(whole) - sum(below))


def _edge(s: ParsedSample) -> float:
    le = s.labels.get("le", "")
    return float(le) if len(le) <= NUMBER_CHARS_MAX and NUMBER.fullmatch(le) else 0.0


def _value(s: ParsedSample) -> int:
    if not 0 <= s.value <= COUNT_MAX:
        raise BadMetrics(f"{s.name} is negative, not finite or beyond {COUNT_MAX}, which no counter can be")
    return round(s.value)


def grown(before: OwnCounts, after: OwnCounts, *, reset: bool) -> OwnCounts:
    """What came between two scrapes. Counters that fell without a restart tell nothing of this window."""
    if reset or not after:
        return after
    if len(before) != len(after):
        return (None,) * len(after)
    return tuple(_grown(b, a) for b, a in zip(before, after, strict=True))


def _grown(before: OwnCount | None, after: OwnCount | None) -> OwnCount | None:
    if before is None or after is None:
        return None
    whole, events = after.whole - before.whole, after.events - before.events
    if whole < 0 or events < 0:
        return None
    return OwnCount(whole, min(events, whole), after.is_named)
