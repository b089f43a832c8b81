"""Numbers computed independently of this code: the regression vectors of the method, and the bounds that it promises."""

from __future__ import annotations

from itertools import product
from math import ceil, comb, exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.sidecar.rollout.e_values import WORSE_GAINS, Pair, binomial, outcome, ratio_e, ratio_factors, sign_e
from evenkeel.sidecar.rollout.first_rule.first_fast_path import FAR_WORSE_GAINS, far_worse
from evenkeel.sidecar.rollout.first_rule.first_promotion import FirstDesignEffect as DesignEffect
from evenkeel.sidecar.rollout.first_rule.first_promotion import halves, scatter, squared_difference
from evenkeel.sidecar.rollout.first_rule.first_sample_ratio import FirstSampleRatio as SampleRatio
from evenkeel.sidecar.rollout.first_rule.first_sample_ratio import log_bayes_factor
from evenkeel.sidecar.rollout.interval import GAINS, ratio_interval
from evenkeel.sidecar.rollout.promotion import NOT_BAD_GAINS, budget_e

WIN, LOSS, TIE = Pair(10, 10, 1, 0), Pair(10, 10, 0, 1), Pair(10, 10, 1, 1)
EVEN = Pair(200, 200, 10, 10)
pairs = st.builds(
    lambda n, m, c, b: Pair(n, m, min(c, n), min(b, m)),
    st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 60), st.integers(0, 60),
)  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "exposure", "null", "e"),
    [
        ((5, 0), (1, 1), 1.0, 12.364459),
        ((8, 0), (1, 1), 1.0, 69.302137),
        ((12, 2), (1, 1), 1.0, 26.310770),
        ((30, 10), (1, 1), 1.0, 64.814225),
        ((12, 2), (1, 1), 1.25, 10.375914),
        ((30, 10), (1, 1), 1.25, 9.876472),
        ((60, 50), (1, 1), 1.25, 0.012096),
        ((10, 20), (1, 9), 1.0, 127.948155),
        ((10, 20), (1, 9), 1.25, 32.358050),
    ],
)
def test_the_count_witness_gives_the_known_values(bad: tuple[int, int], exposure: tuple[int, int], null: float, e: float) -> None:
    pair = Pair(exposure[0] * 1000, exposure[1] * 1000, *bad)
    assert exp(ratio_e([pair], null, WORSE_GAINS)) == pytest.approx(e, abs=1.1e-6)


@pytest.mark.parametrize(("null", "fewest"), [(1.0, 9), (1.25, 11)])
def test_the_fewest_errors_that_reach_a_hundred(null: float, fewest: int) -> None:
    reached = [k for k in range(30) if ratio_e([Pair(1000, 1000, k, 0)], null, WORSE_GAINS) >= log(100)]
    assert reached[0] == fewest


@pytest.mark.parametrize(
    ("wins", "losses", "e"),
    [(8, 0, 74.569057), (10, 0, 251.447479), (10, 1, 36.601163), (12, 3, 8.938769), (20, 8, 5.746861)],
)
def test_the_sign_witness_gives_the_known_values(wins: int, losses: int, e: float) -> None:
    assert exp(sign_e([WIN] * wins + [LOSS] * losses)) == pytest.approx(e, abs=1e-6)


def test_nine_wins_in_a_row_reach_a_hundred_and_eight_do_not() -> None:
    assert sign_e([WIN] * 9) >= log(100) > sign_e([WIN] * 8)


def test_a_tie_says_nothing() -> None:
    assert sign_e([WIN] * 8 + [TIE] * 5) == pytest.approx(sign_e([WIN] * 8), abs=1e-12)


@pytest.mark.parametrize(
    ("bad", "exposure", "e"),
    [
        ((20, 20), (1, 1), 4.632018),
        ((60, 60), (1, 1), 378.475756),
        ((10, 90), (1, 9), 6.177511),
        ((20, 180), (1, 9), 66.765517),
    ],
)
def test_non_inferiority_gives_the_known_values(bad: tuple[int, int], exposure: tuple[int, int], e: float) -> None:
    pair = Pair(exposure[0] * 1000, exposure[1] * 1000, *bad)
    assert exp(ratio_e([pair], 2.0, NOT_BAD_GAINS)) == pytest.approx(e, abs=1e-6)


@pytest.mark.parametrize(("bad", "requests"), [(0, 4340), (1, 7380), (2, 9520), (3, 11530)])
def test_a_budget_of_a_thousandth_needs_these_requests(bad: int, requests: int) -> None:
    """The table was searched in steps of ten requests."""
    exact = next(n for n in range(1, 20_000) if budget_e(n, bad, 0.001) >= log(40))
    assert ceil(exact / 10) * 10 == requests


@pytest.mark.parametrize(
    ("counts", "shares", "p"),
    [
        ((30, 10), (0.5, 0.5), 0.2794646),
        ((5300, 4700), (0.5, 0.5), 1.81137e-7),
        ((1150, 8850), (0.1, 0.9), 7.54165e-5),
    ],
)
def test_the_sample_ratio_check_gives_the_known_p_values(counts: tuple[int, int], shares: tuple[float, float], p: float) -> None:
    assert min(1.0, exp(-log_bayes_factor(counts, shares))) == pytest.approx(p, rel=1e-5)
    assert SampleRatio().add(counts, shares).p == pytest.approx(p, rel=1e-5)


def test_the_sample_ratio_p_never_rises_again() -> None:
    mix = SampleRatio().add((700, 300), (0.5, 0.5))
    assert mix.add((300, 700), (0.5, 0.5)).p == mix.p < 1e-3


def test_a_violation_is_not_forgotten_when_the_split_changes() -> None:
    once = SampleRatio().add((600, 450), (0.5, 0.5))
    both = once.add((1000, 500), (0.75, 0.25))
    assert both.p == pytest.approx(once.p * exp(-log_bayes_factor((1000, 500), (0.75, 0.25))))


def test_a_change_of_the_split_is_no_violation_of_it() -> None:
    mix = SampleRatio().add((100, 900), (0.1, 0.9)).add((500, 500), (0.5, 0.5)).add((900, 100), (0.9, 0.1))
    assert mix.p > 0.5


# (n_c, n_b, r0, g, base rate, true ratio) -> mean factor of one window
EXACT = [(0.001, 1.25, 0.999996), (0.05, 1.25, 0.990932), (0.2, 1.25, 0.865964), (0.05, 1.5, 1.0858)]


def mean_factor(n_c: int, n_r: int, null: float, gains: tuple[float, ...], base: float, ratio: float) -> list[float]:
    """By going through every outcome of one window of independent requests."""
    means = [0.0] * len(gains)
    for c, b in product(range(n_c + 1), range(n_r + 1)):
        rate = base * ratio
        chance = comb(n_c, c) * rate**c * (1 - rate) ** (n_c - c) * comb(n_r, b) * base**b * (1 - base) ** (n_r - b)
        for i, factor in enumerate(ratio_factors(Pair(n_c, n_r, c, b), null, gains)):
            means[i] += chance * exp(factor)
    return means


@pytest.mark.parametrize(("base", "ratio", "mean"), EXACT)
def test_one_windows_mean_factor_is_what_was_computed_exactly(base: float, ratio: float, mean: float) -> None:
    assert mean_factor(20, 30, 1.25, (2.0,), base, ratio)[0] == pytest.approx(mean, abs=1e-4 if ratio > 1.25 else 1e-6)


@pytest.mark.parametrize("ratio", [0.1, 0.7, 1.0, 1.25])
@pytest.mark.parametrize("base", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("exposure", [(3, 12), (8, 8), (12, 3)])
def test_no_bet_against_the_candidate_gains_on_average_while_it_is_no_worse(
    exposure: tuple[int, int], base: float, ratio: float
) -> None:
    assert max(mean_factor(*exposure, 1.25, WORSE_GAINS, base, ratio)) <= 1 + 1e-12
    assert max(mean_factor(*exposure, 3.0, FAR_WORSE_GAINS, base, ratio)) <= 1 + 1e-12


@pytest.mark.parametrize("ratio", [2.0, 2.5, 3.0])
@pytest.mark.parametrize("base", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("exposure", [(3, 12), (8, 8), (12, 3)])
def test_no_bet_for_the_candidate_gains_on_average_while_it_is_bad(exposure: tuple[int, int], base: float, ratio: float) -> None:
    assert max(mean_factor(*exposure, 2.0, NOT_BAD_GAINS, base, ratio)) <= 1 + 1e-12


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.6])
def test_the_budget_proof_gains_nothing_on_average_at_or_above_the_budget(rate: float) -> None:
    mean = sum(comb(20, c) * rate**c * (1 - rate) ** (20 - c) * exp(budget_e(20, c, 0.1)) for c in range(21))
    assert mean <= 1 + 1e-12


@pytest.mark.parametrize("exposure", [(100, 100), (100, 300), (300, 100), (100, 101)])
@pytest.mark.parametrize("mean", [0.3, 2.0, 8.0])
def test_the_sign_witness_gains_nothing_on_average_between_equal_arms(exposure: tuple[int, int], mean: float) -> None:
    """Poisson errors at the same rate, all outcomes that matter: exchangeable inside the block."""
    rates = [mean * n / sum(exposure) for n in exposure]

    def chance(rate: float, k: int) -> float:
        result = exp(-rate)
        for i in range(1, k + 1):
            result *= rate / i
        return result

    reach = 45
    means = [0.0] * 5
    for c, b in product(range(reach), range(reach)):
        said = outcome(Pair(*exposure, c, b))
        weight = chance(rates[0], c) * chance(rates[1], b)
        tie = 1 - said.win - said.loss
        for i, q in enumerate((0.6, 0.7, 0.8, 0.9, 0.97)):
            means[i] += weight * (said.win * 2 * q + said.loss * 2 * (1 - q) + tie)
    assert max(means) <= 1 + 1e-9


@given(st.lists(pairs, max_size=8))
def test_swapping_the_arms_turns_evidence_for_a_rollback_into_none(series: list[Pair]) -> None:
    against, swapped = ratio_e(series, 1.25, WORSE_GAINS), ratio_e([p.swapped for p in series], 1.25, WORSE_GAINS)
    assert against <= log(100) or swapped < 0
    assert sign_e(series) <= log(100) or sign_e([p.swapped for p in series]) < 0


@given(pairs, st.integers(2, 5))
def test_splitting_a_window_at_the_same_split_of_traffic_changes_nothing(pair: Pair, parts: int) -> None:
    whole = Pair(pair.n_c * parts, pair.n_r * parts, pair.bad_c, pair.bad_r)
    pieces = [pair] + [Pair(pair.n_c, pair.n_r)] * (parts - 1)
    assert ratio_e([whole], 1.25, WORSE_GAINS) == pytest.approx(ratio_e(pieces, 1.25, WORSE_GAINS), abs=1e-9)


@given(pairs)
def test_a_block_is_worth_one_win_at_most_whatever_the_burst(block: Pair) -> None:
    assert sign_e([block]) <= sign_e([WIN]) + 1e-12


@given(pairs)
def test_win_and_loss_change_places_with_the_arms(block: Pair) -> None:
    one, other = outcome(block), outcome(block.swapped)
    if block.n_c != block.n_r:
        assert (one.win, one.loss) == (other.loss, other.win)
    assert 0 <= one.win + one.loss <= 1 + 1e-9


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.01, 0.999))
def test_the_thinned_chances_are_those_of_the_binomial(n: int, k: int, chance: float) -> None:
    terms = [comb(n, j) * chance**j * (1 - chance) ** (n - j) for j in range(n + 1)]
    below, equal = binomial(n, chance, k)
    assert below == pytest.approx(sum(terms[:k]), abs=1e-9)
    assert equal == pytest.approx(terms[k] if k <= n else 0.0, abs=1e-9)


def test_thinning_makes_exposures_equal_before_it_compares() -> None:
    """Nine times the traffic and nine times the errors is no win for anybody in particular."""
    said = outcome(Pair(1000, 9000, 10, 90))
    assert abs(said.win - said.loss) < 0.15
    assert outcome(Pair(1000, 9000, 10, 10)).win > 0.99


def test_the_interval_holds_the_observed_ratio_and_narrows() -> None:
    few, many = ratio_interval([Pair(1000, 1000, 30, 10)]), ratio_interval([Pair(10_000, 10_000, 300, 100)])
    assert few.low < many.low < 3 < many.high < few.high
    assert few.low > 1.0 and many.low > 2.0 and many.high < 4.5


def test_each_bound_is_where_its_side_spends_half_of_the_error() -> None:
    pair = Pair(1000, 2000, 30, 20)
    said = ratio_interval([pair])
    assert ratio_e([pair], said.low, GAINS) == pytest.approx(log(40), abs=0.01)
    assert ratio_e([pair], said.high, [1 / g for g in GAINS]) == pytest.approx(log(40), abs=0.01)


def test_the_interval_says_nothing_where_there_are_no_bad_events() -> None:
    said = ratio_interval([Pair(5000, 5000, 0, 0)])
    assert (said.low, said.high) == (0.0, float("inf"))


@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_the_interval_turns_with_the_arms(ratio: float) -> None:
    one = ratio_interval([Pair(1000, 1000, round(20 * ratio), 20)])
    other = ratio_interval([Pair(1000, 1000, 20, round(20 * ratio))])
    assert one.low == pytest.approx(1 / other.high, rel=1e-9) and one.high == pytest.approx(1 / other.low, rel=1e-9)


def test_the_fast_path_wants_certainty_a_high_rate_and_three_windows() -> None:
    recent = [Pair(100, 100, 10, 0)] * 3
    assert far_worse(log(1e6), recent, 3)
    assert not far_worse(log(1e6) - 0.01, recent, 3)
    assert not far_worse(log(1e6), [Pair(100, 100, 4, 0)] * 3, 3)
    assert not far_worse(log(1e6), recent, 2)
    assert not far_worse(log(1e6), [Pair(0, 100, 0, 0)] * 3, 3)


def test_the_design_effect_is_one_for_even_halves_and_grows_with_clumps() -> None:
    even, clumped = DesignEffect(), DesignEffect()
    for i in range(20):
        even = even.add(EVEN, Pair(100, 100, 5, 5), 60.0, 120.0)
        clumped = clumped.add(EVEN, Pair(100, 100, 10 * (i // 2 % 2), 10 * (1 - i // 2 % 2)), 60.0, 120.0)
    assert even.batches == clumped.batches == 10
    assert even.design_effect == 1.0
    assert clumped.design_effect == pytest.approx(20.0)


def test_the_design_effect_sees_what_befalls_a_whole_arm_at_once() -> None:
    """Both halves of the reference suffer alike, and in turn with the candidate."""
    known = DesignEffect()
    for i in range(10):
        ours, theirs = (20, 0) if i % 2 else (0, 20)
        known = known.add(Pair(200, 200, ours, theirs), Pair(100, 100, theirs // 2, theirs // 2), 60.0, 60.0)
    assert known.design_effect == pytest.approx(10 * 20 / 9)


@pytest.mark.parametrize("ratio", [1, 3])
def test_a_constant_ratio_is_no_clumping_whatever_it_is(ratio: int) -> None:
    assert scatter(
        [Pair(1000, 1000, 4 * ratio, 4), Pair(1000, 3000, 4 * ratio, 12), Pair(500, 1000, 2 * ratio, 4)]
    ) == pytest.approx(0)


def test_batches_without_bad_events_tell_nothing_of_clumping() -> None:
    assert squared_difference(Pair(100, 100, 0, 0)) is None
    assert scatter([Pair(100, 100, 0, 0)] * 5) is None and scatter([Pair(100, 100, 1, 1)]) is None
    quiet = DesignEffect().add(Pair(100, 100, 0, 0), Pair(50, 50, 0, 0), 120.0, 120.0)
    assert not quiet.known and quiet.design_effect == 2.0


def test_halves_are_every_other_instance() -> None:
    assert halves([(10, 1), (20, 2), (30, 3)]) == Pair(40, 20, 4, 2)
