"""The first rule's hard guards. Frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from evenkeel.sidecar.rollout.counters import Delta, Key, Window
from evenkeel.sidecar.rollout.first_rule.first_settings import FirstRule
from evenkeel.sidecar.rollout.reasons import Finding, RolloutReason
from evenkeel.sidecar.rollout.rule import Arm

# The names under which a scraper reports hard facts, in Scrape.faults.
FAULTS = (
    RolloutReason.WARM_UP_FAILED,
    RolloutReason.GOLDEN_CHECK_FAILED,
    RolloutReason.DEVICE_FAULT,
    RolloutReason.OUT_OF_MEMORY,
)
LEAVING = ("DRAINING", "CLOSED")  # not ready on purpose
# In the order of telling.
FATAL = (
    RolloutReason.CRASH_LOOP,
    *FAULTS,
    RolloutReason.CANDIDATE_FAILED,
    RolloutReason.READINESS_LOST,
    RolloutReason.NEVER_READY,
)


@dataclass(frozen=True, slots=True)
class FirstHealth:
    """What one instance has gone through in this rollout."""

    restarts: int = 0
    was_ready: bool = False
    came: bool = False  # it was ready, or answered and does not say whether it is
    waited_s: float = 0.0  # until it came
    ready: bool | None = None
    unready_s: float = 0.0  # of the present loss of readiness
    unready_s_most: float = 0.0  # of the longest
    failed: bool = False
    faults: frozenset[str] = frozenset()


FirstHealths = Mapping[Key, FirstHealth]


def watch(healths: FirstHealths, window: Window) -> dict[Key, FirstHealth]:
    """The window's news of every instance. One that did not answer keeps its state: silence is a gap, not a fault, unless it
    never was there."""
    after = dict(healths)
    for who in window.missing:
        arm, _, name = who.partition("/")
        key = Key(Arm(arm), name)
        silent = healths.get(key, FirstHealth())
        if not silent.came:
            after[key] = replace(silent, waited_s=silent.waited_s + window.seconds)
    for d in window.deltas:
        key = Key(d.arm, d.instance)
        after[key] = _after(healths.get(key, FirstHealth()), d, window.seconds)
    return after


def _after(health: FirstHealth, d: Delta, seconds: float) -> FirstHealth:
    lost = d.ready is False and health.was_ready and d.state not in LEAVING
    unready_s = health.unready_s + seconds if lost else 0.0
    came = health.came or d.ready is not False
    faults = set(d.faults)
    if d.state == "FAILED" and not health.was_ready:
        faults.add(RolloutReason.WARM_UP_FAILED.value)
    return replace(
        health,
        restarts=health.restarts + d.restarts,
        was_ready=health.was_ready or d.ready is True,
        came=came,
        waited_s=health.waited_s if came else health.waited_s + seconds,
        ready=d.ready,
        unready_s=unready_s,
        unready_s_most=max(health.unready_s_most, unready_s),
        failed=health.failed or (d.state == "FAILED" and health.was_ready),
        faults=health.faults | faults,
    )


def broken(healths: FirstHealths, rule: FirstRule) -> tuple[Finding, ...]:
    """Why the candidate must go back now, or that both arms suffer, or nothing."""
    others = [h for k, h in healths.items() if k.arm != Arm.CANDIDATE]
    unready_s_max = max([rule.unready_s_max, *(h.unready_s_most for h in others)])
    shared = {reason for h in others for reason in _wrong(h, rule, rule.unready_s_max)}
    found: dict[RolloutReason, Finding] = {}
    for key in sorted(k for k in healths if k.arm == Arm.CANDIDATE):
        for reason, words in _wrong(healths[key], rule, unready_s_max).items():
            both = reason in shared and reason != RolloutReason.READINESS_LOST
            told = RolloutReason.ENVIRONMENT_UNSTABLE if both else reason
            found.setdefault(told, Finding(told, str(key), words + (", as in the reference" if both else "")))
    return tuple(sorted(found.values(), key=lambda f: _order(f.reason)))


def _order(reason: RolloutReason) -> int:
    return FATAL.index(reason) if reason in FATAL else len(FATAL)


def _wrong(h: FirstHealth, rule: FirstRule, unready_s_max: float) -> dict[RolloutReason, str]:
    found: dict[RolloutReason, str] = {}
    if h.restarts >= rule.crashes_max:
        found[RolloutReason.CRASH_LOOP] = f"{h.restarts} restarts"
    for fault in FAULTS:
        if fault.value in h.faults:
            found[fault] = fault.value.replace("_", " ")
    if h.failed:
        found[RolloutReason.CANDIDATE_FAILED] = "state FAILED after having been ready"
    if not h.came and h.waited_s >= rule.ready_s_max:
        found[RolloutReason.NEVER_READY] = f"not once ready in {h.waited_s:.0f} s"
    if h.unready_s_most > unready_s_max:
        found[RolloutReason.READINESS_LOST] = f"not ready for {h.unready_s_most:.0f} s, at most {unready_s_max:.0f} s elsewhere"
    return found


def waiting(healths: FirstHealths) -> tuple[Finding, ...]:
    """Candidates that say that they are not ready now."""
    unready = [k for k, h in healths.items() if k.arm == Arm.CANDIDATE and h.ready is False]
    return tuple(Finding(RolloutReason.CANDIDATE_NOT_READY, str(k), "not ready") for k in sorted(unready))
