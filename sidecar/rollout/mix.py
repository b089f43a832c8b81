"""Do both arms get the same kinds of requests? Where not, a difference is the mix's, and nobody is rolled back for it. Pure.

Two things are looked at: the shares of the label's values (route, model), and the rows of an answered request, which are its
size. Both ask a practical question, as the split check does: off by more than a tolerance, beyond what the windows themselves
scatter by? The size is told only by requests that ran, so it excuses slow answers and never errors.

Within one value of the label the mix is the same by itself. Where the label was asked for, each of the largest values is judged
apart, with a part of alpha, and can roll back whatever the mix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum, hypot, sqrt

from evenkeel.sidecar.rollout import latency_edges
from evenkeel.sidecar.rollout.counters import Delta, Window
from evenkeel.sidecar.rollout.e_values import NOTHING, Pair
from evenkeel.sidecar.rollout.evidence import Evidence
from evenkeel.sidecar.rollout.reasons import Finding, RolloutReason
from evenkeel.sidecar.rollout.rule import ERRORS, STRATA_JUDGED, WITHIN, Arm, Rule
from evenkeel.sidecar.rollout.strata import Stratum

WINDOWS_MAX, WINDOWS_MIN = 60, 3
DEVIATIONS = 3.0
SHARE_TOLERANCE = 0.01  # of all requests, and
PART_TOLERANCE = 0.1  # of the reference's share of this value
SIZE_TOLERANCE = 0.05  # of the reference's rows of a request
GROSS_SHARE, GROSS_SIZE = 0.4, 2.0  # so far off, a mix may even look like an outage


@dataclass(frozen=True, slots=True)
class Mean:
    """A ratio of sums over the newest windows: parts of wholes."""

    windows: tuple[tuple[float, float], ...] = ()

    def add(self, part: float, whole: float) -> Mean:
        return Mean((*self.windows, (part, whole))[-WINDOWS_MAX:] if whole else self.windows)

    @property
    def whole(self) -> float:
        return fsum(n for _, n in self.windows)

    @property
    def value(self) -> float:
        return fsum(part for part, _ in self.windows) / self.whole if self.windows else 0.0

    @property
    def error(self) -> float:
        """By what the windows scatter, and by what independent requests would at least; a share's, or a mean's near 1."""
        count, value = len(self.windows), self.value
        if count < WINDOWS_MIN:
            return float("inf")
        residuals = fsum((part - value * n) ** 2 for part, n in self.windows)
        clumped = sqrt(residuals * count / (count - 1)) / self.whole
        independent = sqrt((max(0.0, value * (1 - value)) + 1 / self.whole) / self.whole)
        return max(clumped, independent)


NOT_SEEN = Mean()


@dataclass(frozen=True, slots=True)
class Mix:
    shares: Mapping[tuple[Arm, str], Mean] = field(default_factory=dict)
    sizes: Mapping[Arm, Mean] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()  # the values that are judged apart
    within: Mapping[str, Evidence] = field(default_factory=dict)


NO_MIX = Mix()


def counted(rule: Rule, before: Mix, window: Window) -> Mix:
    """One more window. Who joined in it or is missing changes the mix of an arm only if the instances differ: they count."""
    if not rule.strata:
        return before
    shares, sizes = dict(before.shares), dict(before.sizes)
    for arm in (Arm.CANDIDATE, rule.reference):
        deltas = window.of(arm)
        strata = _sums(deltas)
        seen = {name for a, name in before.shares if a == arm} | set(strata)
        for name in seen:
            mean = shares.get((arm, name), NOT_SEEN)
            shares[arm, name] = mean.add(strata.get(name, Stratum(name)).requests, sum(s.requests for s in strata.values()))
        if any(d.rows for d in deltas):
            sizes[arm] = sizes.get(arm, NOT_SEEN).add(sum(d.rows for d in deltas), sum(d.answered for d in deltas))
    return replace(before, shares=shares, sizes=sizes, chosen=before.chosen or _largest(rule, window))


def _sums(deltas: Sequence[Delta]) -> dict[str, Stratum]:
    found: dict[str, Stratum] = {}
    for d in deltas:
        for s in d.strata:
            b = found.get(s.name, Stratum(s.name))
            slower = tuple(x + y for x, y in zip(b.slower or (0,) * len(s.slower), s.slower, strict=True))
            found[s.name] = Stratum(
                s.name, b.requests + s.requests, b.judged + s.judged, b.errors + s.errors, b.timed + s.timed, slower
            )
    return found


# ---- does it differ? -----------------------------------------------------------------------------------------------------


def differences(rule: Rule, mix: Mix) -> list[Finding]:
    """What differs beyond doubt, in words."""
    found = [
        Finding(
            RolloutReason.MIX_DIFFERS,
            f"{rule.strata}={name}",
            f"{ours:.3g} of the candidate's requests, {theirs:.3g} of the reference's",
        )
        for name, ours, theirs in _shares_off(rule, mix)
    ]
    if is_larger(rule, mix):
        ours, theirs = (mix.sizes[arm].value for arm in (Arm.CANDIDATE, rule.reference))
        found.append(
            Finding(
                RolloutReason.MIX_DIFFERS, "rows", f"{ours:.4g} rows a request in the candidate, {theirs:.4g} in the reference"
            )
        )
    return found


def _shares_off(rule: Rule, mix: Mix) -> list[tuple[str, float, float]]:
    off = []
    for name in _both_known(rule, mix):
        ours, theirs = (mix.shares.get((arm, name), NOT_SEEN) for arm in (Arm.CANDIDATE, rule.reference))
        doubt = DEVIATIONS * hypot(*(m.error if m.windows else 0.0 for m in (ours, theirs)))
        if abs(ours.value - theirs.value) - doubt > max(SHARE_TOLERANCE, PART_TOLERANCE * theirs.value):
            off.append((name, ours.value, theirs.value))
    return off


def _both_known(rule: Rule, mix: Mix) -> list[str]:
    """All values of the label; none where the arms have no value in common: then it names versions, and no kinds of requests."""
    names = [{name for a, name in mix.shares if a == arm} for arm in (Arm.CANDIDATE, rule.reference)]
    return sorted(names[0] | names[1]) if names[0] & names[1] else []


def is_larger(rule: Rule, mix: Mix) -> bool:
    """Or smaller: the candidate's requests have another number of rows."""
    ours, theirs = (mix.sizes.get(arm, NOT_SEEN) for arm in (Arm.CANDIDATE, rule.reference))
    if not (ours.windows and theirs.windows):
        return False
    return abs(ours.value - theirs.value) - DEVIATIONS * hypot(ours.error, theirs.error) > SIZE_TOLERANCE * theirs.value


def excuses(rule: Rule, mix: Mix, metric: str) -> bool:
    """Whether a difference of this metric may be the mix's doing."""
    if WITHIN in metric:
        return False
    return bool(_shares_off(rule, mix)) or (metric.startswith(latency_edges.PREFIX) and is_larger(rule, mix))


def excuses_outage(rule: Rule, mix: Mix, *, slow: bool) -> bool:
    """A mix that is off by so much that most answers may be another kind's; other rows make answers `slow`, and never bad."""
    if any(abs(ours - theirs) > GROSS_SHARE for _, ours, theirs in _shares_off(rule, mix)):
        return True
    ours, theirs = (mix.sizes.get(arm, NOT_SEEN).value for arm in (Arm.CANDIDATE, rule.reference))
    return slow and is_larger(rule, mix) and ours > GROSS_SIZE * theirs


# ---- each value apart ----------------------------------------------------------------------------------------------------


def _largest(rule: Rule, window: Window) -> tuple[str, ...]:
    """Chosen from the reference's first window, and judged from the next on."""
    if not rule.strata_share:
        return ()
    sums = _sums(window.of(rule.reference))
    return tuple(sorted(sums, key=lambda name: (-sums[name].requests, name))[:STRATA_JUDGED])


def compare(rule: Rule, mix: Mix, window: Window) -> Mix:
    ours, theirs = (_sums(window.of(arm)) for arm in (Arm.CANDIDATE, rule.reference))
    within = dict(mix.within)
    for name in mix.chosen:
        c, r = ours.get(name, Stratum(name)), theirs.get(name, Stratum(name))
        pairs = {ERRORS: Pair(c.judged, r.judged, c.errors, r.errors)}
        pairs |= {latency_edges.name(edge): _slower(c, r, place) for place, edge in enumerate(window.edges)}
        for base, pair in pairs.items():
            metric = f"{base}{WITHIN}{rule.strata}={name}"
            within[metric] = within.get(metric, Evidence(metric)).add(pair, window.seconds, rule)
    return replace(mix, within=within)


def _slower(c: Stratum, r: Stratum, place: int) -> Pair:
    if not (c.slower and r.slower):
        return NOTHING
    return Pair(c.timed, r.timed, c.slower[place], r.slower[place])
