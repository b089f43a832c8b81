"""Hard guards: what needs no statistics. One crash loop is enough; a thousand good answers do not outweigh it. Pure.

A fault counts against the candidate only when the reference does not show it too: what befalls both versions comes from
their surroundings, and then the rollout holds. An instance that answered and does not any more is a fault as well, once it
has lasted, unless another one came in its place: a pod under a new name is the same arm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from evenkeel.sidecar.rollout.counters import Delta, Key, Window
from evenkeel.sidecar.rollout.reasons import Finding, RolloutReason
from evenkeel.sidecar.rollout.rule import Arm, Rule

# The names under which a scraper reports hard facts, in Scrape.faults.
FAULTS = (
    RolloutReason.WARM_UP_FAILED,
    RolloutReason.GOLDEN_CHECK_FAILED,
    RolloutReason.DEVICE_FAULT,
    RolloutReason.OUT_OF_MEMORY,
)
LEAVING = ("DRAINING", "CLOSED")  # not ready on purpose
GONE_ALL_S = 45.0  # no instance of the candidate answers
USUAL_SILENCES = 3.0
GONE_S = 120.0  # one of several does not: machines are replaced meanwhile
# In the order of telling.
FATAL = (
    RolloutReason.CRASH_LOOP,
    *FAULTS,
    RolloutReason.CANDIDATE_GONE,
    RolloutReason.CANDIDATE_FAILED,
    RolloutReason.READINESS_LOST,
    RolloutReason.NEVER_READY,
)


@dataclass(frozen=True, slots=True)
class Health:
    """What one instance has gone through in this rollout."""

    restarts: int = 0
    was_ready: bool = False
    joined: bool = False  # it came after the first round
    replaces: bool = False  # it came while another one of its arm was gone
    came: bool = False  # it was ready, or answered and does not say whether it is
    waited_s: float = 0.0  # until it came
    ready: bool | None = None
    unready_s: float = 0.0  # of the present loss of readiness
    unready_s_most: float = 0.0  # of the longest
    missing_s: float = 0.0  # since it last answered
    unread: bool = False  # it answers what cannot be used
    silence_s_most: float = 0.0  # that it came back from
    left: bool = False  # it said that it leaves when it last answered
    failed: bool = False
    faults: frozenset[str] = frozenset()


Healths = Mapping[Key, Health]


def watch(healths: Healths, window: Window) -> dict[Key, Health]:
    """The window's news of every instance. One that did not answer keeps its state, and the time of its silence grows."""
    after = dict(healths)
    for who in window.missing:
        arm, _, name = who.partition("/")
        key = Key(Arm(arm), name)
        silent = healths.get(key, Health())
        waited_s = silent.waited_s + (0.0 if silent.came else window.seconds)
        unread = who in window.unread
        missing_s = 0.0 if unread else silent.missing_s + window.seconds
        after[key] = replace(silent, waited_s=waited_s, missing_s=missing_s, unread=unread)
    in_place = {arm for arm in Arm if absent(after, arm)}  # a newcomer of these arms takes the place of one that is gone
    for d in window.deltas:
        key = Key(d.arm, d.instance)
        after[key] = _after(healths.get(key, Health()), d, window.seconds, replaces=d.joined and d.arm in in_place)
    return after


def _after(health: Health, d: Delta, seconds: float, *, replaces: bool) -> Health:
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
        joined=health.joined or d.joined,
        replaces=health.replaces or replaces,
        waited_s=health.waited_s if came else health.waited_s + seconds,
        ready=d.ready,
        unready_s=unready_s,
        unready_s_most=max(health.unready_s_most, unready_s),
        missing_s=0.0,
        unread=False,
        silence_s_most=max(health.silence_s_most, health.missing_s if health.came else 0.0),
        left=d.state in LEAVING,
        failed=health.failed or (d.state == "FAILED" and health.was_ready),
        faults=health.faults | faults,
    )


def broken(healths: Healths, rule: Rule) -> tuple[Finding, ...]:
    """Why the candidate must go back now, or that both arms suffer, or nothing."""
    others = [h for k, h in healths.items() if k.arm != Arm.CANDIDATE]
    unready_s_max = max([rule.unready_s_max, *(h.unready_s_most for h in others)])
    shared = {reason for h in others for reason in _wrong(h, rule, rule.unready_s_max)}
    by_reason: dict[RolloutReason, Finding] = {}
    for key in sorted(k for k in healths if k.arm == Arm.CANDIDATE):
        for reason, words in _wrong(healths[key], rule, unready_s_max).items():
            both = reason in shared and reason != RolloutReason.READINESS_LOST
            named_reason = RolloutReason.ENVIRONMENT_UNSTABLE if both else reason
            by_reason.setdefault(named_reason, Finding(named_reason, str(key), words + (", as in the reference" if both else "")))
    for finding_of_gone in _gone(healths, rule):
        by_reason.setdefault(finding_of_gone.reason, finding_of_gone)
    return tuple(sorted(by_reason.values(), key=lambda f: _order(f.reason)))


def _order(reason: RolloutReason) -> int:
    return FATAL.index(reason) if reason in FATAL else len(FATAL)


def _wrong(h: Health, rule: Rule, unready_s_max: float) -> dict[RolloutReason, str]:
    words: dict[RolloutReason, str] = {}
    if h.restarts >= rule.crashes_max:
        words[RolloutReason.CRASH_LOOP] = f"{h.restarts} restarts"
    for fault in FAULTS:
        if fault.value in h.faults:
            words[fault] = fault.value.replace("_", " ")
    if h.failed:
        words[RolloutReason.CANDIDATE_FAILED] = "state FAILED after having been ready"
    if not h.came and h.waited_s >= rule.ready_s_max:
        words[RolloutReason.NEVER_READY] = f"not once ready in {h.waited_s:.0f} s"
    if h.unready_s_most > unready_s_max:
        words[RolloutReason.READINESS_LOST] = f"not ready for {h.unready_s_most:.0f} s, at most {unready_s_max:.0f} s elsewhere"
    return words


def _gone(healths: Healths, rule: Rule) -> tuple[Finding, ...]:
    """Candidates that answered once and have not for long, unless others came in their place or the reference loses as many."""
    silent = absent(healths, Arm.CANDIDATE)
    lost, theirs = _lost_share(healths, Arm.CANDIDATE), _lost_share(healths, rule.reference)
    # Where scrapes are rarer than looks, or are often lost, silence is common and must last longer to be news.
    usual_s = max((h.silence_s_most for h in healths.values()), default=0.0)
    long_s = max(GONE_ALL_S if lost == 1.0 else GONE_S, USUAL_SILENCES * usual_s)
    long = [k for k in silent if healths[k].missing_s >= long_s]
    if not long or lost == 0.0:
        return ()
    reason = RolloutReason.ENVIRONMENT_UNSTABLE if theirs >= lost else RolloutReason.CANDIDATE_GONE
    words = f"has not answered for {healths[long[0]].missing_s:.0f} s"
    return (Finding(reason, str(long[0]), words + (", as in the reference" if theirs >= lost else "")),)


def absent(healths: Healths, arm: Arm) -> list[Key]:
    """Those of an arm that answered once, did not leave on purpose and are silent now."""
    return sorted(k for k, h in healths.items() if k.arm == arm and h.came and h.missing_s > 0 and not h.left)


def _lost_share(healths: Healths, arm: Arm) -> float:
    """Of the arm's instances: how many are missing from the number that it had, whatever their names."""
    silent = len(absent(healths, arm))
    present = sum(k.arm == arm and h.came and h.missing_s == 0 for k, h in healths.items())
    replaced = sum(k.arm == arm and h.came and h.replaces for k, h in healths.items())
    lost = max(0, silent - replaced)
    return lost / (present + lost) if lost else 0.0


def changed_sides(healths: Healths) -> list[str]:
    """Instances that left one of the compared arms and came in another under the same name."""
    came = {k.name: k.arm for k, h in healths.items() if h.joined}
    return sorted(k.name for k, h in healths.items() if h.missing_s > 0 and came.get(k.name, k.arm) != k.arm)


def missed(healths: Healths, rule: Rule) -> list[Key]:
    """Who keeps a promotion waiting by not answering: not those that were replaced, nor a reference instance that is gone for
    good while others of its arm are there."""
    keys = [k for k, h in healths.items() if h.unread or (h.missing_s > 0 and not h.came)]
    for arm in (Arm.CANDIDATE, rule.reference):
        others = any(k.arm == arm and h.came and h.missing_s == 0 for k, h in healths.items())
        for key in absent(healths, arm):
            written_off = healths[key].missing_s >= GONE_ALL_S and others
            if not (written_off and (arm != Arm.CANDIDATE or _lost_share(healths, arm) == 0.0)):
                keys.append(key)
    return sorted(k for k in keys if k.arm in (Arm.CANDIDATE, rule.reference))


def waiting(healths: Healths) -> tuple[Finding, ...]:
    """Candidates that say that they are not ready now."""
    unready = [k for k, h in healths.items() if k.arm == Arm.CANDIDATE and h.ready is False and h.missing_s == 0]
    return tuple(Finding(RolloutReason.CANDIDATE_NOT_READY, str(k), "not ready") for k in sorted(unready))
