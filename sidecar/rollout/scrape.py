"""From Prometheus text or a Prometheus server's JSON to a Scrape. The only file here that knows metric names.

What it needs: `evenkeel_requests_total{code}`; what it uses when there: `evenkeel_request_seconds`, `evenkeel_shed_total`,
`evenkeel_restarts_total{reason}`, `evenkeel_ready`, `evenkeel_state{state}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from sidecar.rollout.counters import Key, Scrape
from sidecar.rollout.trouble import BadMetrics

NAMES = (
    "evenkeel_requests_total",
    "evenkeel_request_seconds_bucket",
    "evenkeel_shed_total",
    "evenkeel_restarts_total",
    "evenkeel_ready",
    "evenkeel_state",
)
REQUESTS, SECONDS, SHED, RESTARTS, READY, STATE = NAMES

# The gauge counts engines in each state. A FAILED one is news whatever the others do; one READY engine serves.
TOLD_FIRST = ("FAILED", "READY", "WARMING", "LOADING", "NEW", "DRAINING", "CLOSED")

COUNT_MAX = 2**53  # from there on a float counts no further
LINE_CHARS_MAX = 4096  # a name and its labels; the work of reading a line may grow with its square

K = TypeVar("K", str, float)


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float


def from_text(text: str) -> list[Sample]:
    """The samples of /metrics that matter here. Raises BadMetrics."""
    if max(map(len, text.splitlines()), default=0) > LINE_CHARS_MAX:
        raise BadMetrics(f"this is not Prometheus text: a line of more than {LINE_CHARS_MAX} characters")
    try:
        found = [Sample(s.name, s.labels, s.value) for s in _samples(text) if s.name in NAMES]
    except (ValueError, KeyError, IndexError) as e:
        raise BadMetrics(f"this is not Prometheus text: {str(e) or type(e).__name__}") from e
    if not found:
        raise BadMetrics("there are no evenkeel metrics in it")
    return found


def _samples(text: str) -> Iterator[Any]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


def build(samples: Iterable[Sample], key: Key, at_s: float, model: str = "") -> Scrape:
    """One instance's scrape. Series of several models and versions are added up, or only those of `model`."""
    codes: dict[str, int] = {}
    seconds: dict[float, int] = {}
    restarts: dict[str, int] = {}
    shed, ready, state = 0, None, ""
    for s in samples:
        if model and s.labels.get("model", model) != model:
            continue
        if s.name == REQUESTS:
            _add(codes, s.labels.get("code", ""), s)
        elif s.name == SECONDS:
            _add(seconds, _edge(s), s)
        elif s.name == RESTARTS:
            _add(restarts, f"{s.labels.get('process', '')} {s.labels.get('reason', '')}".strip(), s)
        elif s.name == SHED:
            shed += _count(s)
        elif s.name == READY:
            ready = s.value == 1 and ready is not False
        elif s.name == STATE and s.value >= 1:
            state = min(state or "CLOSED", s.labels.get("state", "").upper(), key=_telling)
    return Scrape(key, at_s, codes, tuple(sorted(seconds.items())), restarts, shed, ready, state)


def _telling(state: str) -> int:
    return TOLD_FIRST.index(state) if state in TOLD_FIRST else len(TOLD_FIRST)


def _add(counts: dict[K, int], name: K, sample: Sample) -> None:
    counts[name] = counts.get(name, 0) + _count(sample)


def _count(s: Sample) -> int:
    if not 0 <= s.value <= COUNT_MAX:  # NaN is not either; an int beyond the range of floats can be compared, not converted
        raise BadMetrics(f"{s.name} is {str(s.value)[:30]}, which no counter can be")
    return round(s.value)


def _edge(s: Sample) -> float:
    try:
        edge = float(s.labels["le"])
    except (KeyError, ValueError) as e:
        raise BadMetrics(f"{s.name} has a bucket without a readable edge") from e
    return edge
