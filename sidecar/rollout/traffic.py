"""What reaches each arm: requests, refusals, the split, silence, and a candidate that takes requests and answers none. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from evenkeel.sidecar.rollout.counters import Delta, Window
from evenkeel.sidecar.rollout.reasons import Finding, RolloutReason
from evenkeel.sidecar.rollout.rule import Arm, Rule
from evenkeel.sidecar.rollout.sample_ratio import NOT_SEEN, SampleRatio

SILENT_S = 30.0
EXPECTED_MIN = 20.0  # requests that a silent arm should have had by now; fewer may stay away by chance
STALLED_S = 45.0


@dataclass(frozen=True, slots=True)
class Signals:
    """Counted, shown, never judged alone: one arm's requests that were refused or wrong themselves."""

    requests: int = 0
    client_errors: int = 0
    shed: int = 0
    seconds: float = 0.0
    silent_s: float = 0.0  # since the last request
    expected: float = 0.0  # in the silence, by the other arm's requests and the share before

    def add(self, deltas: Sequence[Delta], seconds: float, expected: float) -> Signals:
        """A window in which none of the arm answered is a gap, and no silence of the candidate's."""
        if not deltas:
            return self
        requests = sum(d.requests for d in deltas)
        return Signals(
            self.requests + requests,
            self.client_errors + sum(d.client_errors for d in deltas),
            self.shed + sum(d.shed for d in deltas),
            self.seconds + seconds,
            0.0 if requests else self.silent_s + seconds,
            0.0 if requests else self.expected + expected,
        )

    @property
    def is_silent(self) -> bool:
        """It never had a request, or has had none for a time in which it should have had many."""
        return not self.requests or (self.silent_s >= SILENT_S and self.expected >= EXPECTED_MIN)


@dataclass(frozen=True, slots=True)
class Traffic:
    signals: Mapping[Arm, Signals] = field(default_factory=dict)
    split: SampleRatio = NOT_SEEN
    split_known: bool = True
    stage: int = 0
    in_flight: int | None = None  # in the candidate now, where it says so


NO_TRAFFIC = Traffic()


def counted(before: Traffic, window: Window, rule: Rule) -> Traffic:
    arms = [arm for arm in Arm if window.of(arm) or arm in before.signals]
    candidates = [d.in_flight for d in window.of(Arm.CANDIDATE) if d.in_flight is not None]
    same_stage = before if before.stage == window.stage else replace(before, split=NOT_SEEN, stage=window.stage)
    return Traffic(
        signals={a: before.signals.get(a, Signals()).add(window.of(a), window.seconds, _expected(before, window, a, rule))
                 for a in arms},
        split=_split(same_stage.split, window),
        split_known=bool(window.split),
        stage=window.stage,
        in_flight=sum(candidates) if candidates else None,
    )  # fmt: skip


def _expected(before: Traffic, window: Window, arm: Arm, rule: Rule) -> float:
    """Requests of `arm` in this window, by the requests of the other one and the ratio that they had before."""
    other = rule.reference if arm == Arm.CANDIDATE else Arm.CANDIDATE
    ours, theirs = (before.signals.get(a, Signals()).requests for a in (arm, other))
    now = sum(d.requests for d in window.of(other))
    return now * ours / theirs if theirs else 0.0


def _split(split: SampleRatio, window: Window) -> SampleRatio:
    """A window in which somebody of a compared arm is missing, or joined, tells nothing of the shares."""
    weights = dict(window.split)
    arms = {arm.value for arm in weights}
    partial = any(who.partition("/")[0] in arms for who in window.missing)
    if Arm.CANDIDATE not in weights or partial or any(d.joined or d.reset for d in window.deltas):
        return split
    rates = {arm: sum(_rate(d, window.seconds) for d in window.of(arm)) for arm in weights}
    declared = weights[Arm.CANDIDATE] / sum(weights.values())
    return split.add(rates[Arm.CANDIDATE], sum(rates.values()), declared)


def _rate(d: Delta, seconds: float) -> float:
    """Its requests as if its two scrapes had been as far apart as the rounds."""
    return d.requests * seconds / d.seconds if d.seconds > 0 else float(d.requests)


def stalled(traffic: Traffic) -> tuple[Finding, ...]:
    """The candidate answered and does not any more, while requests go on to come. Where it says that it has none in flight,
    none reach it, which is the router's doing."""
    signals = traffic.signals.get(Arm.CANDIDATE, Signals())
    long = signals.silent_s >= STALLED_S and signals.expected >= EXPECTED_MIN
    if not (signals.requests and long) or traffic.in_flight == 0:
        return ()
    words = f"no request answered for {signals.silent_s:.0f} s, about {signals.expected:.0f} were due"
    return (Finding(RolloutReason.CANDIDATE_STALLED, Arm.CANDIDATE.value, words),)
