"""From raw counters to windows: deltas, restarts, gaps.

A scrape is what one instance said at one moment; a window is what all instances did between two rounds of scrapes. Rates
are never used: a raw counter loses nothing between two looks, and its fall gives a restart away. This file keeps no state;
rollout.py remembers the last round.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from evenkeel.sidecar.rollout import own_counters, strata
from evenkeel.sidecar.rollout.own_counters import OwnCounts
from evenkeel.sidecar.rollout.reasons import RolloutReason
from evenkeel.sidecar.rollout.rule import Arm
from evenkeel.sidecar.rollout.strata import Strata, Stratum, StratumCounters

# A restart whose reason holds one of these words is more than a restart.
FATAL_WORDS = {
    "golden": RolloutReason.GOLDEN_CHECK_FAILED,
    "warm": RolloutReason.WARM_UP_FAILED,
    "memory": RolloutReason.OUT_OF_MEMORY,
    "oom": RolloutReason.OUT_OF_MEMORY,
    "device": RolloutReason.DEVICE_FAULT,
    "xid": RolloutReason.DEVICE_FAULT,
}


RESET_REQUESTS_MIN = 1000  # below this a counter that fell is taken for a restart, however little it fell


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """An instance: its arm and its name."""

    arm: Arm
    name: str

    def __str__(self) -> str:
        return f"{self.arm}/{self.name}"


@dataclass(frozen=True, slots=True)
class Scrape:
    """Raw, ever growing counters of one instance, and what its gauges show."""

    key: Key
    at_s: float
    codes: Mapping[str, int]  # requests by HTTP status
    seconds: tuple[tuple[float, int], ...] = ()  # the latency histogram: (upper edge, count at or below), last edge infinite
    restarts: Mapping[str, int] | None = None  # by reason
    shed: int = 0
    ready: bool | None = None  # None: the instance does not say
    state: str = ""
    faults: tuple[str, ...] = ()  # hard facts learned otherwise, by their names in guards.FAULTS
    in_flight: int | None = None  # requests begun and not answered yet; None: the instance does not say
    own: OwnCounts = ()  # of the rule's own metrics, in their order
    strata: tuple[StratumCounters, ...] = ()  # apart by the rule's label
    rows: int = 0  # that ran

    def to_json(self) -> dict[str, Any]:
        """Edges as text: the last one is infinite, which JSON cannot hold."""
        edges = [[repr(edge), n] for edge, n in self.seconds]
        apart = strata.counters_to_json(self.strata)
        key = [self.key.arm.value, self.key.name]
        return {**asdict(self), "key": key, "seconds": edges, "faults": list(self.faults), "strata": apart}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Scrape:
        arm, name = data["key"]
        seconds = tuple((float(edge), int(n)) for edge, n in data["seconds"])
        own = own_counters.from_json(data.get("own", ()))
        apart = strata.counters_from_json(data.get("strata", ()))
        key, faults = Key(Arm(arm), name), tuple(data["faults"])
        return Scrape(**{**data, "key": key, "seconds": seconds, "faults": faults, "own": own, "strata": apart})


@dataclass(frozen=True, slots=True)
class Delta:
    """What one instance did in one window."""

    arm: Arm
    instance: str
    requests: int = 0  # all of them: what the traffic split gave it
    judged: int = 0  # without 4xx, which are the clients' doing
    errors: int = 0  # 5xx
    timed: int = 0  # observations in the latency histogram
    slower: tuple[int, ...] = ()  # of those, above each of the window's edges
    client_errors: int = 0
    shed: int = 0
    restarts: int = 0
    ready: bool | None = None
    state: str = ""
    faults: tuple[str, ...] = ()
    reset: bool = False  # the counters began anew: what happened between the last look and the restart is lost
    joined: bool = False  # its first scrape: what it did before belongs to no window
    seconds: float = 0.0  # between its own two scrapes; 0: those of the window
    far: int = 0  # of the observations, above the window's far edge
    missed: tuple[int, ...] = ()  # of the observations, above the edge of each latency objective
    in_flight: int | None = None
    other_edges: bool = False  # its histogram lacks an edge that is judged, so its latency cannot be compared
    own: OwnCounts = ()  # of the rule's own metrics
    strata: Strata = ()  # its requests apart by the rule's label; empty where that has one value
    median: float = 0.0  # of its answers, as a bucket edge, at most the last finite one; 0: none were timed
    went_back: bool = False  # its counters fell a little, as no restart does: nothing is known of this window
    left: int = 0  # requests whose client left before the answer (499)
    rows: int = 0  # that ran
    answered: int = 0  # requests with 200, where rows are told

    def to_json(self) -> dict[str, Any]:
        """Without what is at its default: a log of a thousand windows stays readable."""
        fields = asdict(self)
        plain = asdict(Delta(self.arm, self.instance))
        kept = {k: v for k, v in fields.items() if k in ("arm", "instance") or v != plain[k]}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Delta:
        tuples = {k: tuple(v) for k, v in data.items() if k in ("slower", "faults", "missed")}
        own, apart = own_counters.from_json(data.get("own", ())), strata.from_json(data.get("strata", ()))
        return Delta(**{**data, **tuples, "arm": Arm(data["arm"]), "own": own, "strata": apart})


@dataclass(frozen=True, slots=True)
class Window:
    start_s: float
    end_s: float
    stage: int
    split: tuple[tuple[Arm, float], ...]  # intended weights of the arms, empty when unknown
    edges: tuple[float, ...]  # latency edges in force, seconds
    deltas: tuple[Delta, ...]
    missing: tuple[str, ...] = ()  # instances that were expected and did not answer: a gap, not a zero
    unread: tuple[str, ...] = ()  # of those: who answered what cannot be used, which is a gap and not an instance that is gone
    far_edge: float = 0.0  # so far above the reference's answers that a tenfold latency crosses it; 0: none
    slo_edges: tuple[float, ...] = ()  # of the rule's latency objectives, in their order

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    def of(self, arm: Arm) -> tuple[Delta, ...]:
        return tuple(d for d in self.deltas if d.arm == arm)

    def to_json(self) -> dict[str, Any]:
        return {
            "start_s": self.start_s,
            "end_s": self.end_s,
            "stage": self.stage,
            "split": {arm.value: weight for arm, weight in self.split},
            "edges": list(self.edges),
            **({"far_edge": self.far_edge} if self.far_edge else {}),
            **({"slo_edges": list(self.slo_edges)} if self.slo_edges else {}),
            "missing": list(self.missing),
            **({"unread": list(self.unread)} if self.unread else {}),
            "deltas": [d.to_json() for d in self.deltas],
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Window:
        return Window(
            data["start_s"],
            data["end_s"],
            data["stage"],
            tuple((Arm(arm), weight) for arm, weight in data["split"].items()),
            tuple(data["edges"]),
            tuple(Delta.from_json(d) for d in data["deltas"]),
            tuple(data["missing"]),
            tuple(data.get("unread", ())),
            data.get("far_edge", 0.0),
            tuple(data.get("slo_edges", ())),
        )


def grown(before: Mapping[str, int], after: Mapping[str, int], *, reset: bool) -> dict[str, int]:
    return {k: v if reset else v - before.get(k, 0) for k, v in after.items()}


def fell(before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    """A counter never falls; one that did, or is gone, began anew."""
    return any(after.get(k, 0) < v for k, v in before.items())


def at_or_below(seconds: Sequence[tuple[float, int]], edge: float) -> int:
    """The cumulative count at an edge. Where an edge is left out, its bucket was empty, so the one below says the same."""
    place = bisect_right(seconds, edge, key=lambda bucket: bucket[0])
    return seconds[place - 1][1] if place else 0


def total(seconds: Sequence[tuple[float, int]]) -> int:
    return seconds[-1][1] if seconds else 0


def began_anew(before: Scrape, after: Scrape) -> bool:
    """One counter that fell is enough: all of an instance's counters live and end together."""
    edges = sorted({edge for edge, _ in (*before.seconds, *after.seconds)})
    return (
        fell(before.codes, after.codes)
        or fell(before.restarts or {}, after.restarts or {})
        or after.shed < before.shed
        or fell(buckets(before.seconds, edges), buckets(after.seconds, edges))
    )


def buckets(seconds: Sequence[tuple[float, int]], edges: Sequence[float]) -> dict[str, int]:
    """Plain counts: after a restart cumulative ones may all have passed their old values while a bucket has not."""
    below = [0, *(at_or_below(seconds, e) for e in edges)]
    return {repr(e): n - less for e, n, less in zip(edges, below[1:], below, strict=False)}


@dataclass(frozen=True, slots=True)
class Edges:
    """Upper edges of the latency histogram that are counted above, in seconds."""

    judged: tuple[float, ...] = ()
    far: float = 0.0
    objectives: tuple[float, ...] = ()
    floors: tuple[float, ...] = ()  # of the judged ones: the reference's bucket edge at or below each; empty: not known
    objective_floors: tuple[float, ...] = ()  # the same of the objectives


def delta(before: Scrape, after: Scrape, edges: Edges) -> Delta:
    """What an instance did between two scrapes. After a restart the new value is the delta, and says so."""
    assert before.key == after.key, "deltas are taken of one instance"
    reset = began_anew(before, after)
    if reset and _goes_back(before, after):
        return Delta(after.key.arm, after.key.name, slower=(0,) * len(edges.judged), missed=(0,) * len(edges.objectives),
                     ready=after.ready, state=after.state, faults=after.faults, reset=True, went_back=True)  # fmt: skip
    codes = grown(before.codes, after.codes, reset=reset)
    requests = sum(codes.values())
    client_errors = sum(n for code, n in codes.items() if code.startswith("4"))
    restarts = grown(before.restarts or {}, after.restarts or {}, reset=reset)

    def above(edge: float) -> int:
        return _above(after.seconds, edge) - (0 if reset else _above(before.seconds, edge))

    return Delta(
        arm=after.key.arm,
        instance=after.key.name,
        requests=requests,
        judged=requests - client_errors,
        errors=sum(n for code, n in codes.items() if code.startswith("5")),
        timed=total(after.seconds) - (0 if reset else total(before.seconds)),
        slower=tuple(above(e) for e in edges.judged),
        client_errors=client_errors,
        shed=after.shed - (0 if reset else before.shed),
        restarts=sum(restarts.values()) + reset,
        ready=after.ready,
        state=after.state,
        faults=tuple(sorted({*after.faults, *fatal(restarts)})),
        reset=reset,
        seconds=max(0.0, after.at_s - before.at_s),
        far=above(edges.far) if edges.far else 0,
        missed=tuple(above(e) for e in edges.objectives),
        in_flight=after.in_flight,
        other_edges=_lacks(after.seconds, edges),
        own=own_counters.grown(before.own, after.own, reset=reset),
        strata=_strata(before, after, edges, reset=reset) if len(after.strata) > 1 else (),
        median=_median(before.seconds if not reset else (), after.seconds),
        left=codes.get("499", 0),
        rows=max(0, after.rows - (0 if reset else before.rows)),
        answered=codes.get("200", 0) if after.rows else 0,
    )


def _median(before: Sequence[tuple[float, int]], after: Sequence[tuple[float, int]]) -> float:
    new = [(edge, n - at_or_below(before, edge)) for edge, n in after]
    answers = new[-1][1] if new else 0
    last = max((edge for edge, _ in new if edge < inf), default=0.0)
    return next((min(edge, last) for edge, n in new if answers and 2 * n >= answers), 0.0)


def _strata(before: Scrape, after: Scrape, edges: Edges, *, reset: bool) -> Strata:
    known = {} if reset else {s.name: s for s in before.strata}
    return tuple(_stratum(known.get(s.name, StratumCounters(s.name, {})), s, edges) for s in after.strata)


def _stratum(before: StratumCounters, after: StratumCounters, edges: Edges) -> Stratum:
    codes = {code: max(0, n) for code, n in grown(before.codes, after.codes, reset=False).items()}
    requests = sum(codes.values())
    return Stratum(
        after.name,
        requests,
        requests - sum(n for code, n in codes.items() if code.startswith("4")),
        sum(n for code, n in codes.items() if code.startswith("5")),
        max(0, total(after.seconds) - total(before.seconds)),
        tuple(max(0, _above(after.seconds, e) - _above(before.seconds, e)) for e in edges.judged),
    )


def _above(seconds: Sequence[tuple[float, int]], edge: float) -> int:
    return total(seconds) - at_or_below(seconds, edge)


def _goes_back(before: Scrape, after: Scrape) -> bool:
    """A process that began anew has served less than one that ran for long. Counters that fell only a little are somebody's
    mistake, and what they say of the last window cannot be known."""
    was, now = sum(before.codes.values()), sum(after.codes.values())
    return now > RESET_REQUESTS_MIN and now > was / 2


def _lacks(seconds: Sequence[tuple[float, int]], edges: Edges) -> bool:
    """The histogram has other edges than the reference's, so that a judged edge falls into another bucket."""
    own_edges = [edge for edge, _ in seconds]
    known = ((edges.judged, edges.floors), (edges.objectives, edges.objective_floors))
    return bool(own_edges) and any(below and floors(own_edges, above) != below for above, below in known)


def floors(before: Sequence[float], judged: Sequence[float]) -> tuple[float, ...]:
    """Of each judged edge the largest known one that is not above it; 0 where there is none."""
    return tuple(max((edge for edge in before if edge <= e), default=0.0) for e in judged)


def fatal(restarts: Mapping[str, int]) -> set[str]:
    """Hard facts that restarts of this window tell by their reasons."""
    reasons = [reason.lower() for reason, n in restarts.items() if n > 0]
    return {fault.value for word, fault in FATAL_WORDS.items() if any(word in reason for reason in reasons)}
