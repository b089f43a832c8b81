"""STORY 2 by example: a Cycle with a scripted model, stepped turn by turn. The failure paths come first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from evenkeel.serve.contract.status_page import TIME_CELLS, Engine
from evenkeel.serve.engine.backends.base import RawReply, RawRequest
from evenkeel.serve.engine.cycle.replies import NOT_LOADED
from evenkeel.serve.errors import BadRequest, ModelFailed
from evenkeel.serve.transport.descriptor import model_ref
from tests.support.engine_bench import Answer, Bench, Fault, answer, only
from tests.support.models import Array, raw_replica, replica, signature, spec, twice_plus_one

PAIR = signature([spec("x", 2)], [spec("y", 2)])
FREE = signature([spec("x", "n")], [spec("y", "m")])
PADDED = signature([spec("x", "n", pad=0.0)], [spec("y", "n")])


def refuses_negative(inputs: Sequence[Array]) -> list[Array]:
    if (inputs[0] < 0).any():
        raise ValueError("negative input")
    return twice_plus_one(inputs)


# ---- one bad item never fails its mates ------------------------------------------------------------------------------


def test_a_batch_that_raises_is_halved_until_the_bad_request_stands_alone() -> None:
    with Bench(replica(PAIR, refuses_negative, rows_max=8)) as bench:
        front = bench.front()
        ids = [front.submit([[-1.0 if i == 5 else float(i), 0.0]]) for i in range(8)]
        bad = ids[5]
        bench.turn()
        replies = front.replies()
        assert set(replies) == set(ids)
        assert replies[bad] == Fault("model_error", "the model raised ValueError: negative input")
        for i, id in enumerate(ids):
            if id != bad:
                assert answer(replies, id)[0].tolist() == [[2.0 * i + 1, 1.0]]


def test_a_nan_fails_its_own_request_with_the_name_of_the_input() -> None:
    with Bench(replica(PAIR)) as bench:
        front = bench.front()
        good, bad, last = (front.submit([[v, 0.0]]) for v in (1.0, float("nan"), 3.0))
        bench.turn()
        replies = front.replies()
        assert isinstance(replies[bad], Fault) and replies[bad].code == "not_finite_input"
        assert "'x'" in replies[bad].message
        assert answer(replies, good)[0].tolist() == [[3.0, 1.0]]
        assert answer(replies, last)[0].tolist() == [[7.0, 1.0]]


def test_a_nan_reaches_a_model_that_allows_it() -> None:
    sig = signature([spec("x", 1, allow_nan=True)], [spec("y", 1)])
    with Bench(replica(sig, lambda inputs: [np.nan_to_num(inputs[0], nan=7.0)])) as bench:
        front = bench.front()
        front.submit([[float("nan")]])
        bench.turn()
        reply = only(front.replies())
        assert isinstance(reply, Answer) and reply.arrays[0].tolist() == [[7.0]]


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (lambda x: [], "gave 0 outputs"),
        (lambda x: [x, x], "gave 2 outputs"),
        (lambda x: [x[:-1]], "for 3 rows"),
        (lambda x: [np.concatenate([x, x])], "for 3 rows"),
        (lambda x: [x[:, :1]], "expected y: float32[rows, 2]"),
        (lambda x: [x[..., None]], "expected y: float32[rows, 2]"),
        (lambda x: [np.float32(1.0)], "has shape ()"),
    ],
)
def test_outputs_that_do_not_fit_the_signature_are_the_models_error(outputs: Any, words: str) -> None:
    with Bench(replica(PAIR, lambda inputs: outputs(inputs[0]))) as bench:
        front = bench.front()
        front.submit([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        bench.turn()
        reply = only(front.replies())
        assert isinstance(reply, Fault) and reply.code == "model_error" and words in reply.message


def test_an_output_that_cannot_become_its_dtype_is_the_models_error() -> None:
    with Bench(replica(PAIR, lambda inputs: [np.array([["a", "b"]], object)])) as bench:
        front = bench.front()
        front.submit([[1.0, 2.0]])
        bench.turn()
        reply = only(front.replies())
        assert isinstance(reply, Fault) and reply.code == "model_error"


def test_a_string_output_that_holds_no_text_is_the_models_error() -> None:
    sig = signature([spec("x", 1)], [spec("y", 1, dtype="string")])
    with Bench(replica(sig, lambda inputs: [np.array([[3.5]], object)])) as bench:
        front = bench.front()
        front.submit([[1.0]])
        bench.turn()
        reply = only(front.replies())
        assert isinstance(reply, Fault) and reply.code == "model_error"


def test_an_error_of_ours_from_the_backend_keeps_its_code() -> None:
    def refuse(inputs: Sequence[Array]) -> list[Array]:
        raise BadRequest("token 7 is not in the vocabulary")

    with Bench(replica(PAIR, refuse)) as bench:
        front = bench.front()
        front.submit([[1.0, 2.0]])
        bench.turn()
        assert only(front.replies()) == Fault("bad_request", "token 7 is not in the vocabulary")


def test_a_failure_longer_than_a_slot_is_cut() -> None:
    def refuse(inputs: Sequence[Array]) -> list[Array]:
        raise BadRequest("é" * 3000)

    with Bench(replica(PAIR, refuse)) as bench:
        front = bench.front()
        front.submit([[1.0, 2.0]])
        bench.turn()
        reply = only(front.replies())
        assert isinstance(reply, Fault) and reply.message.startswith("éééé") and len(reply.message) < 1024


def test_a_failing_request_leaves_its_input_as_it_was_until_the_reply_is_out() -> None:
    """A front runs a request again from its slot when the engine dies before the reply has been sent."""

    class Died(BaseException):
        pass

    def run(inputs: Sequence[Array]) -> list[Array]:
        if len(inputs[0]) > 1 or inputs[0][0, 0] == 1.0:
            raise ValueError("the batch fails, then the first request alone")
        raise Died

    with Bench(replica(PAIR, run)) as bench:
        front = bench.front()
        first = front.submit([[1.0, 2.0]])
        front.submit([[3.0, 4.0]])
        slot = front.held[first]
        before = bytes(front.arena.memory[slot.offset : slot.offset + 8])
        with pytest.raises(Died):
            bench.turn()
        assert front.replies() == {}
        assert bytes(front.arena.memory[slot.offset : slot.offset + 8]) == before


# ---- batches -----------------------------------------------------------------------------------------------------------


def test_everything_queued_runs_as_one_batch_when_batching_helps() -> None:
    with Bench(replica(PAIR, rows_max=8)) as bench:
        front = bench.front()
        ids = [front.submit([[float(i), 0.0]]) for i in range(6)]
        bench.turn()
        assert bench.replica.backend.sizes == [6]
        assert sorted(front.replies()) == ids


def test_requests_of_several_rows_share_a_batch_and_get_their_own_rows_back() -> None:
    with Bench(replica(PAIR, rows_max=8)) as bench:
        front = bench.front()
        two = front.submit([[1.0, 2.0], [3.0, 4.0]])
        three = front.submit([[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]])
        bench.turn()
        replies = front.replies()
        assert bench.replica.backend.sizes == [5]
        assert answer(replies, two)[0].tolist() == [[3.0, 5.0], [7.0, 9.0]]
        assert answer(replies, three)[0].tolist() == [[11.0, 13.0], [15.0, 17.0], [19.0, 21.0]]


def test_a_request_larger_than_any_batch_is_split_and_put_together_in_order() -> None:
    with Bench(replica(PAIR, rows_max=4)) as bench:
        front = bench.front()
        rows = [[float(i), float(-i)] for i in range(11)]
        front.submit(rows)
        bench.turn()
        reply = only(front.replies())
        assert isinstance(reply, Answer)
        assert reply.arrays[0].tolist() == [[2 * a + 1, 2 * b + 1] for a, b in rows]
        assert bench.replica.backend.sizes == [4, 4, 3]


def test_a_request_of_many_batches_takes_turns_with_those_who_come_later() -> None:
    with Bench(replica(PAIR, rows_max=4)) as bench:
        front, other = bench.front(), bench.front()
        rows = [[float(i), float(-i)] for i in range(20)]
        large = front.submit(rows)
        bench.turn(2)
        assert (bench.block.count[Engine.QUEUE_LARGE], bench.block.count[Engine.QUEUE_BEYOND]) == (1, 8)
        small = other.submit([[1.0, 2.0]])
        bench.turn(2)
        assert answer(other.replies(), small)[0].tolist() == [[3.0, 5.0]]
        assert not front.replies()
        bench.turn(8)
        assert answer(front.replies(), large)[0].tolist() == [[2 * a + 1, 2 * b + 1] for a, b in rows]
        assert bench.block.count[Engine.QUEUE_LARGE] == bench.block.count[Engine.QUEUE_BEYOND] == 0


def test_a_split_request_with_a_nan_in_its_first_part_only_is_not_called_finite() -> None:
    """The front trusts this flag and would write the NaN into strict JSON."""

    def log(inputs: Sequence[Array]) -> list[Array]:
        with np.errstate(invalid="ignore"):
            return [np.log(inputs[0])]

    with Bench(replica(PAIR, log, rows_max=2)) as bench:
        front = bench.front()
        front.submit([[-1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
        bench.turn()
        reply = only(front.replies())
        assert isinstance(reply, Answer) and np.isnan(reply.arrays[0][0, 0])
        assert not reply.finite


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (-1.0, False)])
def test_an_answer_says_whether_it_is_finite(value: float, finite: bool) -> None:
    def root(inputs: Sequence[Array]) -> list[Array]:
        with np.errstate(invalid="ignore"):
            return [np.sqrt(inputs[0])]

    with Bench(replica(PAIR, root)) as bench:
        front = bench.front()
        front.submit([[value, 1.0]])
        bench.turn()
        reply = only(front.replies())
        assert isinstance(reply, Answer) and reply.finite is finite


def test_a_split_request_whose_second_part_fails_gets_one_error() -> None:
    with Bench(replica(PAIR, refuses_negative, rows_max=2)) as bench:
        front = bench.front()
        front.submit([[1.0, 1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
        other = front.submit([[5.0, 5.0]])
        bench.turn()
        replies = front.replies()
        assert len(replies) == 2
        assert answer(replies, other)[0].tolist() == [[11.0, 11.0]]
        assert not bench.model.replies._parts and bench.model.queue.pending.rows == 0


def test_requests_of_different_shapes_never_share_a_batch() -> None:
    with Bench(replica(FREE)) as bench:
        front = bench.front()
        short = front.submit([[1.0, 2.0]])
        long = front.submit([[1.0, 2.0, 3.0]])
        bench.turn()
        replies = front.replies()
        assert bench.replica.backend.sizes == [1, 1]
        assert answer(replies, short)[0].tolist() == [[3.0, 5.0]]
        assert answer(replies, long)[0].tolist() == [[3.0, 5.0, 7.0]]


def test_padded_requests_share_a_batch_and_lose_the_padding_again() -> None:
    with Bench(replica(PADDED)) as bench:
        front = bench.front()
        nine = front.submit([[1.0] * 9])
        ten = front.submit([[2.0] * 10])
        bench.turn()
        replies = front.replies()
        assert [b[0].shape for b in bench.replica.backend.batches] == [(2, 10)]
        assert bench.replica.backend.batches[0][0][0].tolist() == [1.0] * 9 + [0.0]
        assert answer(replies, nine)[0].tolist() == [[3.0] * 9]
        assert answer(replies, ten)[0].tolist() == [[5.0] * 10]


def test_a_request_of_no_rows_axis_is_one_indivisible_item() -> None:
    sig = signature([spec("x", "n")], [spec("y", "n")], rows_axis=False)
    with Bench(replica(sig)) as bench:
        front = bench.front()
        ids = [front.submit([1.0, 2.0, 3.0]), front.submit([4.0])]
        bench.turn()
        replies = front.replies()
        assert answer(replies, ids[0])[0].tolist() == [3.0, 5.0, 7.0]
        assert answer(replies, ids[1])[0].tolist() == [9.0]


def test_several_inputs_and_outputs_keep_their_order() -> None:
    sig = signature(
        [spec("a", 2), spec("b", dtype="int64"), spec("s", 1, dtype="string")],
        [spec("t", 1, dtype="string"), spec("n", dtype="int64"), spec("sum", 2)],
    )
    with Bench(replica(sig, lambda i: [i[2] + "!", i[1] * 10, i[0] + i[1][:, None]])) as bench:
        front = bench.front()
        one = front.submit([[1.0, 2.0]], [3], [["é"]])
        two = front.submit([[1.0, 1.0], [2.0, 2.0]], [4, 5], [["a"], [""]])
        bench.turn()
        replies = front.replies()
        assert [a.tolist() for a in answer(replies, one)] == [[["é!"]], [30], [[4.0, 5.0]]]
        assert [a.tolist() for a in answer(replies, two)] == [[["a!"], ["!"]], [40, 50], [[5.0, 5.0], [7.0, 7.0]]]


def test_an_answer_larger_than_its_slot_comes_in_a_file_of_its_own() -> None:
    with Bench(replica(FREE, lambda inputs: [np.tile(inputs[0], 1000)])) as bench:
        front = bench.front()
        small = front.submit([[5.0]])
        big = front.submit([[1.0, 2.0]])
        bench.turn()
        replies = front.replies()
        assert replies[big].spilled and replies[small].spilled
        assert answer(replies, big)[0].tolist() == [[1.0, 2.0] * 1000]
        assert answer(replies, small)[0].tolist() == [[5.0] * 1000]


def test_requests_of_two_fronts_get_their_own_answers() -> None:
    with Bench(replica(PAIR)) as bench:
        left, right = bench.front(), bench.front()
        mine, theirs = left.submit([[1.0, 1.0]]), right.submit([[2.0, 2.0]])
        bench.turn()
        assert bench.replica.backend.sizes == [2]
        assert answer(left.replies(), mine)[0].tolist() == [[3.0, 3.0]]
        assert answer(right.replies(), theirs)[0].tolist() == [[5.0, 5.0]]


# ---- callers leave, deadlines pass, fronts die -------------------------------------------------------------------------


def test_a_cancelled_request_is_given_back_and_strands_no_mate() -> None:
    with Bench(replica(PAIR)) as bench:
        front = bench.front()
        stays, leaves = front.submit([[1.0, 1.0]]), front.submit([[2.0, 2.0]])
        front.cancel(leaves)
        bench.turn()
        replies = front.replies()
        assert replies[leaves] == Fault("cancelled", "the caller has left")
        assert answer(replies, stays)[0].tolist() == [[3.0, 3.0]]
        assert bench.replica.backend.sizes == [1]


def test_a_cancellation_that_crosses_the_answer_is_not_answered() -> None:
    with Bench(replica(PAIR)) as bench:
        front = bench.front()
        id = front.submit([[1.0, 1.0]])
        bench.turn()
        front.cancel(id)
        bench.turn()
        assert list(front.replies()) == [id]


def test_a_request_cancelled_between_its_parts_stops_running() -> None:
    with Bench(replica(PAIR, rows_max=2)) as bench:
        front = bench.front()
        id = front.submit([[1.0, 1.0]] * 6)
        bench.cycle.turn(0)
        front.cancel(id)
        bench.turn()
        assert only(front.replies()) == Fault("cancelled", "the caller has left")
        assert bench.replica.backend.sizes == [2]
        assert not bench.model.replies._parts and len(bench.model.queue.pending) == 0 and bench.model.queue.pending.rows == 0


def test_a_request_past_its_deadline_is_not_run() -> None:
    with Bench(replica(PAIR)) as bench:
        front = bench.front()
        late = front.submit([[1.0, 1.0]], within_s=1.0)
        good = front.submit([[2.0, 2.0]], within_s=60.0)
        bench.clock.advance(2.0)
        bench.turn()
        bench.clock.advance(0.1)
        bench.turn()
        replies = front.replies()
        assert isinstance(replies[late], Fault) and replies[late].code == "deadline_exceeded"
        assert answer(replies, good)[0].tolist() == [[5.0, 5.0]]
        assert bench.replica.backend.sizes == [1]
        assert bench.model.queue.pending.rows == 0


def test_a_lone_request_past_its_deadline_is_answered_at_the_next_turns() -> None:
    with Bench(replica(PAIR)) as bench:
        front = bench.front()
        bench.turn()
        late = front.submit([[1.0, 1.0]], within_s=0.0)
        waits = [bench.cycle.turn(0)]
        for _ in range(3):
            bench.clock.advance(min(waits[-1], 0.06) or 0.001)
            waits.append(bench.cycle.turn(0))
        assert list(front.replies()) == [late], f"the engine would have slept {waits}"


def test_a_front_that_dies_takes_its_queue_along_and_leaves_the_others_alone() -> None:
    with Bench(replica(PAIR, rows_max=2)) as bench:
        dies, stays = bench.front(), bench.front()
        for _ in range(3):
            dies.submit([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
        bench.cycle.turn(0)
        id = stays.submit([[4.0, 4.0]])
        dies.channel.close()
        bench.turn(6)
        assert answer(stays.replies(), id)[0].tolist() == [[9.0, 9.0]]
        assert bench.replica.backend.sizes == [2, 1], "nothing runs for a front that is gone"
        assert len(bench.model.queue.pending) == 0 and bench.model.queue.pending.rows == 0 and not bench.model.replies._parts
        assert bench.block.count[Engine.QUEUE_ROWS] == 0


def test_a_front_that_sends_half_a_record_and_dies_is_forgotten() -> None:
    with Bench(replica(PAIR)) as bench:
        front = bench.front()
        front.sock.send(b"\x02" * 10)
        bench.turn()
        front.channel.close()
        bench.turn()
        assert not bench.cycle._peers._by_fd


@pytest.mark.parametrize("late", [model_ref(0, 6), model_ref(1, 7)], ids=["generation", "number"])
def test_a_record_for_a_model_that_is_not_loaded_is_refused_and_touches_nothing(late: int) -> None:
    made = replica(PAIR)
    made.revision = 7
    with Bench(made) as bench:
        front = bench.front()
        loaded = front.ref
        front.ref = late
        refused = front.submit([[1.0, 1.0]])
        bench.turn()
        (fault,) = front.replies().values()
        assert isinstance(fault, Fault) and (fault.code, fault.message) == ("not_ready", NOT_LOADED)
        assert bench.replica.backend.sizes == [] and not front.held
        front.cancel(refused)  # the caller leaves as the refusal comes
        front.ref = loaded
        id = front.submit([[1.0, 1.0]])
        bench.turn()
        assert answer(front.replies(), id)[0].tolist() == [[3.0, 3.0]]


def test_a_late_record_among_others_is_refused_alone() -> None:
    with Bench(replica(PAIR)) as bench:
        front = bench.front()
        loaded = front.ref
        records, ids = b"", []
        for ref in [loaded, model_ref(3, 0), loaded]:
            front.ref = ref
            id, record = front._place([[1.0, 1.0]], within_s=60.0)
            ids.append(id)
            records += record
        front.channel.send(records)
        bench.turn()
        replies = front.replies()
        assert [isinstance(replies[id], Fault) for id in ids] == [False, True, False]
        assert bench.replica.backend.sizes == [2]


def test_a_front_of_another_protocol_is_shown_the_door() -> None:
    from evenkeel.serve.transport.descriptor import HELLO, PROTOCOL, REQUEST

    with Bench(replica(PAIR)) as bench:
        front = bench.front()
        stranger = bench.front()
        stranger.channel.send(REQUEST.pack(HELLO, PROTOCOL + 1, 0, 0, 0, 0, 0, 0, 0.0))
        bench.turn()
        assert len(bench.cycle._peers._by_fd) == 1
        id = front.submit([[1.0, 1.0]])
        bench.turn()
        assert list(front.replies()) == [id]


# ---- raw backends --------------------------------------------------------------------------------------------------------


def test_a_handlers_reply_and_error_reach_their_own_requests() -> None:
    def handle(requests: Sequence[RawRequest]) -> list[Any]:
        return [
            ModelFailed("boom") if r.body == b"bad" else RawReply(b"<" + r.body + b">", "text/plain", "attr") for r in requests
        ]

    with Bench(raw_replica(handle, rows_max=4)) as bench:
        front = bench.front(slot_bytes=8192)
        good, bad = front.submit_raw(b"hello", content_type="text/plain"), front.submit_raw(b"bad")
        bench.turn()
        replies = front.replies()
        assert replies[bad] == Fault("model_error", "boom")
        raw = replies[good].raw
        size = int.from_bytes(raw[:4], "little")
        assert json.loads(raw[4 : 4 + size]) == {"content_type": "text/plain", "custom_attributes": "attr"}
        assert raw[4 + size :] == b"<hello>"


def test_a_handler_sees_what_the_request_said() -> None:
    seen: list[RawRequest] = []

    def handle(requests: Sequence[RawRequest]) -> list[Any]:
        seen.extend(requests)
        return [RawReply(b"", "text/plain") for _ in requests]

    with Bench(raw_replica(handle)) as bench:
        front = bench.front()
        front.submit_raw(b"\x00\xff", content_type="a/b", accept="c/d", headers={"x": "y"}, request_id="id-1")
        bench.turn()
        assert seen == [RawRequest(b"\x00\xff", "a/b", "c/d", "id-1", {"x": "y"})]


# ---- what others see -------------------------------------------------------------------------------------------------------


def test_the_status_page_counts_what_ran() -> None:
    with Bench(replica(PAIR)) as bench:
        front = bench.front()
        for _ in range(3):
            front.submit([[1.0, 1.0]])
        bench.turn()
        count, value = bench.block.count, bench.block.value
        assert (count[Engine.BATCHES], count[Engine.ROWS], count[Engine.QUEUE_ROWS]) == (1, 3, 0)
        assert count[Engine.BATCH_ROWS + 2] == 1  # 3 rows are below 2**2
        assert value[Engine.RUN_STARTED_S] == 0.0
        assert sum(count[Engine.QUEUE_TIME : Engine.QUEUE_TIME + TIME_CELLS]) == 3


def test_an_engine_told_to_close_first_answers_what_it_has_accepted() -> None:
    with Bench(replica(PAIR, rows_max=2)) as bench:
        front = bench.front()
        ids = [front.submit([[float(i), 0.0]]) for i in range(5)]
        bench.cycle.turn(0)
        bench.cycle.closing = True
        bench.cycle.serve()
        assert sorted(front.replies()) == ids
