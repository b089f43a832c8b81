"""The state of a rollout that is judged: everything that the windows so far have left behind. Records only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evenkeel.sidecar.rollout.counters import Key
from evenkeel.sidecar.rollout.evidence import Evidence
from evenkeel.sidecar.rollout.guards import Health
from evenkeel.sidecar.rollout.mix import NO_MIX, Mix
from evenkeel.sidecar.rollout.objectives import ObjectiveEvidence
from evenkeel.sidecar.rollout.outage import Streak
from evenkeel.sidecar.rollout.own_judgement import NOT_YET_SEEN, OwnSeen
from evenkeel.sidecar.rollout.reasons import Finding, Flag, RolloutVerdict
from evenkeel.sidecar.rollout.traffic import NO_TRAFFIC, Traffic
from evenkeel.sidecar.rollout.unanswered import NONE_BEGUN, Unanswered
from evenkeel.sidecar.rollout.warmth import NOT_WARM, Warmth


@dataclass(frozen=True, slots=True)
class Stage:
    """What must hold anew at every step of the traffic."""

    number: int = 0
    started_s: float = 0.0
    requests_candidate: int = 0
    requests_reference: int = 0
    restarted: tuple[str, ...] = ()
    went_back: tuple[str, ...] = ()  # instances whose counters fell as no restart lets them


@dataclass(frozen=True, slots=True)
class Judged:
    """All evidence so far. Made by folding `window_step.step` over the windows."""

    windows: int = 0
    started_s: float = 0.0
    now_s: float = 0.0
    stage: Stage = Stage()
    metrics: Mapping[str, Evidence] = field(default_factory=dict)
    same_version: Mapping[str, Evidence] = field(default_factory=dict)  # baseline against production, and the other way
    objectives: tuple[ObjectiveEvidence, ...] = ()
    own: OwnSeen = NOT_YET_SEEN
    mix: Mix = NO_MIX
    unanswered: Unanswered = NONE_BEGUN
    warmth: Warmth = NOT_WARM
    streaks: Mapping[str, Streak] = field(default_factory=dict)
    healths: Mapping[Key, Health] = field(default_factory=dict)
    traffic: Traffic = NO_TRAFFIC
    flags: frozenset[Flag] = frozenset()
    condemned: tuple[Finding, ...] = ()  # the reasons of a rollback, which is final

    @property
    def convicting(self) -> dict[str, Evidence]:
        """Of every metric that may roll back: those that must be proven as well, and those that convict alone."""
        return {**self.metrics, **self.mix.within, **self.unanswered.metrics}

    @property
    def elapsed_s(self) -> float:
        return self.now_s - self.started_s


@dataclass(frozen=True, slots=True)
class Decision:
    verdict: RolloutVerdict
    findings: tuple[Finding, ...]
    final: bool  # nothing that comes later is asked for
