"""From scrapes to windows, and what the Rollout object makes of them; the replay log."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.sidecar.rollout import latency_edges, replay
from evenkeel.sidecar.rollout.counters import Delta, Edges, Key, Scrape, Window, at_or_below, delta
from evenkeel.sidecar.rollout.judge_errors import BadLog, BadRule
from evenkeel.sidecar.rollout.reasons import RolloutVerdict
from evenkeel.sidecar.rollout.rollout import Rollout
from evenkeel.sidecar.rollout.rule import Rule
from tests.sidecar.rollout.traffic import BASELINE, CANDIDATE, ERRORS_ONLY, PRODUCTION, arm, scrape, window

counts = st.dictionaries(st.sampled_from(["200", "400", "429", "500", "504"]), st.integers(0, 10_000))
buckets = st.lists(st.integers(0, 50), min_size=4, max_size=4)


def cumulative(plain: list[int]) -> tuple[tuple[float, int], ...]:
    totals = [sum(plain[: i + 1]) for i in range(len(plain))]
    return tuple(zip((0.1, 0.2, 0.4, inf), totals, strict=True))


def test_a_delta_counts_what_is_the_servers_doing() -> None:
    before = scrape(CANDIDATE, c200=10, c400=1, c500=1)
    after = scrape(CANDIDATE, c200=110, c400=4, c429=2, c500=3, c504=1)
    d = delta(before, after, Edges())
    assert (d.requests, d.judged, d.errors, d.client_errors) == (108, 103, 3, 5)
    assert not d.reset and d.restarts == 0


def test_a_counter_that_fell_began_anew_and_takes_all_others_with_it() -> None:
    """The errors grew past their old value, so only the requests give the restart away."""
    d = delta(scrape(CANDIDATE, c200=1000, c500=1), scrape(CANDIDATE, c200=200, c500=5), Edges())
    assert d.reset and d.restarts == 1
    assert (d.requests, d.errors) == (205, 5)


def test_a_series_that_is_gone_is_a_restart_too() -> None:
    assert delta(scrape(CANDIDATE, c200=10, c500=1), scrape(CANDIDATE, c200=20), Edges()).reset


@given(counts, counts, buckets, buckets)
def test_no_delta_is_ever_negative(before: dict[str, int], after: dict[str, int], low: list[int], high: list[int]) -> None:
    d = delta(
        Scrape(Key(CANDIDATE, "a"), 0, before, cumulative(low), {}),
        Scrape(Key(CANDIDATE, "a"), 10, after, cumulative(high), {}),
        Edges((0.1, 0.2)),
    )
    assert min(d.requests, d.judged, d.errors, d.timed, *d.slower, d.shed, d.restarts) >= 0
    assert d.errors <= d.judged <= d.requests and max(d.slower) <= d.timed


def test_slow_answers_are_counted_above_the_edge() -> None:
    before = scrape(CANDIDATE, slow={0.1: 90, 0.2: 99, inf: 100}, c200=100)
    after = scrape(CANDIDATE, slow={0.1: 180, 0.2: 190, inf: 200}, c200=200)
    d = delta(before, after, Edges((0.1, 0.2)))
    assert (d.timed, d.slower) == (100, (10, 9))


def test_an_edge_that_was_left_out_counts_like_the_one_below() -> None:
    assert at_or_below(((0.1, 5), (0.4, 9), (inf, 10)), 0.2) == 5
    assert at_or_below(((0.1, 5), (inf, 10)), 0.05) == 0
    assert at_or_below((), 1.0) == 0


@pytest.mark.parametrize(
    ("reason", "fault"),
    [("golden", "golden_check_failed"), ("OOM", "out_of_memory"), ("xid_79", "device_fault"), ("device_lost", "device_fault")],
)
def test_a_restart_tells_its_reason(reason: str, fault: str) -> None:
    before, after = scrape(CANDIDATE), replace(scrape(CANDIDATE), restarts={reason: 1})
    assert delta(before, after, Edges()).faults == (fault,)
    assert delta(after, after, Edges()).faults == ()


def test_edges_lie_at_or_above_p90_and_p99_and_the_objective() -> None:
    seen = {0.1: 850, 0.125: 60, 0.15: 80, 0.2: 5, 0.25: 4, inf: 1}
    assert latency_edges.choose(seen, 0.0) == (0.125, 0.15)
    assert latency_edges.choose(seen, 0.18) == (0.125, 0.15, 0.2)


def test_an_objective_that_the_reference_misses_often_is_no_edge() -> None:
    assert latency_edges.choose({0.1: 700, 0.2: 250, 0.4: 50}, 0.05) == (0.2, 0.4)


def test_an_edge_without_an_upper_bound_is_none() -> None:
    assert latency_edges.choose({0.1: 80, inf: 20}, 0.0) == ()


# The Rollout object


def arms(at: int, errors: int = 0, base: int = 0) -> list[Scrape]:
    """Two arms of two instances after `at` windows of 500 requests each."""
    return [
        scrape(a, at * 10.0, name, slow={0.1: base + at * 480, 0.2: base + at * 497, inf: base + at * 500},
               c200=base + at * 500 - (errors * at if a == CANDIDATE else at), c500=errors * at if a == CANDIDATE else at)
        for a in (BASELINE, CANDIDATE) for name in ("a", "b")
    ]  # fmt: skip


def run(rule: Rule, rounds: int, errors: int = 1) -> Rollout:
    rollout = Rollout(rule)
    for i in range(rounds):
        rollout.observe(i * 10.0, arms(i, errors))
    return rollout


def test_scrapes_become_a_promotion() -> None:
    record = run(ERRORS_ONLY, 61).decision()
    assert record.verdict == RolloutVerdict.PROMOTE
    data = record.to_json()
    assert data["decision"] == "promote" and data["metrics"]["errors"]["candidate"] == {"requests": 60_000, "bad": 120}


def test_scrapes_become_a_rollback() -> None:
    assert run(ERRORS_ONLY, 61, errors=4).decision().verdict == RolloutVerdict.ROLLBACK


def test_before_the_first_window_it_holds() -> None:
    assert run(ERRORS_ONLY, 1).decision().verdict == RolloutVerdict.HOLD
    assert Rollout(ERRORS_ONLY).decision().verdict == RolloutVerdict.HOLD


def test_what_was_counted_before_the_rollout_is_nobodys_doing() -> None:
    rollout = Rollout(ERRORS_ONLY)
    rollout.observe(0.0, [scrape(BASELINE, c200=10), scrape(CANDIDATE, c200=10, c500=10_000)])
    rollout.observe(10.0, [scrape(BASELINE, c200=20), scrape(CANDIDATE, c200=20, c500=10_000)])
    assert rollout.decision().to_json()["metrics"]["errors"]["candidate"] == {"requests": 10, "bad": 0}


def test_latency_edges_are_chosen_from_the_reference_and_judge_later_windows_only() -> None:
    rollout = run(Rule("x"), 61)
    assert [w.edges for w in rollout.windows[:2]] == [(), (0.1, 0.2)]
    data = rollout.decision().to_json()
    assert data["decision"] == "promote"
    assert data["metrics"]["slower_than_200ms"]["candidate"] == {"requests": 59_000, "bad": 59 * 6}


def test_edges_wait_for_enough_answers_of_the_reference() -> None:
    rollout = run(Rule("x", edge_requests_min=2500), 5)
    assert [w.edges for w in rollout.windows] == [(), (), (), (0.1, 0.2)]


def test_edges_are_chosen_from_whole_windows_without_restarts() -> None:
    rollout = Rollout(Rule("x", edge_requests_min=900))
    rollout.observe(0.0, arms(0, base=5000))
    rollout.observe(10.0, arms(1)[1:])  # one missing
    rollout.observe(20.0, arms(2))  # all began anew, unlike their last scrape
    rollout.observe(30.0, arms(3))
    rollout.observe(40.0, arms(4))
    assert [w.edges for w in rollout.windows] == [(), (), (), (0.1, 0.2)]


def test_edges_given_by_hand_are_kept() -> None:
    assert {w.edges for w in run(Rule("x", edges=(0.15,)), 5).windows} == {(0.15,)}


def test_an_instance_that_does_not_answer_makes_a_gap_that_ends_when_it_answers() -> None:
    rollout = run(ERRORS_ONLY, 60)
    rollout.observe(600.0, arms(60, 1)[:-1])
    record = rollout.decision()
    assert record.verdict == RolloutVerdict.HOLD and [f.reason for f in record.findings] == ["data_gap"]
    assert rollout.windows[59].missing == ("candidate/b",)
    rollout.observe(610.0, arms(61, 1))
    assert rollout.decision().verdict == RolloutVerdict.PROMOTE
    assert rollout.decision().to_json()["metrics"]["errors"]["candidate"] == {"requests": 61_000, "bad": 122}


def test_an_instance_that_never_answered_is_missing_when_it_is_named() -> None:
    rollout = Rollout(ERRORS_ONLY)
    rollout.observe(0.0, arms(0))
    window = rollout.observe(10.0, arms(1), missing=[Key(CANDIDATE, "c")])
    assert window is not None and window.missing == ("candidate/c",)


def test_a_restart_during_a_gap_is_seen_afterwards() -> None:
    rollout = Rollout(ERRORS_ONLY)
    one, two = scrape(BASELINE, c200=1000), scrape(CANDIDATE, c200=1000)
    rollout.observe(0.0, [one, two])
    rollout.observe(10.0, [one])
    window = rollout.observe(20.0, [one, scrape(CANDIDATE, c200=5)])
    assert window is not None and window.of(CANDIDATE)[0].reset


def test_production_beside_a_baseline_may_lose_instances() -> None:
    rollout = Rollout(ERRORS_ONLY)
    rollout.observe(0.0, [*arms(0), scrape(PRODUCTION, name="p")])
    window = rollout.observe(10.0, arms(1))
    assert window is not None and window.missing == ()


def test_a_reference_that_drained_is_not_missed_but_a_candidate_is() -> None:
    for who, missing in ((BASELINE, ()), (CANDIDATE, ("candidate/b",))):
        rollout = Rollout(ERRORS_ONLY)
        leaving = [replace(s, state="DRAINING") if s.key == Key(who, "b") else s for s in arms(0)]
        rollout.observe(0.0, leaving)
        window = rollout.observe(10.0, [s for s in arms(1) if s.key != Key(who, "b")])
        assert window is not None and window.missing == missing


def test_a_newcomer_counts_from_its_second_scrape() -> None:
    rollout = Rollout(ERRORS_ONLY)
    rollout.observe(0.0, arms(0))
    window = rollout.observe(10.0, [*arms(1), scrape(CANDIDATE, name="c", c200=7, c500=900)])
    assert window is not None and window.of(CANDIDATE)[-1] == Delta(CANDIDATE, "c", ready=True, state="READY", joined=True)


def test_a_stage_changes_the_split_and_begins_its_floors_anew() -> None:
    rollout = Rollout(ERRORS_ONLY, {BASELINE: 1, CANDIDATE: 1})
    for i in range(40):
        rollout.observe(i * 10.0, arms(i))
    rollout.next_stage({BASELINE: 1, CANDIDATE: 3})
    rollout.observe(400.0, arms(40))
    data = rollout.decision().to_json()
    assert data["stage"] == 1 and data["split"]["declared"] == 0.75
    assert {"too_soon"} <= {r["code"] for r in data["reasons"]}


@pytest.mark.parametrize("split", [{BASELINE: 1.0}, {CANDIDATE: 1.0}, {BASELINE: 1.0, CANDIDATE: 0.0}])
def test_a_split_without_two_arms_is_refused(split: dict[object, float]) -> None:
    with pytest.raises(BadRule):
        Rollout(ERRORS_ONLY, split)  # type: ignore[arg-type]


# Replay


@pytest.mark.parametrize("errors", [1, 4])
def test_a_replay_gives_the_same_record_to_the_last_bit(errors: int) -> None:
    rollout = run(Rule("x"), 61, errors)
    lines = rollout.log()
    again = replay.read(lines)
    assert again.agrees and replay.line(again.decision) == lines[-1].removeprefix('{"decision":')[:-1]
    assert again.windows == tuple(rollout.windows) and again.rule == rollout.rule


deltas = st.builds(
    Delta, st.sampled_from([BASELINE, CANDIDATE, PRODUCTION]), st.sampled_from("ab"),
    requests=st.integers(0, 900), judged=st.integers(0, 900), errors=st.integers(0, 40), timed=st.integers(0, 900),
    slower=st.tuples(st.integers(0, 40)), shed=st.integers(0, 2), restarts=st.integers(0, 1),
    ready=st.sampled_from([None, True, False]), state=st.sampled_from(["", "READY", "FAILED"]), reset=st.booleans(),
)  # fmt: skip


@given(st.lists(st.lists(deltas, max_size=6), max_size=12), st.booleans())
def test_any_log_replays_to_the_same_bytes(series: list[list[Delta]], gap: bool) -> None:
    windows = [window(i, d, edges=(0.1,), missing=("candidate/x",) if gap and i == 2 else ()) for i, d in enumerate(series)]
    first = replay.recompute(Rule("x", edges=(0.1,)), tuple(windows))
    again = replay.read(replay.write(first.rule, windows, first.decision))
    assert again.agrees
    assert again.decision["decision"] != "promote" or not (gap and len(windows) > 2)


def test_a_record_is_json_without_infinities() -> None:
    text = replay.line(run(Rule("x"), 3).decision().to_json())
    assert "Infinity" not in text and json.loads(text)["metrics"]["errors"]["ratio"]["high"] > 1


def test_a_log_that_was_cut_short_replays_without_a_verdict_to_compare() -> None:
    found = replay.read(run(ERRORS_ONLY, 10).log()[:-3])
    assert found.recorded is None and found.decision["windows"] == 7


def test_a_log_that_was_changed_does_not_agree() -> None:
    lines = run(ERRORS_ONLY, 61).log()
    lines[5] = lines[5].replace('"errors":1', '"errors":3')
    assert not replay.read(lines).agrees


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "the log is empty"),
        (["{}"], "line 1: not a replay log"),
        (["hello"], "line 1: cannot be read"),
        ([replay.line({"format": replay.FORMAT, "rule": {"rollout": "x", "colour": 1}})], "unknown settings"),
        ([replay.line({"format": replay.FORMAT, "rule": ERRORS_ONLY.to_json()}), '{"window": {}}'], "line 2: cannot be read"),
        ([replay.line({"format": replay.FORMAT, "rule": ERRORS_ONLY.to_json()}), "[]"], "line 2: cannot be read"),
    ],
)
def test_a_damaged_log_names_its_line(lines: list[str], words: str) -> None:
    with pytest.raises((BadLog, BadRule), match=words):
        replay.read(lines)


def test_defaults_are_left_out_of_the_log_and_come_back() -> None:
    d = arm(CANDIDATE, 10, 0)[0]
    assert set(d.to_json()) == {"arm", "instance", "requests", "judged", "ready"}
    assert Delta.from_json(json.loads(json.dumps(d.to_json()))) == d
    w = window(0, [d], missing=("candidate/x",))
    assert Window.from_json(json.loads(json.dumps(w.to_json()))) == w
