"""What follows the end of a process: progress decides. Pure, no process, no clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evenkeel.container.supervise.restart import BACKOFF_S, End, History, LifeRecord, Post, RestartAction, Situation, Step, after
from evenkeel.serve.contract.process_setup import EXIT_BAD_MODEL

LIMIT = Situation(limit=5)
WORKED = LifeRecord(ready_s=3.0, answered=True)
NEVER_READY, UNASKED = LifeRecord(), LifeRecord(ready_s=3.0)


def killed(life: LifeRecord, reason: str = "signal", role: str = "engine") -> End:
    return End(role, f"{role} 0", -9, reason, "signal SIGKILL", life)


def ends(*those: End, now: Situation = LIMIT) -> list[Step]:
    """What follows each end, one after the other, at the same place."""
    steps, history = [], History()
    for end in those:
        steps.append(after(end, history, now))
        history = steps[-1].history
    return steps


def did(*those: End, now: Situation = LIMIT) -> list[RestartAction]:
    return [step.do for step in ends(*those, now=now)]


def test_a_hundred_kills_of_an_engine_that_answered_between_them_are_no_reason_to_give_up() -> None:
    steps = ends(*[killed(WORKED)] * 100)
    assert {(s.do, s.after_s) for s in steps} == {(RestartAction.START, 0.0)}, "nor to wait"


@pytest.mark.parametrize("role", ["engine", "front", "sidecar"])
@pytest.mark.parametrize("life", [NEVER_READY, UNASKED])
def test_five_restarts_in_a_row_that_brought_nothing_end_the_container(role: str, life: LifeRecord) -> None:
    assert did(*[killed(life, role=role)] * 6) == [RestartAction.START] * 5 + [RestartAction.GIVE_UP]


def test_one_life_that_answered_forgives_those_before_it() -> None:
    assert did(*[killed(UNASKED)] * 5, killed(WORKED), *[killed(UNASKED)] * 6)[-7:] == [RestartAction.START] * 6 + [
        RestartAction.GIVE_UP
    ]


def test_the_wait_before_a_start_grows_only_while_nothing_is_done() -> None:
    steps = ends(*[killed(NEVER_READY)] * 4, killed(WORKED), killed(NEVER_READY), killed(NEVER_READY))
    assert [s.after_s for s in steps] == [*BACKOFF_S[:4], 0.0, *BACKOFF_S[:2]]


def test_the_sidecar_waits_a_second_at_most_and_a_container_that_was_ready_does_without_it() -> None:
    steps = ends(*[killed(UNASKED, role="sidecar")] * 20, now=Situation(limit=5, was_ready=True))
    assert {s.do for s in steps} == {RestartAction.START} and max(s.after_s for s in steps) == 1.0


def test_an_engine_that_stood_ready_for_ten_minutes_and_was_asked_nothing_has_not_failed() -> None:
    assert did(*[killed(LifeRecord(ready_s=601.0))] * 20) == [RestartAction.START] * 20


def test_ends_by_known_requests_do_not_count_once_the_engine_has_answered_others() -> None:
    poison = [killed(UNASKED), killed(LifeRecord(ready_s=1.0, suspect=True))]
    assert did(killed(WORKED), *poison * 50) == [RestartAction.START] * 101


def test_a_model_that_every_request_ends_and_that_never_answered_any_is_given_up() -> None:
    poison = [killed(UNASKED), killed(LifeRecord(ready_s=1.0, suspect=True))]
    assert did(*poison * 5, killed(UNASKED)) == [RestartAction.START] * 10 + [RestartAction.GIVE_UP]


def test_the_reasons_are_named_when_the_container_gives_up() -> None:
    *_, last = ends(*[killed(NEVER_READY, "out_of_memory")] * 4, killed(NEVER_READY, "stuck"), killed(NEVER_READY, "device"))
    assert last.do is RestartAction.GIVE_UP
    assert last.why == (
        "engine 0: 6 lives in a row answered nothing (out_of_memory 4 times, stuck 1 time, device 1 time; the last ended with "
        "signal SIGKILL)"
    )


def test_an_end_for_want_of_memory_halves_the_batch_before_it_counts() -> None:
    def short(rows: int) -> End:
        return killed(LifeRecord(ready_s=1.0, batch_rows=rows), "out_of_memory")

    steps = ends(short(8), short(4), short(2), *[short(1)] * 6)
    assert [s.history.rows_max for s in steps[:4]] == [4, 2, 1, 1]
    assert [s.lowered for s in steps[:4]] == [True, True, True, False]
    assert [s.do for s in steps] == [RestartAction.START] * 8 + [RestartAction.GIVE_UP], "the first three do not count"


def test_a_bound_on_batches_holds_through_lives_that_answered_and_other_ends() -> None:
    steps = ends(killed(LifeRecord(ready_s=1.0, batch_rows=8), "out_of_memory"), killed(WORKED), killed(NEVER_READY))
    assert [s.history.rows_max for s in steps] == [4, 4, 4]


def test_a_model_that_cannot_be_served_ends_the_container_at_once() -> None:
    assert did(replace(killed(NEVER_READY), code=EXIT_BAD_MODEL)) == [RestartAction.GIVE_UP]


def test_one_that_left_for_its_memory_is_started_again_at_once_and_not_counted() -> None:
    steps = ends(*[replace(killed(UNASKED, "leak"), code=0)] * 20)
    assert {(s.do, s.after_s, s.history) for s in steps} == {(RestartAction.START, 0.0, History())}


def test_a_successor_that_is_being_made_takes_over_after_a_crash() -> None:
    assert did(killed(WORKED), now=replace(LIMIT, successor=True)) == [RestartAction.TAKE_OVER]


@pytest.mark.parametrize(
    ("post", "code", "serves", "do"),
    [
        (Post.PREDECESSOR, 0, True, RestartAction.NOTHING),
        (Post.SUCCESSOR, 1, True, RestartAction.REPLACE_IN_PLACE),
        (Post.SUCCESSOR, EXIT_BAD_MODEL, True, RestartAction.KEEP_PREDECESSOR),
        (Post.SUCCESSOR, 1, False, RestartAction.NOTHING),
    ],
)
def test_what_stands_beside_another_has_rules_of_its_own(post: Post, code: int, serves: bool, do: RestartAction) -> None:
    end = replace(killed(NEVER_READY, "exit"), post=post, code=code)
    assert did(end, now=replace(LIMIT, predecessor_serves=serves)) == [do]


def test_while_the_container_leaves_only_an_engine_comes_back_and_only_for_fronts_that_live() -> None:
    leaving = replace(LIMIT, leaving=True)
    assert did(*[killed(NEVER_READY)] * 9, now=leaving) == [RestartAction.START] * 9, "the deadline is the bound"
    assert did(killed(NEVER_READY), now=replace(leaving, fronts_live=False)) == [RestartAction.NOTHING]
    assert did(killed(UNASKED, role="front"), now=leaving) == [RestartAction.NOTHING]
    assert did(replace(killed(NEVER_READY), code=EXIT_BAD_MODEL), now=leaving) == [RestartAction.NOTHING]
    assert did(replace(killed(NEVER_READY), post=Post.SUCCESSOR), now=leaving) == [RestartAction.NOTHING]
