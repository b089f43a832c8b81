"""Orders that contradict themselves are refused before the first look: no verdict could be what was meant. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from evenkeel.sidecar.rollout.judge_errors import BadRule
from evenkeel.sidecar.rollout.rule import ERRORS, Rule

USUAL = Rule("usual")


def check(rule: Rule, window_s: float, latency_asked: Sequence[str]) -> None:
    """`latency_asked` names the options that ask for latency to be judged. Raises BadRule."""
    if rule.stage_s_min > rule.max_s and rule.stage_s_min != USUAL.stage_s_min:  # who only shortens the time allowed may hold
        raise BadRule(
            f"min_minutes ({rule.stage_s_min / 60:g}) is above max_minutes ({rule.max_s / 60:g}): it could never promote"
        )
    if window_s > rule.max_s:
        raise BadRule(f"window_s ({window_s:g}) is longer than max_minutes ({rule.max_s / 60:g}): it would never look")
    if not rule.latency and latency_asked:
        raise BadRule(f"no_latency and {latency_asked[0]} contradict each other: one says that latency is not judged")
    for objective in rule.slo:
        if objective.name == ERRORS and objective.share < rule.budget:
            raise BadRule(
                f"slo errors={objective.share * 100:g}% forbids what the budget of {rule.budget:g} allows: "
                f"give a budget of {objective.share:g} or less"
            )
