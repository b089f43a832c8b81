"""The rule: what rolls back, what promotes, and everything that makes it hold."""

from __future__ import annotations

import random
from dataclasses import replace
from math import log

import pytest
from scipy.special import betaincinv

from evenkeel.sidecar.rollout.counters import Delta, Window
from evenkeel.sidecar.rollout.decide import decide
from evenkeel.sidecar.rollout.e_values import WORSE_GAINS, Pair, ratio_e
from evenkeel.sidecar.rollout.judge_errors import BadRule
from evenkeel.sidecar.rollout.judged import Judged
from evenkeel.sidecar.rollout.obstacles import flags
from evenkeel.sidecar.rollout.reasons import TABLE, Flag, RolloutReason, RolloutVerdict
from evenkeel.sidecar.rollout.rule import ERRORS, Arm, Rule
from evenkeel.sidecar.rollout.window_step import step
from tests.sidecar.rollout.traffic import (
    BASELINE,
    CANDIDATE,
    ERRORS_ONLY,
    PRODUCTION,
    arm,
    codes,
    compared,
    judged,
    poisson,
    window,
)

GOOD = [compared(i, (1000, 2), (1000, 2)) for i in range(60)]  # ten minutes, equal and proven
BAD = [compared(i, (1000, 6), (1000, 1)) for i in range(60)]


def test_an_equal_candidate_is_promoted_once_that_is_shown() -> None:
    _, decision = judged(GOOD)
    assert decision.verdict == RolloutVerdict.PROMOTE
    assert codes(decision) == ["not_worse"]


def test_a_worse_candidate_is_rolled_back_by_both_witnesses() -> None:
    state, decision = judged(BAD)
    assert (decision.verdict, codes(decision), decision.final) == (RolloutVerdict.ROLLBACK, ["candidate_worse"], True)
    evidence = state.metrics["errors"]
    assert min(evidence.count_log_e(ERRORS_ONLY), evidence.sign_log_e(ERRORS_ONLY)) >= log(100)


def test_a_rollback_is_final_whatever_comes_later() -> None:
    _, decision = judged([*BAD, *(compared(60 + i, (1000, 0), (1000, 50)) for i in range(60))])
    assert (decision.verdict, codes(decision)) == (RolloutVerdict.ROLLBACK, ["candidate_worse"])


def test_one_burst_convinces_nobody_however_large() -> None:
    burst = [compared(i, (1000, 40 if i == 5 else 1), (1000, 1)) for i in range(60)]
    state, _ = judged(burst[:12])
    assert ratio_e(state.metrics["errors"].blocks, 1.2, WORSE_GAINS) > log(1000), "by the counts alone"
    assert judged(burst)[1].verdict == RolloutVerdict.HOLD


def test_no_proof_is_no_promotion() -> None:
    _, decision = judged([compared(i, (1000, 0), (1000, 0)) for i in range(10)], replace(ERRORS_ONLY, budget=0.0, stage_s_min=60))
    assert (decision.verdict, codes(decision)) == (RolloutVerdict.HOLD, ["not_yet_proven"])


def test_without_errors_anywhere_the_budget_promotes() -> None:
    _, decision = judged([compared(i, (1000, 0), (1000, 0)) for i in range(60)])
    assert (decision.verdict, codes(decision)) == (RolloutVerdict.PROMOTE, ["within_budget"])


def test_the_fast_path_needs_three_windows() -> None:
    def awful(i: int) -> Window:
        return compared(i, (500, 300), (500, 1))

    assert judged([awful(0), awful(1)])[1].verdict == RolloutVerdict.HOLD
    _, decision = judged([awful(0), awful(1), awful(2)])
    assert codes(decision) == ["candidate_far_worse"] and decision.verdict == RolloutVerdict.ROLLBACK


def test_the_fast_path_is_not_for_one_burst_however_large() -> None:
    windows = [compared(0, (500, 0), (500, 1)), compared(1, (500, 0), (500, 1)), compared(2, (500, 500), (500, 1))]
    assert judged(windows)[1].verdict == RolloutVerdict.HOLD


def test_latency_has_a_bad_ratio_of_its_own() -> None:
    windows = [with_latency(i, 16, 10) for i in range(60)]
    assert judged(windows, Rule("test", edges=(0.1,)))[1].verdict == RolloutVerdict.HOLD
    assert judged(windows, Rule("test", edges=(0.1,), bad_ratio_latency=4.0))[1].verdict == RolloutVerdict.PROMOTE


def test_ten_times_the_errors_at_a_low_rate_is_left_to_the_two_witnesses() -> None:
    _, decision = judged([compared(i, (1000, 30), (1000, 3)) for i in range(27)])
    assert codes(decision) == ["candidate_worse"]


@pytest.mark.parametrize("who", ["candidate/candidate-1", "baseline/baseline-0"])
def test_who_does_not_answer_now_holds_and_never_promotes(who: str) -> None:
    _, decision = judged([*GOOD[:-1], without(GOOD[-1], who)])
    assert (decision.verdict, codes(decision)) == (RolloutVerdict.HOLD, ["data_gap"])
    assert decision.findings[0].about == who


@pytest.mark.parametrize("place", [0, 30, 58])
def test_a_gap_that_has_closed_costs_nothing_but_time(place: int) -> None:
    windows = [without(w, "candidate/candidate-1") if i == place else w for i, w in enumerate(GOOD)]
    assert judged(windows)[1].verdict == RolloutVerdict.PROMOTE


def test_in_a_gap_those_are_compared_that_are_there() -> None:
    state, _ = judged([*GOOD[:5], without(GOOD[5], "baseline/baseline-0")])
    assert state.metrics["errors"].total == Pair(6000, 5500, 12, 11)


def without(w: Window, who: str) -> Window:
    """The window as it is when this instance does not answer."""
    return replace(w, deltas=tuple(d for d in w.deltas if f"{d.arm}/{d.instance}" != who), missing=(who,))


def test_a_new_stage_begins_its_floors_anew_and_keeps_the_evidence() -> None:
    later = [replace(compared(60 + i, (1000, 2), (1000, 2)), stage=1) for i in range(60)]
    assert codes(judged([*GOOD, *later[:10]])[1]) == ["too_soon"]
    state, decision = judged([*GOOD, *later])
    assert decision.verdict == RolloutVerdict.PROMOTE and state.metrics["errors"].total.n_c == 120_000


def test_a_rollback_does_not_wait_for_gaps_to_close() -> None:
    assert judged([replace(GOOD[0], missing=("baseline/a",)), *BAD[1:]])[1].verdict == RolloutVerdict.ROLLBACK


def test_a_stage_needs_its_time_and_its_requests() -> None:
    assert codes(judged(GOOD[:59])[1]) == ["too_soon"]
    small = [compared(i, (10, 0), (10, 0)) for i in range(60)]
    assert codes(judged(small)[1])[:2] == ["too_few_requests", "too_few_requests"]


def test_silent_data_do_not_promote() -> None:
    """An error series that stays empty because nothing arrives looks perfect to a judge that counts nothing as zero."""
    for candidate, reference in (((0, 0), (1000, 2)), ((1000, 0), (0, 0)), ((0, 0), (0, 0))):
        _, decision = judged([compared(i, candidate, reference) for i in range(400)], replace(ERRORS_ONLY, max_s=1e6))
        assert decision.verdict == RolloutVerdict.HOLD and "no_data" in codes(decision)


def test_an_arm_without_instances_has_no_data() -> None:
    _, decision = judged([window(i, arm(CANDIDATE, 1000, 0)) for i in range(60)])
    assert decision.verdict == RolloutVerdict.HOLD and codes(decision)[0] == "no_data"


def test_traffic_that_stops_is_noticed_after_good_times() -> None:
    _, decision = judged([*GOOD, *(compared(60 + i, (0, 0), (1000, 2)) for i in range(3))])
    assert "no_data" in codes(decision) and decision.verdict == RolloutVerdict.HOLD


def test_a_latency_histogram_that_stays_empty_does_not_promote() -> None:
    rule = Rule("test", edges=(0.1,))
    windows = [
        window(i, arm(CANDIDATE, 1000, 2, slower=(0,)), arm(BASELINE, 1000, 2, slower=(0,)), edges=(0.1,)) for i in range(60)
    ]
    _, decision = judged(windows, rule)
    assert codes(decision) == ["not_yet_proven"] and decision.findings[0].about == "slower_than_100ms"


def test_an_edge_that_nothing_is_slower_than_is_passed_by_its_own_budget() -> None:
    windows = [with_latency(i, 0, 0) for i in range(60)]
    assert codes(judged(windows, Rule("test", edges=(0.1,)))[1]) == ["not_worse", "within_budget"]
    _, decision = judged(windows, Rule("test", edges=(0.1,), budget_latency=0.0))
    assert codes(decision) == ["not_yet_proven"] and decision.findings[0].about == "slower_than_100ms"
    assert codes(judged(windows, Rule("test", edges=(0.1,), budget_latency=1e-5, budget=0.5))[1])[0] == "not_yet_proven"


def test_latency_without_edges_holds() -> None:
    _, decision = judged(GOOD, Rule("test"))
    assert codes(decision) == ["latency_not_measured"]


def with_latency(i: int, slow_c: int, slow_r: int) -> Window:
    one = [replace(d, timed=500, slower=(slow_c // 2,)) for d in arm(CANDIDATE, 1000, 2)]
    two = [replace(d, timed=500, slower=(slow_r // 2,)) for d in arm(BASELINE, 1000, 2)]
    return window(i, one, two, edges=(0.1,))


def test_a_slower_candidate_is_rolled_back() -> None:
    _, decision = judged([with_latency(i, 24, 10) for i in range(60)], Rule("test", edges=(0.1,)))
    assert decision.verdict == RolloutVerdict.ROLLBACK and decision.findings[0].about == "slower_than_100ms"


def test_an_equally_fast_candidate_is_promoted() -> None:
    _, decision = judged([with_latency(i, 10, 10) for i in range(60)], Rule("test", edges=(0.1,)))
    assert decision.verdict == RolloutVerdict.PROMOTE and codes(decision) == ["not_worse", "not_worse"]


def test_every_metric_must_pass() -> None:
    _, decision = judged([with_latency(i, 16, 10) for i in range(60)], Rule("test", edges=(0.1,)))
    assert decision.verdict == RolloutVerdict.HOLD and {f.about for f in decision.findings} == {"slower_than_100ms"}


def test_alpha_is_shared_by_the_metrics_that_are_planned() -> None:
    assert Rule("x", latency=False).rollback_at(ERRORS) == pytest.approx(100)
    for rule in (Rule("x"), Rule("x", objective_s=0.2), Rule("x", edges=(0.1,))):
        edges = rule.metrics_planned - 1
        assert rule.rollback_at(ERRORS) == pytest.approx(1 / 0.006)
        assert 1 / rule.rollback_at(ERRORS) + edges / rule.rollback_at("slower_than_100ms") == pytest.approx(rule.alpha)
    assert Rule("x").promote_at == pytest.approx(40)


def test_a_wrong_split_of_traffic_holds() -> None:
    _, decision = judged([compared(i, (1000, 2), (1300, 3)) for i in range(60)])
    assert (decision.verdict, codes(decision)) == (RolloutVerdict.HOLD, ["sample_ratio"])


def test_an_unknown_split_holds() -> None:
    assert codes(judged([replace(w, split=()) for w in GOOD])[1]) == ["split_unknown"]


def test_production_unlike_the_baseline_holds() -> None:
    """The same version twice: if these differ, something besides the version does."""
    windows = [window(i, arm(CANDIDATE, 1000, 8), arm(BASELINE, 1000, 8), arm(PRODUCTION, 3000, 4)) for i in range(60)]
    _, decision = judged(windows)
    assert codes(decision) == ["environment_unstable"]
    assert decision.findings[0].about == "baseline worse: errors"
    calm = [window(i, arm(CANDIDATE, 1000, 8), arm(BASELINE, 1000, 8), arm(PRODUCTION, 3000, 24)) for i in range(60)]
    assert judged(calm)[1].verdict == RolloutVerdict.PROMOTE


def test_time_ends_in_hold_or_in_rollback_but_never_in_promotion() -> None:
    windows = [compared(i, (20, 0), (20, 0)) for i in range(180)]
    assert codes(judged(windows)[1])[0] == "time_is_up" and judged(windows)[1].verdict == RolloutVerdict.HOLD
    assert judged(GOOD, replace(ERRORS_ONLY, max_s=600))[1].final and not judged(GOOD)[1].final
    late = judged(windows, replace(ERRORS_ONLY, at_end="rollback"))[1]
    assert (late.verdict, late.final, codes(late)[0]) == (RolloutVerdict.ROLLBACK, True, "time_is_up")


# Hard guards


def struck(i: int, who: Arm, **what: object) -> Window:
    w = GOOD[i]
    deltas = tuple(replace(d, **what) if d.arm == who and d.instance.endswith("-0") else d for d in w.deltas)  # type: ignore[arg-type]
    return replace(w, deltas=deltas)


def test_a_crash_loop_needs_no_statistics() -> None:
    _, decision = judged([*GOOD[:3], *(struck(i, CANDIDATE, restarts=1) for i in range(3, 6))])
    assert (decision.verdict, codes(decision), decision.final) == (RolloutVerdict.ROLLBACK, ["crash_loop"], True)
    assert decision.findings[0].about == "candidate/candidate-0"


def test_one_restart_holds_this_stage() -> None:
    _, decision = judged([struck(i, CANDIDATE, restarts=1) if i == 3 else w for i, w in enumerate(GOOD)])
    assert (decision.verdict, codes(decision)) == (RolloutVerdict.HOLD, ["candidate_restarted"])


def test_restarts_of_the_baseline_alone_are_no_reason() -> None:
    assert (
        judged([struck(i, BASELINE, restarts=1) if i < 4 else w for i, w in enumerate(GOOD)])[1].verdict == RolloutVerdict.PROMOTE
    )


def test_what_befalls_both_versions_holds() -> None:
    windows = [struck(0, BASELINE, faults=("device_fault",)), struck(1, CANDIDATE, faults=("device_fault",)), *GOOD[2:]]
    _, decision = judged(windows)
    assert (decision.verdict, codes(decision)) == (RolloutVerdict.HOLD, ["environment_unstable"])


@pytest.mark.parametrize("fault", ["golden_check_failed", "device_fault", "out_of_memory", "warm_up_failed"])
def test_a_hard_fault_rolls_back_in_its_first_window(fault: str) -> None:
    _, decision = judged([struck(0, CANDIDATE, faults=(fault,))])
    assert (decision.verdict, codes(decision)) == (RolloutVerdict.ROLLBACK, [fault])


def test_a_candidate_that_fails_before_it_was_ready_failed_its_warm_up() -> None:
    _, decision = judged([struck(0, CANDIDATE, ready=False, state="FAILED")])
    assert codes(decision) == ["warm_up_failed"]
    _, later = judged([GOOD[0], struck(1, CANDIDATE, ready=False, state="FAILED")])
    assert codes(later) == ["candidate_failed"]


def test_lost_readiness_rolls_back_once_it_lasts_longer_than_the_reference_ever_lost_it() -> None:
    lost = [struck(i, CANDIDATE, ready=False, state="LOADING") for i in range(10, 14)]
    assert codes(judged([*GOOD[:10], *lost[:3]])[1])[0] == "candidate_not_ready"
    assert codes(judged([*GOOD[:10], *lost])[1]) == ["readiness_lost"]
    there = [struck(i, BASELINE, ready=False, state="LOADING") for i in range(1, 10)]
    assert judged([GOOD[0], *there, *lost])[1].verdict == RolloutVerdict.HOLD


def test_a_candidate_that_drains_on_purpose_has_not_lost_its_readiness() -> None:
    _, decision = judged([*GOOD[:10], *(struck(i, CANDIDATE, ready=False, state="DRAINING") for i in range(10, 60))])
    assert decision.verdict == RolloutVerdict.HOLD and codes(decision) == ["candidate_not_ready"]


def test_a_candidate_that_is_not_yet_ready_holds_and_goes_back_when_it_had_time_enough() -> None:
    loading = [struck(i, CANDIDATE, ready=False, state="LOADING") for i in range(60)]
    assert codes(judged(loading[:-1])[1])[0] == "candidate_not_ready"
    _, late = judged(loading)
    assert (late.verdict, codes(late), late.final) == (RolloutVerdict.ROLLBACK, ["never_ready"], True)
    assert judged([*loading[:30], *GOOD[30:]])[1].verdict == RolloutVerdict.PROMOTE, "slow to start is no fault"


def test_a_candidate_that_never_answered_is_never_ready_and_one_that_did_is_gone() -> None:
    who = "candidate/candidate-0"
    silent = [replace(w, deltas=tuple(d for d in w.deltas if f"candidate/{d.instance}" != who), missing=(who,)) for w in GOOD]
    assert codes(judged(silent[:59])[1])[-1] != "never_ready"
    assert codes(judged(silent)[1]) == ["never_ready"]
    _, there_once = judged([GOOD[0], *silent[1:]])
    assert (there_once.verdict, codes(there_once)) == (RolloutVerdict.ROLLBACK, ["candidate_gone"])


def test_when_the_reference_is_not_ready_either_it_is_no_fault_of_the_candidate() -> None:
    both = [replace(w, deltas=tuple(replace(d, ready=False, state="LOADING") for d in w.deltas)) for w in GOOD]
    _, decision = judged(both)
    assert decision.verdict == RolloutVerdict.HOLD and "environment_unstable" in codes(decision)


# Flags and signals


def test_flags_say_what_to_know_about_the_data() -> None:
    windows = [window(i, arm(CANDIDATE, 1000, 0, 1), arm(PRODUCTION, 1000, 0, 1), split=()) for i in range(3)]
    rule = replace(ERRORS_ONLY, reference=PRODUCTION)
    said = flags(rule, judged(windows, rule)[0])
    assert said == (Flag.NO_BASELINE, Flag.ONE_INSTANCE)


@pytest.mark.parametrize(
    ("candidate", "verdict"), [(5, RolloutVerdict.PROMOTE), (6, RolloutVerdict.PROMOTE), (50, RolloutVerdict.HOLD)]
)
def test_client_errors_are_a_signal_and_no_gate_unless_their_share_shifts(candidate: int, verdict: RolloutVerdict) -> None:
    windows = [
        replace(w, deltas=tuple(replace(d, client_errors=candidate if d.arm == CANDIDATE else 5) for d in w.deltas)) for w in GOOD
    ]
    state, decision = judged(windows)
    shifted = verdict == RolloutVerdict.HOLD
    assert decision.verdict == verdict and (codes(decision) == ["client_errors_differ"]) == shifted
    assert (Flag.CLIENT_ERRORS_SHIFTED in flags(ERRORS_ONLY, state)) == shifted


def test_every_reason_has_its_meaning_and_advice() -> None:
    assert set(TABLE) == set(RolloutReason)


@pytest.mark.parametrize(
    "wrong",
    [{"rollout": ""}, {"alpha": 0.0}, {"margin": 0.9}, {"bad_ratio": 1.2}, {"reference": CANDIDATE}, {"at_end": "promote"},
     {"edges": (0.1, 0.2, 0.3, 0.4)}, {"edges": (-1.0,)}, {"budget": 1.0}, {"max_s": 0.0}],
)  # fmt: skip
def test_a_rule_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadRule):
        Rule(**{"rollout": "x", **wrong})  # type: ignore[arg-type]


# Error rates, by the code that decides and not by the benchmark's arrays


def simulated(rng: random.Random, ratio: float, windows: int = 60) -> RolloutVerdict:
    """Ten minutes of 100 requests a second half and half, base rate 1 %, judged after every window."""
    state = Judged()
    for i in range(windows):
        one = [Delta(CANDIDATE, n, requests=250, judged=250, errors=poisson(rng, 2.5 * ratio), ready=True) for n in "ab"]
        two = [Delta(BASELINE, n, requests=250, judged=250, errors=poisson(rng, 2.5), ready=True) for n in "ab"]
        state = step(ERRORS_ONLY, state, window(i, one, two))
        verdict = decide(ERRORS_ONLY, state).verdict
        if verdict != RolloutVerdict.HOLD:
            return verdict
    return RolloutVerdict.HOLD


def upper_limit(count: int, runs: int) -> float:
    return float(betaincinv(count + 1, runs - count, 0.95))


def test_false_rollbacks_stay_below_one_in_a_hundred() -> None:
    """At the margin itself, the hardest case that must not be rolled back. 0 of 400 bounds the rate by 0.75 %."""
    rng = random.Random(20261123)
    verdicts = [simulated(rng, 1.25, windows=40) for _ in range(400)]
    assert upper_limit(verdicts.count(RolloutVerdict.ROLLBACK), len(verdicts)) <= 0.013


def test_a_twofold_rate_is_rarely_promoted_and_mostly_found() -> None:
    rng = random.Random(7)
    verdicts = [simulated(rng, 2.0) for _ in range(150)]
    assert upper_limit(verdicts.count(RolloutVerdict.PROMOTE), len(verdicts)) <= 0.05
    assert verdicts.count(RolloutVerdict.ROLLBACK) >= 135
