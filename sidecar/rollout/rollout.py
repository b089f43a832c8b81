"""One rollout being judged: takes rounds of scrapes, gives the decision record at any time. No clock: the caller brings it.

Owns the last round, the windows and the state. Not thread safe: one caller feeds it and reads it. `memory` and the windows
are all that another process needs to go on from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from evenkeel.sidecar.rollout import decide, latency_edges, replay, window_step
from evenkeel.sidecar.rollout.counters import Delta, Edges, Key, Scrape, Window, at_or_below, delta, floors, total
from evenkeel.sidecar.rollout.decision_record import record
from evenkeel.sidecar.rollout.evidence_series import EvidenceSeries
from evenkeel.sidecar.rollout.guards import LEAVING
from evenkeel.sidecar.rollout.judge_errors import BadRule
from evenkeel.sidecar.rollout.judged import Decision, Judged
from evenkeel.sidecar.rollout.reasons import RolloutVerdict
from evenkeel.sidecar.rollout.rule import Arm, Rule

# Requests, or answers timed, of one instance in one window. No process serves so many: who says so is not believed, and the
# statistics need not count to 10**300.
PLAUSIBLE_MAX = 10**8
EVEN: Mapping[Arm, float] = {Arm.BASELINE: 1.0, Arm.CANDIDATE: 1.0}


class Record:
    """The decision at one moment and all that led to it."""

    def __init__(self, decision: Decision, data: dict[str, Any]) -> None:
        self.verdict = decision.verdict
        self.findings = decision.findings
        self.final = decision.final
        self._data = data

    def to_json(self) -> dict[str, Any]:
        return self._data


@dataclass(frozen=True, slots=True)
class RolloutMemory:
    """What the windows do not tell: the raw counters of the last round, and what is being gathered to choose edges from."""

    head: dict[str, Any]
    scrapes: tuple[dict[str, Any], ...]


class Rollout:
    """`split` holds the intended weights of the arms; None means even between baseline and candidate when that is compared."""

    def __init__(self, rule: Rule, split: Mapping[Arm, float] | None = None) -> None:
        self.rule = rule
        self.windows: list[Window] = []
        self.state = Judged()
        self.trail = EvidenceSeries()
        self.verdict, self.verdict_since_s = RolloutVerdict.HOLD, 0.0  # seconds after the first round
        self._stage = 0
        self._split = _checked(EVEN if split is None and rule.reference == Arm.BASELINE else split or {})
        self._edges = Edges(tuple(sorted(rule.edges)) if rule.latency else ())
        self._ladder: tuple[float, ...] = ()  # the finite edges of the reference's histogram
        self._answers: dict[float, int] = {}  # plain counts by upper edge, of the arm that edges are chosen from
        self._last: dict[Key, Scrape] = {}
        self._last_s: float | None = None

    def next_stage(self, split: Mapping[Arm, float]) -> None:
        """More traffic to the candidate from the next window on. Evidence is kept, the stage's floors begin anew."""
        self._split = _checked(split)
        self._stage += 1

    def observe(
        self, at_s: float, scrapes: Sequence[Scrape], missing: Sequence[Key] = (), unread: Collection[Key] = ()
    ) -> Window | None:
        """One round of scrapes of all instances at about one time. Returns the window that it closed, None for the first.

        Who was there in the last round and is not here now is missing, as are those named in `missing`. `unread` are those of
        them that answered what cannot be used. A round is taken in
        as a whole: when this raises, nothing has changed, and the next round's window covers its time too.
        """
        assert self._last_s is None or at_s >= self._last_s, "rounds come in order of time"
        plausible = {s.key: s for s in scrapes if self._is_plausible(s)}
        unbelieved = [s.key for s in scrapes if s.key not in plausible]
        missing, unread = (*missing, *unbelieved), {*unread, *unbelieved}
        absent = sorted(k for k in (set(self._last) | set(missing)) - set(plausible) if self._is_missed(k))
        window = None
        if self._last_s is not None:
            window = self._window(self._last_s, at_s, plausible, absent, unread)
            answers = self._answers_after(plausible)
            chosen = self._edges_after(answers)
            self._step(window)
            self._answers, self._edges = answers, chosen
        if not self._ladder:
            self._read_ladder(plausible)
        # The last scrape of a missing instance is kept, so that its restart is seen when it comes back.
        self._last = {**self._last, **plausible}
        self._last_s = at_s
        return window

    def _step(self, window: Window) -> None:
        state = window_step.step(self.rule, self.state, window)
        verdict = decide.decide(self.rule, state).verdict
        self.trail.add(self.rule, state.metrics, state.elapsed_s)
        self.state = state
        self.windows.append(window)
        if verdict != self.verdict:
            self.verdict, self.verdict_since_s = verdict, self.state.elapsed_s

    def _is_plausible(self, s: Scrape) -> bool:
        did = self._delta(s)
        return max(did.requests, did.timed, did.restarts, did.shed) <= PLAUSIBLE_MAX

    def _is_missed(self, key: Key) -> bool:
        """Production beside a baseline may come and go; of the rest only what left on purpose, and is no candidate."""
        if key.arm == Arm.PRODUCTION and self.rule.reference != Arm.PRODUCTION:
            return False
        last = self._last.get(key)
        return key.arm == Arm.CANDIDATE or last is None or last.state not in LEAVING

    def _window(
        self, start_s: float, end_s: float, scrapes_of: Mapping[Key, Scrape], absent: Sequence[Key], unread: Collection[Key]
    ) -> Window:
        deltas = [self._delta(s) for _, s in sorted(scrapes_of.items())]
        split = tuple(sorted(self._split.items()))
        return Window(
            start_s, end_s, self._stage, split, self._edges.judged, tuple(deltas), tuple(str(k) for k in absent),
            tuple(str(k) for k in absent if k in unread), self._edges.far, self._edges.objectives,
        )  # fmt: skip

    def _delta(self, s: Scrape) -> Delta:
        before = self._last.get(s.key)
        if before is not None:
            return delta(before, s, self._edges)
        # What a newcomer did before its first scrape belongs to no window.
        slower, missed = (0,) * len(self._edges.judged), (0,) * len(self._edges.objectives)
        return Delta(s.key.arm, s.key.name, slower=slower, missed=missed, ready=s.ready, state=s.state, faults=s.faults,
                     joined=True)  # fmt: skip

    def _read_ladder(self, scrapes_of: Mapping[Key, Scrape]) -> None:
        """The edges that there are are known before the first window; which of them are judged may take longer."""
        for key, scrape in sorted(scrapes_of.items()):
            if key.arm == self.rule.reference and scrape.seconds and not self._ladder:
                self._ladder = tuple(edge for edge, _ in scrape.seconds if isfinite(edge))
        self._edges = self._with(self._edges.judged, self._edges.far)

    def _with(self, judged: tuple[float, ...], far: float) -> Edges:
        wanted = [o.edge_s for o in self.rule.slo if o.edge_s]
        objectives = tuple(latency_edges.at_or_above(self._ladder, edge) for edge in wanted)
        known = self._ladder
        return Edges(judged, far, objectives, floors(known, judged) if known else (), floors(known, objectives) if known else ())

    def _answers_after(self, scrapes_of: Mapping[Key, Scrape]) -> dict[float, int]:
        """Those to choose edges from, with this round's; as they are once edges have been chosen."""
        if self._edges.far or not self.rule.latency:
            return self._answers
        answers = dict(self._answers)
        arm = Arm.PRODUCTION if any(k.arm == Arm.PRODUCTION for k in scrapes_of) else self.rule.reference
        for key, scrape in scrapes_of.items():
            if key.arm == arm and key in self._last:
                for edge, n in _answers(self._last[key], scrape).items():
                    answers[edge] = answers.get(edge, 0) + n
        return answers

    def _edges_after(self, answers: Mapping[float, int]) -> Edges:
        enough = sum(answers.values()) >= self.rule.edge_requests_min
        if not self.rule.latency or self._edges.far or not enough or (self._edges.judged and not self.rule.edges):
            return self._edges
        judged = self._edges.judged or latency_edges.choose(answers, self.rule.objective_s)
        return self._with(judged, latency_edges.far(answers, self._ladder))

    # ---- going on in another process -----------------------------------------------------------------------------------

    def memory(self) -> RolloutMemory:
        split = {arm.value: weight for arm, weight in self._split.items()}
        edges_of = [[edge, n] for edge, n in self._answers.items() if isfinite(edge)]
        edges = {"edges": list(self._edges.judged), "far_edge": self._edges.far, "ladder": list(self._ladder)}
        head = {"windows": len(self.windows), "stage": self._stage, "split": split, **edges, "answers": edges_of,
                "above": self._answers.get(inf, 0), "last_s": self._last_s}  # fmt: skip
        return RolloutMemory(head, tuple(s.to_json() for s in self._last.values()))

    @staticmethod
    def resumed(rule: Rule, windows: Sequence[Window], memory: RolloutMemory) -> Rollout:
        """As it was. Counters only grow, so the next round loses nothing: its window is longer. Raises ValueError, KeyError or
        TypeError when the memory cannot be read."""
        head = memory.head
        if head["windows"] != len(windows):
            raise ValueError(f"{len(windows)} windows, {head['windows']} expected")
        rollout = Rollout(rule, {Arm(arm): float(weight) for arm, weight in head["split"].items()})
        for window in windows:
            rollout._step(window)
        rollout._stage, rollout._ladder = int(head["stage"]), tuple(map(float, head["ladder"]))
        rollout._edges = rollout._with(tuple(map(float, head["edges"])), float(head["far_edge"]))
        rollout._answers = {float(edge): int(n) for edge, n in head["answers"]}
        if head["above"]:
            rollout._answers[inf] = int(head["above"])
        rollout._last = {s.key: s for s in map(Scrape.from_json, memory.scrapes)}
        rollout._last_s = None if head["last_s"] is None else float(head["last_s"])
        return rollout

    def decision(self) -> Record:
        decision = decide.decide(self.rule, self.state)
        return Record(decision, record(self.rule, self.state, decision))

    def log(self) -> list[str]:
        """The replay log's lines: from them anyone can compute the verdict again."""
        return replay.write(self.rule, self.windows, self.decision().to_json())


def _checked(split: Mapping[Arm, float]) -> dict[Arm, float]:
    if split and (Arm.CANDIDATE not in split or len(split) < 2 or min(split.values()) <= 0):
        raise BadRule("a split names the candidate and another arm, with positive weights")
    return dict(split)


def _answers(before: Scrape, after: Scrape) -> dict[float, int]:
    """New observations by upper edge; none when the counters began anew."""
    if total(after.seconds) < total(before.seconds):
        return {}
    cumulative = [(edge, n - at_or_below(before.seconds, edge)) for edge, n in after.seconds]
    below = [0, *(n for _, n in cumulative)]
    return {edge: n - low for (edge, n), low in zip(cumulative, below, strict=False) if n > low}
