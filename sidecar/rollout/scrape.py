"""From samples to a Scrape, or BadMetrics. The only file here that knows our metrics' names. Pure.

What it needs: `evenkeel_requests_total{code}`; what it uses when there: `evenkeel_request_seconds`, `evenkeel_shed_total`,
`evenkeel_restarts_total{reason}`, `evenkeel_ready`, `evenkeel_state{state}`, `evenkeel_in_flight`, `evenkeel_batch_rows_sum`.

What no process of ours could say is refused, so that the rule behind it meets whole numbers, and edges in order that end with an
infinite one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import inf, isinf
from typing import TypeVar

from evenkeel.sidecar.rollout import metrics_text, own_counters
from evenkeel.sidecar.rollout.counters import Key, Scrape
from evenkeel.sidecar.rollout.judge_errors import BadMetrics
from evenkeel.sidecar.rollout.metrics_text import ParsedSample
from evenkeel.sidecar.rollout.own_metrics import OwnMetric
from evenkeel.sidecar.rollout.strata import STRATA_MAX, StratumCounters, shown_value

NAMES = (
    "evenkeel_requests_total",
    "evenkeel_request_seconds_bucket",
    "evenkeel_shed_total",
    "evenkeel_restarts_total",
    "evenkeel_ready",
    "evenkeel_state",
    "evenkeel_in_flight",
    "evenkeel_batch_rows_sum",
)
REQUESTS, SECONDS, SHED, RESTARTS, READY, STATE, IN_FLIGHT, ROWS = NAMES

# The gauge counts engines in each state. A FAILED one is news whatever the others do; one READY engine serves. A state that is
# not among these is passed over: it would be shown.
TOLD_FIRST = ("FAILED", "READY", "WARMING", "LOADING", "NEW", "DRAINING", "CLOSED")

COUNT_MAX = 2**53  # from there on a float counts no further
CODE = re.compile(r"[1-9][0-9][0-9]", re.ASCII)

K = TypeVar("K", str, float)
Series = frozenset[tuple[str, str]]  # the labels of one


def from_text(page: str, own: Sequence[OwnMetric] = ()) -> list[ParsedSample]:
    """The samples of /metrics that matter here. Raises BadMetrics."""
    parsed = metrics_text.samples(page, {*NAMES, *own_counters.names(own)})
    if not any(s.name in NAMES for s in parsed):
        raise BadMetrics("there are no evenkeel metrics in it")
    return parsed


def build(
    samples: Iterable[ParsedSample], key: Key, at_s: float, model: str = "", own: Sequence[OwnMetric] = (), strata: str = ""
) -> Scrape:
    """One instance's scrape. Series of several models and versions are added up, or only those of `model`, and kept apart by the
    label `strata` as well. Raises BadMetrics."""
    codes: dict[str, int] = {}
    restarts: dict[str, int] = {}
    histograms: dict[Series, dict[float, int]] = {}
    seen: set[tuple[str, Series]] = set()
    shed, rows, ready, state = 0, 0, None, ""
    in_flight: int | None = None
    of_model = [s for s in samples if not model or s.labels.get("model", model) == model]
    for s in of_model:
        _only_once(seen, s)
        if s.name == REQUESTS:
            _add(codes, _code(s), s)
        elif s.name == SECONDS:
            _add_bucket(histograms, s)
        elif s.name == RESTARTS:
            _add(restarts, f"{s.labels.get('process', '')} {s.labels.get('reason', '')}".strip(), s)
        elif s.name == SHED:
            shed += _count(s)
        elif s.name == ROWS:
            rows += _count(s)
        elif s.name == READY:
            ready = _yes(s) and ready is not False
        elif s.name == IN_FLIGHT:
            in_flight = (in_flight or 0) + _count(s)
        elif s.name == STATE and _count(s) and (named := s.labels.get("state", "").upper()) in TOLD_FIRST:
            state = min(state or "CLOSED", named, key=TOLD_FIRST.index)
    return Scrape(key, at_s, codes, _cumulative(histograms.values()), restarts, shed, ready, state, in_flight=in_flight,
                  own=own_counters.count(own, of_model), strata=_apart(of_model, strata), rows=rows)  # fmt: skip


def _apart(samples: Sequence[ParsedSample], label: str) -> tuple[StratumCounters, ...]:
    """Requests and latency by the values of a label; nothing where it has too many."""
    codes: dict[str, dict[str, int]] = {}
    histograms: dict[str, dict[Series, dict[float, int]]] = {}
    for s in samples if label else ():
        if label in s.labels and s.name == REQUESTS:
            _add(codes.setdefault(shown_value(s.labels[label]), {}), _code(s), s)
        elif label in s.labels and s.name == SECONDS:
            _add_bucket(histograms.setdefault(shown_value(s.labels[label]), {}), s)
    if len(codes) > STRATA_MAX:
        return ()
    return tuple(StratumCounters(n, codes[n], _cumulative(histograms.get(n, {}).values())) for n in sorted(codes))


def _only_once(seen: set[tuple[str, Series]], s: ParsedSample) -> None:
    series = (s.name, frozenset(s.labels.items()))
    if series in seen:
        raise BadMetrics(f"{s.name} has a series twice")
    seen.add(series)


def _add(counts: dict[K, int], name: K, sample: ParsedSample) -> None:
    counts[name] = counts.get(name, 0) + _count(sample)


def _count(s: ParsedSample) -> int:
    if not 0 <= s.value <= COUNT_MAX:  # NaN is not either
        raise BadMetrics(f"{s.name} is negative, not finite or beyond {COUNT_MAX}, which no counter can be")
    return round(s.value)


def _yes(s: ParsedSample) -> bool:
    if s.value not in (0, 1):
        raise BadMetrics(f"{s.name} is neither 0 nor 1")
    return s.value == 1


def _code(s: ParsedSample) -> str:
    code = s.labels.get("code", "")
    if not CODE.fullmatch(code):
        raise BadMetrics(f"{s.name} has a series whose code is no HTTP status")
    return code


# ---- the latency histogram -----------------------------------------------------------------------------------------------


def _add_bucket(histograms: dict[Series, dict[float, int]], s: ParsedSample) -> None:
    series = frozenset((name, value) for name, value in s.labels.items() if name != "le")
    buckets, edge = histograms.setdefault(series, {}), _edge(s)
    if edge in buckets:
        raise BadMetrics(f"{SECONDS} has an edge twice")
    buckets[edge] = _count(s)


def _edge(s: ParsedSample) -> float:
    """Seconds are positive, and only the last edge is infinite. NaN has no place in any order."""
    le = s.labels.get("le", "")
    edge = float(le) if len(le) <= metrics_text.NUMBER_CHARS_MAX and metrics_text.NUMBER.fullmatch(le) else 0.0
    if not edge > 0:
        raise BadMetrics(f"{SECONDS} has a bucket without a readable edge, which is a positive number")
    return edge


def _cumulative(histograms: Iterable[Mapping[float, int]]) -> tuple[tuple[float, int], ...]:
    """The sum of all series by edge. Each is taken apart first: they need not have the same edges."""
    plain: dict[float, int] = {}
    for buckets in histograms:
        below = 0
        for edge, n in sorted(buckets.items()):
            if n < below:
                raise BadMetrics(f"{SECONDS} falls from one edge to the next")
            plain[edge] = plain.get(edge, 0) + n - below
            below = n
        if inf not in buckets:
            raise BadMetrics(f"{SECONDS} has no infinite edge")
    edges = sorted(plain)
    assert not edges or isinf(edges[-1]), "checked of every series"
    return tuple(zip(edges, accumulate(plain[e] for e in edges), strict=True))
