"""STORY 1 by example: Invocations against a real Cycle in the same process. Failures first."""

from __future__ import annotations

import gc
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from evenkeel.serve.contract.lifecycle import Reason, Verdict
from evenkeel.serve.contract.status_page import RUN_EPOCH, Engine, Front
from evenkeel.serve.engine.backends.base import RawReply, RawRequest
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.errors import NUMBER, BadShape, DeadlineExceeded
from evenkeel.serve.front.http.request_head import Head
from evenkeel.serve.front.request.suspects import SUBMITS_MAX
from evenkeel.serve.front.routing.admission import FEW
from evenkeel.serve.settings import Limits
from evenkeel.serve.transport.descriptor import ANSWER, FINITE, REPLY
from tests.support.front_bench import FrontBench, codes, head
from tests.support.models import Array, raw_replica, replica, signature, spec, twice_plus_one

PAIR = signature([spec("x", 2)], [spec("y", 2)])
FREE = signature([spec("x", "n")], [spec("y", "m")])


def plain() -> Replica:
    return replica(PAIR)


def body(*rows: Sequence[float]) -> bytes:
    return json.dumps({"instances": rows}).encode()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array, np.float32))
    return file.getvalue()


def predictions(raw: bytes | None) -> Any:
    assert raw is not None
    return json.loads(raw)["predictions"]


# ---- refusals ------------------------------------------------------------------------------------------------------------


def test_a_request_before_any_engine_was_ready_is_not_ready() -> None:
    with FrontBench(plain, started=False) as bench:
        caller = bench.ask(body([1, 2]))
        assert caller.code == "not_ready" and caller.error is not None and caller.error.retry_after_s == 1
        bench.assert_clean()


def test_requests_that_wait_for_the_first_engine_are_bounded_in_bytes() -> None:
    with FrontBench(plain, started=False, limits=Limits(queue_bytes_max=1000)) as bench:
        bench.page.write_verdict(Verdict(False, Reason.NOT_CONNECTED), 1.0)
        asked = [bench.ask(body([1, 2]).ljust(300)) for _ in range(5)]
        assert codes(asked) == ["waits"] * 3 + ["overloaded"] * 2
        bench.engines[0].start()
        bench.settle()
        assert codes(asked) == ["ok"] * 3 + ["overloaded"] * 2
        bench.assert_clean()


def test_a_body_that_does_not_fit_is_refused_and_holds_nothing() -> None:
    with FrontBench(plain) as bench:
        caller = bench.ask(body([1, 2, 3]))
        assert caller.code == "bad_shape"
        assert bench.page.front(0).count[Front.ERRORS + NUMBER[BadShape]] == 1
        bench.assert_clean()


@pytest.mark.parametrize(
    ("the_head", "code"),
    [
        (head("image/png"), "unsupported_media_type"),
        (head(accept="image/png"), "not_acceptable"),
        (head(content_encoding="gzip"), "unsupported_media_type"),
    ],
)
def test_what_the_head_asks_in_vain_is_refused_only_when_the_model_needs_codecs(the_head: Any, code: str) -> None:
    with FrontBench(plain) as bench:
        assert bench.ask(body([1, 2]), the_head).code == code
        bench.assert_clean()


@pytest.mark.parametrize("others", [0, 7])
def test_a_reply_that_names_another_model_is_not_the_reply_of_its_request(others: int) -> None:
    with FrontBench(plain) as bench:
        asked = [bench.arrive(body([i, i]))[0] for i in range(others + 1)]
        bench.step_front()
        (link,) = bench.front.engines.links
        assert link.model is not None
        id, slot = next((i, pending.slot) for i, pending in bench.front.in_flight.pending.items())
        assert slot is not None
        stray = REPLY.pack(ANSWER, FINITE, 0, 1, id, slot.offset, 8, link.model.ref + (1 << 32))
        bench.front.row_batcher.replied(link, stray * 7)
        assert codes(asked) == ["waits"] * len(asked) and link.rows == len(asked)
        bench.settle()
        assert [predictions(caller.body) for caller in asked] == [[[2.0 * i + 1] * 2] for i in range(others + 1)]
        bench.assert_clean()


def test_a_full_queue_refuses_and_names_the_limit() -> None:
    with FrontBench(plain, limits=Limits(queue_rows_max=3)) as bench:
        first = [bench.ask(body([i, i])) for i in range(3)]
        refused = bench.ask(body([9, 9]))
        assert refused.code == "overloaded" and refused.error is not None
        assert "limit is 3" in refused.error.message and refused.error.retry_after_s is not None
        bench.settle()
        assert codes(first) == ["ok"] * 3
        assert bench.ask(body([9, 9])).code == "waits"
        bench.settle()
        bench.assert_clean()


def test_a_full_arena_refuses_in_bytes() -> None:
    with FrontBench(plain, limits=Limits(queue_bytes_max=260)) as bench:
        taken = [bench.ask(body([1, 2])) for _ in range(2)]
        assert bench.ask(body([1, 2])).code == "overloaded"
        bench.settle()
        assert codes(taken) == ["ok", "ok"]
        bench.assert_clean()


def roomy() -> Replica:
    """Any request of these tests fits one batch of it."""
    return replica(PAIR, rows_max=256)


@pytest.mark.parametrize(("row_cost_s", "the_head", "code"), [
    (100.0, head(), "overloaded"), (0.0, head("text/weird"), "unsupported_media_type"),
    (0.0, head(accept="image/png"), "not_acceptable"),
])  # fmt: skip
def test_a_refusal_holds_no_body_and_leaves_the_garbage_collector_nothing(row_cost_s: float, the_head: Head, code: str) -> None:
    """Cycles of a surge were collected by the hundred thousand, and the loop stood still for 150 ms each time."""
    with FrontBench(plain) as bench:
        bench.page.engine(0).value[Engine.ROW_COST_S] = row_cost_s
        bench.page.engine(0).count[Engine.QUEUE_ROWS] = 100
        bench.front.sweep()
        bench.ask(body([1, 2]), the_head)
        bench.step_front()
        gc.collect()
        gc.disable()
        try:
            codes_seen = {bench.ask(body([1, 2]), the_head).code for _ in range(50)}
            assert codes_seen == {code} and gc.collect() < 50
        finally:
            gc.enable()
        assert the_head.formats.wrong is None or the_head.formats.wrong.__traceback__ is None


@pytest.mark.parametrize(("looked", "code"), [(False, "waits"), (True, "overloaded")])
def test_a_pause_of_the_container_is_no_time_of_the_batch_that_ran_then(looked: bool, code: str) -> None:
    with FrontBench(plain, limits=Limits(request_timeout_s=60.0)) as bench:
        engine = bench.page.engine(0)
        engine.value[Engine.ROW_COST_S] = 0.001
        before = [bench.ask(body([1, 2])) for _ in range(4)]
        engine.count[Engine.RUN_ROWS], engine.value[Engine.RUN_STARTED_S] = 1, bench.clock()
        bench.front.sweep()
        for _ in range(35):
            bench.clock.advance(1.0)
            if looked:
                bench.front.sweep()
        bench.front.sweep()
        assert bench.ask(body([1, 2])).code == code
        engine.value[Engine.RUN_STARTED_S] = 0.0
        bench.settle()
        assert codes(before) == ["ok"] * 4


def test_a_wait_that_would_outlast_the_deadline_is_refused_at_once() -> None:
    with FrontBench(roomy, limits=Limits(request_timeout_s=1.0)) as bench:
        bench.page.engine(0).value[Engine.ROW_COST_S] = 0.01
        ahead = bench.ask(body(*[[1, 2]] * 200))
        refused = bench.ask(body([1, 2]))
        assert refused.code == "overloaded" and refused.error is not None and "2.0 s" in refused.error.message
        assert refused.error.retry_after_s == 2
        bench.settle(30)
        assert ahead.code == "ok"
        bench.assert_clean()


def test_a_wait_that_leaves_too_little_of_the_deadline_is_refused_too() -> None:
    """Else a full queue would be one of requests that all reach the model when it is just too late for them."""
    for rows, code in ((70, "ok"), (90, "overloaded")):
        with FrontBench(roomy, limits=Limits(request_timeout_s=1.0)) as bench:
            bench.page.engine(0).value[Engine.ROW_COST_S] = 0.01
            bench.ask(body(*[[1, 2]] * rows))
            caller = bench.ask(body([1, 2]))
            bench.settle(30)
            assert caller.code == code
            bench.assert_clean()


def test_where_many_wait_little_more_is_taken_and_where_few_do_a_long_wait_is_no_overload() -> None:
    """A surge must be over soon after it ends; a slow model with some callers has no surge."""
    for requests, code in ((FEW - 2, "ok"), (FEW - 1, "overloaded")):
        with FrontBench(roomy, limits=Limits(queue_wait_s=0.5)) as bench:
            bench.page.engine(0).value[Engine.ROW_COST_S] = 0.01
            long = bench.ask(body(*[[1, 2]] * 100))
            before = [bench.ask(body([1, 2])) for _ in range(requests)]
            bench.clock.advance(0.5)  # so long the queue has not been empty
            caller = bench.ask(body([1, 2]))
            bench.settle(30)
            assert (long.code, set(codes(before)), caller.code) == ("ok", {"ok"}, code)
            if caller.error is not None:
                assert "0.5 s are accepted" in caller.error.message
            bench.assert_clean()


def test_a_burst_into_an_empty_queue_may_wait_for_most_of_its_deadline() -> None:
    """Two hundred callers at once of a model that takes 23 ms for each."""
    with FrontBench(roomy) as bench:
        bench.page.engine(0).value[Engine.ROW_COST_S] = 0.023
        burst = [bench.ask(body([i, i])) for i in range(200)]
        bench.settle(30)
        assert codes(burst) == ["ok"] * 200
        bench.assert_clean()


def test_a_second_burst_is_refused_as_long_as_the_queue_of_the_first_is_not_empty() -> None:
    with FrontBench(roomy) as bench:
        bench.page.engine(0).value[Engine.ROW_COST_S] = 0.023
        bench.front.sweep()
        first = [bench.ask(body([i, i])) for i in range(200)]
        bench.clock.advance(2.0)
        bench.front.sweep()
        assert bench.ask(body([1, 1])).code == "overloaded"
        bench.settle(30)
        bench.front.sweep()  # it is empty now
        bench.page.engine(0).value[Engine.ROW_COST_S] = 0.023
        second = [bench.ask(body([i, i])) for i in range(200)]
        bench.settle(30)
        assert codes(first + second) == ["ok"] * 400
        bench.assert_clean()


# ---- requests of many rows -----------------------------------------------------------------------------------------------


def test_a_request_whose_own_rows_cannot_be_done_in_time_is_refused_at_once_and_told_how_many_could() -> None:
    with FrontBench(plain, limits=Limits(request_timeout_s=1.0)) as bench:
        bench.page.engine(0).value[Engine.ROW_COST_S] = 0.005
        refused = bench.ask(body(*[[1, 2]] * 200))
        assert refused.code == "too_many_rows" and refused.error is not None and refused.error.status == 413
        assert "about 160 rows would fit now" in refused.error.message
        fits = bench.ask(body(*[[1, 2]] * 160))
        bench.settle(30)
        assert fits.code == "ok"
        bench.assert_clean()


def test_one_that_would_fit_an_idle_engine_is_told_to_come_back() -> None:
    with FrontBench(plain, limits=Limits(request_timeout_s=1.0)) as bench:
        bench.page.engine(0).value[Engine.ROW_COST_S] = 0.005
        first, second = bench.ask(body(*[[1, 2]] * 140)), bench.ask(body(*[[1, 2]] * 140))
        assert second.code == "overloaded" and second.error is not None and second.error.retry_after_s == 1
        bench.settle(30)
        assert first.code == "ok"
        bench.assert_clean()


def test_where_the_cost_of_a_row_is_unknown_no_rows_are_too_many() -> None:
    with FrontBench(plain, limits=Limits(request_timeout_s=1.0)) as bench:
        bench.page.engine(0).value[Engine.ROW_COST_S] = 0.0
        caller = bench.ask(body(*[[1, 2]] * 1000))
        bench.settle(400)
        assert caller.code == "ok"
        bench.assert_clean()


def test_a_request_of_many_rows_shuts_nobody_out_and_is_answered_beside_the_others() -> None:
    with FrontBench(plain, limits=Limits(queue_rows_max=100, request_timeout_s=10.0)) as bench:
        bench.page.engine(0).value[Engine.ROW_COST_S] = 0.005
        large = bench.ask(body(*[[1, 2]] * 1500))
        small = [bench.ask(body([i, i])) for i in range(20)]
        bench.settle(5)
        assert codes(small) == ["ok"] * 20 and large.code == "waits"
        bench.settle(400)
        assert large.code == "ok"
        bench.assert_clean()


def test_a_large_request_in_a_crash_or_whose_caller_leaves_is_counted_once() -> None:
    with FrontBench(plain) as bench:
        large, (_, leaves) = bench.ask(body(*[[1, 2]] * 200)), bench.begin(body(*[[1, 2]] * 200))
        bench.front.cancellation.abandon(leaves)
        crash_in_the_middle(bench)
        assert bench.front.engines.links[0].beyond == 0
        bench.engines[0].start()
        bench.settle(30)
        assert large.code == "ok" and bench.front.in_flight.beyond == 0
        bench.assert_clean()


def test_an_answer_that_would_need_more_room_than_any_slot_is_not_called_overload() -> None:
    """A retry can never help, so 429 would make clients come back for ever."""
    huge = signature([spec("x", 1)], [spec("y", 1 << 27)])
    with FrontBench(lambda: replica(huge)) as bench:
        caller = bench.ask(body([1]))
        assert caller.code != "overloaded"


# ---- answers --------------------------------------------------------------------------------------------------------------


def test_each_caller_gets_the_answer_to_its_own_request() -> None:
    with FrontBench(plain) as bench:
        callers = [bench.ask(body([i, -i])) for i in range(20)]
        bench.settle()
        assert [predictions(c.body) for c in callers] == [[[2.0 * i + 1, 1.0 - 2 * i]] for i in range(20)]
        assert bench.page.front(0).count[Front.OK] == 20
        bench.assert_clean()


def test_a_reply_in_another_format_than_the_request() -> None:
    with FrontBench(plain) as bench:
        caller = bench.ask(npy([[1, 2]]), head("application/x-npy", "text/csv"))
        bench.settle()
        assert caller.body == b"3.0,5.0\n" and b"text/csv" in caller.start
        bench.assert_clean()


def logarithm(inputs: Sequence[Array]) -> list[Array]:
    with np.errstate(all="ignore"):
        return [np.log(inputs[0])]


def test_a_nan_in_an_output_is_an_error_that_names_it_in_json_and_a_number_in_npy() -> None:
    with FrontBench(lambda: replica(PAIR, logarithm)) as bench:
        strict, binary = bench.ask(body([-1, 1])), bench.ask(npy([[-1, 1]]), head("application/x-npy"))
        bench.settle()
        assert strict.code == "not_finite_output" and strict.error is not None and "'y'" in strict.error.message
        assert binary.body is not None and np.isnan(np.load(io.BytesIO(binary.body))[0, 0])
        bench.assert_clean()


def test_a_nan_in_the_first_part_of_a_split_request_is_found_too() -> None:
    with FrontBench(lambda: replica(PAIR, logarithm, rows_max=2)) as bench:
        caller = bench.ask(body([-1, 1], [1, 1], [1, 1], [1, 1]))
        bench.settle()
        assert caller.code == "not_finite_output"
        bench.assert_clean()


def wide(inputs: Sequence[Array]) -> list[Array]:
    return [np.tile(inputs[0], 1000)]


def test_an_answer_larger_than_its_slot_arrives_whole() -> None:
    with FrontBench(lambda: replica(FREE, wide)) as bench:
        callers = [bench.ask(body([i, i + 1])) for i in range(3)]
        bench.settle()
        assert [predictions(c.body) for c in callers] == [[[float(i), i + 1.0] * 1000] for i in range(3)]
        bench.assert_clean()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_large_answer_that_cannot_be_encoded_closes_its_file_once() -> None:
    with FrontBench(lambda: replica(FREE, lambda inputs: wide(logarithm(inputs)))) as bench:
        before = open_files()
        bad, good = bench.ask(body([-1, 1])), bench.ask(body([1, 1]))
        bench.settle()
        assert codes([bad, good]) == ["not_finite_output", "ok"]
        bench.assert_clean()
        assert open_files() == before


def test_a_large_answer_whose_caller_has_left_closes_its_file() -> None:
    with FrontBench(lambda: replica(FREE, wide)) as bench:
        before = open_files()
        _, invocation = bench.begin(body([1, 1]))
        bench.step_front()
        bench.engines[0].turn()
        bench.front.cancellation.abandon(invocation)
        bench.settle()
        bench.assert_clean()
        assert open_files() == before


def test_a_handler_gets_the_body_as_it_came_and_its_reply_goes_out_as_it_is() -> None:
    def handle(requests: Sequence[RawRequest]) -> list[Any]:
        return [RawReply(r.content_type.encode() + b"|" + r.body, "x/y", "a\r\nb: c") for r in requests]

    with FrontBench(lambda: raw_replica(handle)) as bench:
        caller = bench.ask(b"\x00\x01", head("image/png"))
        long = bench.ask(b"z" * 100_000, head("text/plain"))
        bench.settle()
        assert caller.body == b"image/png|\x00\x01"
        assert caller.start.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: x/y\r\n")
        assert caller.extra.count(b"\r\n") == 1, "a handler cannot add headers"
        assert long.body == b"text/plain|" + b"z" * 100_000
        bench.assert_clean()


# ---- callers leave, deadlines pass -----------------------------------------------------------------------------------------


def test_a_caller_that_leaves_frees_its_place_and_is_never_answered() -> None:
    with FrontBench(plain) as bench:
        caller, invocation = bench.begin(body([1, 2]))
        mate = bench.ask(body([3, 4]))
        bench.front.cancellation.abandon(invocation)
        bench.settle()
        assert caller.code == "waits"
        assert predictions(mate.body) == [[7.0, 9.0]]
        assert bench.page.front(0).count[Front.ABANDONED] == 1
        bench.assert_clean()


def test_who_hangs_up_while_a_batch_runs_makes_room_for_others_at_once() -> None:
    with FrontBench(plain, limits=Limits(queue_rows_max=3)) as bench:
        begun = [bench.begin(body([i, i])) for i in range(3)]
        assert bench.ask(body([9, 9])).code == "overloaded"
        for _, invocation in begun:  # the engine has not had a turn: it cannot have heard
            bench.front.cancellation.abandon(invocation)
        assert bench.front.engines.links[0].rows == 0
        others = [bench.ask(body([i, i])) for i in range(3)]
        assert bench.ask(body([9, 9])).code == "overloaded"
        bench.settle()
        assert codes(others) == ["ok"] * 3
        bench.assert_clean()


def test_who_comes_and_leaves_for_ever_does_not_fill_the_queue_of_the_engine() -> None:
    with FrontBench(plain, limits=Limits(queue_rows_max=3)) as bench:
        for i in range(20):
            _, invocation = bench.begin(body([i, i]))
            bench.front.cancellation.abandon(invocation)
        assert len(bench.front.in_flight.pending) == 6
        bench.settle()
        bench.assert_clean()


def test_those_of_a_crowd_who_left_are_not_counted_twice() -> None:
    with FrontBench(plain) as bench:
        crowd = [bench.arrive(body([i, i])) for i in range(CROWD)]
        bench.step_front()
        bench.engines[0].turn()  # all have run; their replies are on the way
        for _, invocation in crowd[::3]:
            bench.front.cancellation.abandon(invocation)
        assert bench.front.in_flight.rows == bench.front.engines.links[0].rows == CROWD - len(crowd[::3])
        bench.settle()
        assert [c.code for c, _ in crowd] == ["waits" if n % 3 == 0 else "ok" for n in range(CROWD)]
        bench.assert_clean()


def test_a_slot_of_a_caller_that_left_stays_claimed_until_the_engine_gives_it_back() -> None:
    with FrontBench(plain) as bench:
        _, invocation = bench.begin(body([1, 2]))
        bench.step_front()
        bench.front.cancellation.abandon(invocation)
        assert not bench.front.idle
        bench.settle()
        bench.assert_clean()


def test_a_deadline_is_answered_once_even_when_the_answer_comes_later() -> None:
    with FrontBench(plain, limits=Limits(request_timeout_s=2.0)) as bench:
        caller = bench.ask(body([1, 2]))
        bench.step_front()
        bench.engines[0].turn()
        bench.clock.advance(3.0)
        bench.front.sweep()
        assert caller.code == "deadline_exceeded" and caller.error is not None and "2 s" in caller.error.message
        assert bench.page.front(0).count[Front.ERRORS + NUMBER[DeadlineExceeded]] == 1
        bench.settle()
        bench.assert_clean()


def test_the_sweep_leaves_those_alone_who_still_have_time() -> None:
    with FrontBench(plain, limits=Limits(request_timeout_s=2.0)) as bench:
        caller = bench.ask(body([1, 2]))
        bench.clock.advance(1.9)
        bench.front.sweep()
        assert caller.code == "waits" and bench.page.front(0).count[Front.IN_FLIGHT] == 1
        bench.settle()
        assert caller.code == "ok"
        bench.front.sweep()
        assert bench.page.front(0).count[Front.IN_FLIGHT] == 0
        bench.assert_clean()


# ---- engines come and go ----------------------------------------------------------------------------------------------------


def crash_in_the_middle(bench: FrontBench) -> None:
    """Engine 0 greets the front and reads its requests, and dies before it answers."""
    engine = bench.engines[0]
    for _ in range(6):
        bench.step_front()
        engine.take()
    assert len(engine.model.queue.pending) > 0
    engine.crash()
    bench.step_front()


def test_a_crash_costs_no_request() -> None:
    with FrontBench(plain) as bench:
        callers = [bench.ask(body([i, i])) for i in range(5)]
        crash_in_the_middle(bench)
        bench.settle()
        assert codes(callers) == ["waits"] * 5
        bench.engines[0].start()
        bench.settle()
        assert [predictions(c.body) for c in callers] == [[[2.0 * i + 1] * 2] for i in range(5)]
        assert bench.page.front(0).count[Front.RESUBMITTED] == 5
        bench.assert_clean()


class Dead(BaseException):
    """The engine process is gone."""


def mortal(batches: list[list[float]]) -> Callable[[], Replica]:
    """A model that takes its process down when it meets a number below 0, and notes the batches it was given."""

    def run(inputs: Sequence[Array]) -> list[Array]:
        batches.append(inputs[0][:, 0].tolist())
        if (inputs[0] < 0).any():
            raise Dead
        return twice_plus_one(inputs)

    return lambda: replica(PAIR, run, rows_max=64)


def live_through(bench: FrontBench, turns: int = 300) -> int:
    """Let time pass; engines that die are started again. Returns how many did."""
    deaths = 0
    for _ in range(turns):
        bench.step_front()
        for engine in bench.engines:
            try:
                engine.turn()
            except Dead:
                deaths += 1
                engine.crash()
                bench.step_front()
                engine.start()
    return deaths


def test_a_request_that_ran_in_two_crashes_is_refused_and_never_runs_a_third_time() -> None:
    batches: list[list[float]] = []
    with FrontBench(mortal(batches)) as bench:
        caller = bench.ask(body([-1, 2]))
        assert live_through(bench) == 2
        assert caller.code == "poisoned_request" and caller.error is not None
        assert (caller.error.status, caller.error.retry_after_s) == (500, None)
        assert batches == [[-1.0], [-1.0]]
        bench.assert_clean()


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("at", [0, 31, 63])
def test_a_poisoned_request_in_a_batch_of_64_costs_no_other_its_answer(at: int, together: bool) -> None:
    batches: list[list[float]] = []
    with FrontBench(mortal(batches)) as bench:
        enter = bench.arrive if together else bench.begin
        callers = [enter(body([-1 if i == at else i, i]))[0] for i in range(64)]
        assert live_through(bench) == 2
        assert codes(callers) == ["poisoned_request" if i == at else "ok" for i in range(64)]
        assert [predictions(c.body)[0][1] for c in callers if c.body] == [2.0 * i + 1 for i in range(64) if i != at]
        assert [len(b) for b in batches] == [64] + [1] * 64, "each of them alone, the one that crashed too"
        bench.assert_clean()


def test_those_that_only_waited_behind_a_crash_still_run_together() -> None:
    batches: list[list[float]] = []
    with FrontBench(mortal(batches)) as bench:
        poison = bench.ask(body([-1, 0]))
        bench.step_front()
        cycle = bench.engines[0].cycle
        assert cycle is not None
        bench.engines[0].take()
        others = [bench.arrive(body([i, i]))[0] for i in range(12)]
        bench.step_front()  # they are in the engine's socket
        with pytest.raises(Dead):
            cycle._advance(bench.clock())
        bench.engines[0].crash()
        bench.step_front()
        bench.engines[0].start()
        assert live_through(bench) == 1
        assert poison.code == "poisoned_request" and codes(others) == ["ok"] * 12
        assert [len(b) for b in batches if b != [-1.0]] == [12]
        bench.assert_clean()


def test_a_request_that_no_engine_lives_to_run_is_given_up_in_the_end() -> None:
    with FrontBench(plain) as bench:
        caller = bench.ask(body([1, 2]))
        for _ in range(SUBMITS_MAX):
            assert caller.code == "waits"
            crash_in_the_middle(bench)
            bench.engines[0].start()
        assert caller.code == "engine_lost" and caller.error is not None and caller.error.status == 503
        bench.settle()
        bench.assert_clean()


def test_when_the_next_engine_runs_already_everybody_may_have_been_in_the_crash() -> None:
    """The front was asleep: who ran is not known any more, so nobody is held innocent, and each runs alone."""
    batches: list[list[float]] = []
    with FrontBench(mortal(batches)) as bench:
        callers = [bench.ask(body([i, i])) for i in range(3)]
        bench.step_front()
        bench.engines[0].take()
        bench.engines[0].crash()
        bench.page.engine(0).count[RUN_EPOCH] = 2
        bench.engines[0].start()
        bench.settle(8)
        assert codes(callers) == ["ok"] * 3 and [len(b) for b in batches] == [1, 1, 1]
        bench.assert_clean()


def test_a_request_runs_on_another_replica_when_its_own_crashes() -> None:
    with FrontBench(plain, plain) as bench:
        callers = [bench.ask(body([i, i])) for i in range(4)]
        crash_in_the_middle(bench)
        bench.settle()
        assert [predictions(c.body) for c in callers] == [[[2.0 * i + 1] * 2] for i in range(4)]
        bench.assert_clean()


def test_requests_are_held_while_the_only_engine_restarts_but_not_beyond_their_deadline() -> None:
    with FrontBench(plain, limits=Limits(request_timeout_s=2.0)) as bench:
        bench.engines[0].crash()
        bench.settle()
        early = bench.ask(body([1, 2]))
        bench.clock.advance(1.5)
        late = bench.ask(body([3, 4]))
        bench.clock.advance(1.0)
        bench.front.sweep()
        assert codes([early, late]) == ["deadline_exceeded", "waits"]
        bench.engines[0].start()
        bench.settle()
        assert predictions(late.body) == [[7.0, 9.0]]
        bench.assert_clean()


def test_a_held_request_whose_caller_leaves_is_over_at_once() -> None:
    with FrontBench(plain) as bench:
        bench.engines[0].crash()
        bench.settle()
        _, invocation = bench.begin(body([1, 2]))
        bench.front.cancellation.abandon(invocation)
        bench.assert_clean()


def test_a_caller_that_left_before_the_crash_is_not_run_again() -> None:
    with FrontBench(plain) as bench:
        _, invocation = bench.begin(body([1, 2]))
        bench.step_front()
        bench.front.cancellation.abandon(invocation)
        bench.engines[0].crash()
        bench.settle()
        bench.assert_clean()
        assert bench.page.front(0).count[Front.RESUBMITTED] == 0


def test_an_answer_written_before_the_crash_is_still_good() -> None:
    with FrontBench(plain) as bench:
        caller = bench.ask(body([1, 2]))
        bench.step_front()
        bench.step_front()
        bench.engines[0].turn()
        bench.engines[0].crash()
        bench.settle()
        assert predictions(caller.body) == [[3.0, 5.0]]
        bench.assert_clean()


def test_a_request_that_failed_just_before_the_crash_runs_again_on_its_own_input() -> None:
    """The first engine dies after it has found request 0 bad and before it could say so."""

    class Died(BaseException):
        pass

    def first(inputs: Sequence[Array]) -> list[Array]:
        if len(inputs[0]) > 1 or inputs[0][0, 0] == 1.0:
            raise ValueError("out of memory")
        raise Died

    runs: list[Callable[[Sequence[Array]], list[Array]]] = [first, twice_plus_one]
    with FrontBench(lambda: replica(PAIR, runs.pop(0))) as bench:
        callers = [bench.ask(body([1, 2])), bench.ask(body([3, 4]))]
        bench.step_front()
        with pytest.raises(Died):
            bench.settle()
        bench.engines[0].crash()
        bench.settle()
        bench.engines[0].start()
        bench.settle()
        assert [predictions(c.body) for c in callers] == [[[3.0, 5.0]], [[7.0, 9.0]]]
        bench.assert_clean()


def test_new_requests_go_to_the_engine_with_the_fewest_rows() -> None:
    with FrontBench(plain, plain) as bench:
        bench.ask(body([1, 1], [2, 2], [3, 3]))
        for i in range(3):
            bench.ask(body([i, i]))
        assert [link.rows for link in bench.front.engines.links] == [3, 3]
        bench.settle()
        bench.assert_clean()


def test_a_large_slot_keeps_its_pages_for_the_next_request_and_gives_them_back_when_none_comes() -> None:
    large = signature([spec("x", 200_000)], [spec("y", 1)])
    with FrontBench(lambda: replica(large, lambda arrays: [arrays[0][:, :1]])) as bench:

        def resident() -> int:
            return os.fstat(bench.front.slot_writer.arena.fd).st_blocks * 512

        assert bench.ask(npy(np.ones((1, 200_000))), head("application/x-npy")).code == "waits"
        bench.settle()
        used = resident()
        assert used > 800_000
        bench.front.trim()
        assert resident() == used
        bench.front.trim()
        assert resident() < used - 750_000
        bench.assert_clean()


# ---- many in one turn of the event loop ------------------------------------------------------------------------------------

CROWD = 12


def test_a_crowd_is_taken_in_one_go_and_each_gets_its_own_answer() -> None:
    with FrontBench(plain) as bench:
        callers = [bench.arrive(body([i, -i]))[0] for i in range(CROWD)]
        assert codes(callers) == ["waits"] * CROWD and bench.front.in_flight.rows == 0
        bench.step_front()
        assert bench.front.in_flight.rows == CROWD
        bench.settle()
        assert [predictions(c.body) for c in callers] == [[[2.0 * i + 1, -2.0 * i + 1]] for i in range(CROWD)]
        bench.assert_clean()


def test_the_odd_ones_of_a_crowd_go_their_own_way_and_disturb_nobody() -> None:
    with FrontBench(plain) as bench:
        odd = [
            (b"[[1, 2]]", head(), "ok"), (body([1, 2], [3, 4]), head(), "ok"), (body([1, 2, 3]), head(), "bad_shape"),
            (b"no json", head(), "bad_request"), (b'{"instances": [[true, 1]]}', head(), "bad_shape"),
            (npy([[1, 2]]), head("application/x-npy"), "ok"), (body([1, 2]), head(accept="application/x-npy"), "ok"),
            (body([1, 2]), head(accept="image/png"), "not_acceptable"), (b"", head(), "bad_request"),
        ]  # fmt: skip
        plain_ones, odd_ones = [], []
        for raw, the_head, _ in odd:
            plain_ones.append(bench.arrive(body([7, 8]))[0])
            odd_ones.append(bench.arrive(raw, the_head)[0])
        bench.settle()
        assert codes(odd_ones) == [code for _, _, code in odd]
        assert [predictions(c.body) for c in plain_ones] == [[[15.0, 17.0]]] * len(odd)
        bench.assert_clean()


def test_the_same_bytes_come_back_whether_a_request_came_alone_or_in_a_crowd() -> None:
    with FrontBench(plain) as bench:
        heads = [head(), head("application/x-npy"), head(accept="application/x-npy"), head("application/x-npy", "text/csv")]
        asked = [(npy([[i, 0.5]]) if "npy" in h.formats.content_type else body([i, 0.5]), h) for i, h in enumerate(heads * 4)]
        together = [bench.arrive(raw, h)[0] for raw, h in asked]
        bench.settle()
        alone = []
        for raw, h in asked:
            alone.append(bench.ask(raw, h))
            bench.settle()
        assert [(c.start, c.body) for c in together] == [(c.start, c.body) for c in alone]


def test_who_leaves_before_the_turn_ends_is_never_submitted() -> None:
    with FrontBench(plain) as bench:
        crowd = [bench.arrive(body([i, i])) for i in range(CROWD)]
        for _, invocation in crowd[::2]:
            bench.front.cancellation.abandon(invocation)
        bench.step_front()
        assert bench.front.in_flight.rows == CROWD // 2
        bench.settle()
        assert codes([c for c, _ in crowd]) == ["waits", "ok"] * (CROWD // 2)
        bench.assert_clean()


def test_a_crowd_larger_than_the_queue_is_served_up_to_its_limit() -> None:
    with FrontBench(plain, limits=Limits(queue_rows_max=8)) as bench:
        crowd = [bench.arrive(body([i, i]))[0] for i in range(CROWD)]
        bench.settle()
        assert codes(crowd) == ["ok"] * 8 + ["overloaded"] * (CROWD - 8)
        bench.assert_clean()


def test_a_crowd_that_an_engine_took_down_with_it_runs_again_on_the_next() -> None:
    with FrontBench(plain) as bench:
        crowd = [bench.arrive(body([i, i]))[0] for i in range(CROWD)]
        bench.step_front()
        bench.engines[0].crash()
        bench.settle()
        assert codes(crowd) == ["waits"] * CROWD
        bench.engines[0].start()
        bench.settle()
        assert [predictions(c.body) for c in crowd] == [[[2.0 * i + 1, 2.0 * i + 1]] for i in range(CROWD)]
        assert bench.page.front(0).count[Front.RESUBMITTED] == CROWD
        bench.assert_clean()


def test_a_lone_request_after_a_lone_one_reaches_the_engine_at_once() -> None:
    with FrontBench(plain) as bench:
        bench.arrive(body([1, 2]))
        bench.settle()
        second, _ = bench.arrive(body([3, 4]))
        bench.engines[0].turn()  # no turn of the event loop in between
        assert bench.page.engine(0).count[Engine.BATCHES] == 2
        bench.settle()
        assert second.code == "ok"
        bench.assert_clean()


def test_after_one_that_went_ahead_the_others_of_the_turn_still_go_together() -> None:
    with FrontBench(plain) as bench:
        bench.arrive(body([1, 2]))
        bench.settle()
        callers = [bench.arrive(body([i, i]))[0] for i in range(CROWD)]
        assert bench.front.in_flight.rows == 1
        bench.settle()
        assert codes(callers) == ["ok"] * CROWD
        # That turn brought many, so now everybody waits for the end of the turn.
        callers = [bench.arrive(body([i, i]))[0] for i in range(CROWD)]
        assert bench.front.in_flight.rows == 0
        bench.settle()
        assert codes(callers) == ["ok"] * CROWD
        bench.assert_clean()
