"""Requests of one row that arrive together are handled by columns. To everybody outside they are requests of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from evenkeel.serve.contract.status_page import TIME_CELLS, Engine
from evenkeel.serve.engine.cycle.row_table import ROWS_MIN
from evenkeel.serve.transport.descriptor import model_ref
from tests.support.engine_bench import Bench, Fault, FrontEnd, answer
from tests.support.models import Array, replica, signature, spec, twice_plus_one

PAIR = signature([spec("x", 2)], [spec("y", 2)])
MANY = 2 * ROWS_MIN


def rows(count: int, start: int = 0) -> list[list[list[list[float]]]]:
    return [[[[float(i), float(-i)]]] for i in range(start, start + count)]


def assert_own_answers(front: FrontEnd, ids: Sequence[int], start: int = 0) -> None:
    replies = front.replies()
    assert sorted(replies) == sorted(ids)
    for i, id in enumerate(ids, start):
        assert answer(replies, id)[0].tolist() == [[2.0 * i + 1, 1.0 - 2 * i]]


@pytest.mark.parametrize("count", [ROWS_MIN - 1, ROWS_MIN, MANY, 64])
def test_each_gets_the_answer_to_its_own_row(count: int) -> None:
    with Bench(replica(PAIR, rows_max=64)) as bench:
        front = bench.front()
        ids = front.submit_all(rows(count))
        bench.turn()
        assert bench.replica.backend.sizes == [count]
        assert_own_answers(front, ids)
        assert bench.model.queue.pending.rows == 0


def test_slots_that_are_not_neighbours_are_gathered_from_where_they_are() -> None:
    with Bench(replica(PAIR, rows_max=64)) as bench:
        front = bench.front()
        scattered = [front.claim(1) for _ in range(3 * MANY)]
        for slot in scattered[::3]:
            front.slots.release(slot)
        ids = front.submit_all(rows(MANY))
        bench.turn()
        assert_own_answers(front, ids)


def test_a_block_larger_than_a_batch_is_run_in_several() -> None:
    with Bench(replica(PAIR, rows_max=4)) as bench:
        front = bench.front()
        ids = front.submit_all(rows(14))
        bench.turn(6)
        assert bench.replica.backend.sizes == [4, 4, 4, 2]
        assert_own_answers(front, ids)


def test_two_blocks_of_one_front_share_a_batch() -> None:
    with Bench(replica(PAIR, rows_max=64)) as bench:
        front = bench.front()
        first = front.submit_all(rows(MANY))
        bench.take()
        second = front.submit_all(rows(MANY, start=MANY))
        bench.turn()
        assert bench.replica.backend.sizes == [2 * MANY]
        assert_own_answers(front, [*first, *second])


def test_blocks_of_two_fronts_share_a_batch() -> None:
    with Bench(replica(PAIR, rows_max=64)) as bench:
        left, right = bench.front(), bench.front()
        mine, theirs = left.submit_all(rows(MANY)), right.submit_all(rows(MANY, start=100))
        bench.turn()
        assert_own_answers(left, mine)
        assert_own_answers(right, theirs, start=100)


def test_a_block_shares_a_batch_with_a_request_of_several_rows() -> None:
    with Bench(replica(PAIR, rows_max=64)) as bench:
        front = bench.front()
        ids = front.submit_all(rows(MANY))
        bench.take()
        several = front.submit([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
        bench.turn()
        replies = front.replies()
        assert answer(replies, several)[0].tolist() == [[3.0, 3.0], [5.0, 5.0], [7.0, 7.0]]
        assert sorted(replies) == sorted([*ids, several])
        assert answer(replies, ids[5])[0].tolist() == [[11.0, -9.0]]


def test_a_request_of_several_rows_before_a_block_gets_its_own_rows() -> None:
    with Bench(replica(PAIR, rows_max=64)) as bench:
        front = bench.front()
        several = front.submit([[1.0, 1.0], [2.0, 2.0]])
        bench.take()
        ids = front.submit_all(rows(MANY))
        bench.turn()
        replies = front.replies()
        assert answer(replies, several)[0].tolist() == [[3.0, 3.0], [5.0, 5.0]]
        assert answer(replies, ids[0])[0].tolist() == [[1.0, 1.0]]


def test_a_block_among_records_of_another_kind_is_no_block() -> None:
    with Bench(replica(PAIR, rows_max=64)) as bench:
        front = bench.front()
        ids = front.submit_all([*rows(ROWS_MIN), [[[7.0, 7.0], [8.0, 8.0]]], *rows(ROWS_MIN)])
        bench.turn()
        replies = front.replies()
        assert sorted(replies) == ids
        assert answer(replies, ids[ROWS_MIN])[0].tolist() == [[15.0, 15.0], [17.0, 17.0]]


@pytest.mark.parametrize("late", [[0], [3], list(range(ROWS_MIN))], ids=["the first", "the fourth", "all"])
def test_rows_for_a_model_that_is_not_loaded_are_no_part_of_a_block(late: list[int]) -> None:
    with Bench(replica(PAIR, rows_max=64)) as bench:
        front = bench.front()
        loaded = front.ref
        ids, records = [], b""
        for i, request in enumerate(rows(ROWS_MIN)):
            front.ref = model_ref(0, 9) if i in late else loaded
            id, record = front._place(*request, within_s=60.0)
            ids.append(id)
            records += record
        front.channel.send(records)
        bench.turn()
        replies = front.replies()
        assert [i for i, id in enumerate(ids) if isinstance(replies[id], Fault)] == late
        assert sum(bench.replica.backend.sizes) == ROWS_MIN - len(late)


# ---- one of them is out of the ordinary ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, 1, MANY - 1])
def test_a_bad_row_of_a_block_fails_alone(bad: int) -> None:
    def refuses_99(inputs: Sequence[Array]) -> list[Array]:
        if (inputs[0] == 99.0).any():
            raise ValueError("99")
        return twice_plus_one(inputs)

    with Bench(replica(PAIR, refuses_99, rows_max=64)) as bench:
        front = bench.front()
        requests = rows(MANY)
        requests[bad] = [[[99.0, 0.0]]]
        ids = front.submit_all(requests)
        bench.turn()
        replies = front.replies()
        assert sorted(replies) == ids
        assert replies[ids[bad]] == Fault("model_error", "the model raised ValueError: 99")
        for i, id in enumerate(ids):
            if i != bad:
                assert answer(replies, id)[0].tolist() == [[2.0 * i + 1, 1.0 - 2 * i]]


def test_a_nan_in_a_block_fails_alone() -> None:
    with Bench(replica(PAIR, rows_max=4)) as bench:
        front = bench.front()
        requests = rows(MANY)
        requests[5] = [[[np.nan, 0.0]]]
        ids = front.submit_all(requests)
        bench.turn(8)
        replies = front.replies()
        assert isinstance(replies[ids[5]], Fault) and replies[ids[5]].code == "not_finite_input"
        assert [id for id in ids if isinstance(replies[id], Fault)] == [ids[5]]


@pytest.mark.parametrize("leaver", [0, 3, MANY - 1])
def test_a_caller_of_a_block_that_leaves_is_given_back_alone(leaver: int) -> None:
    with Bench(replica(PAIR, rows_max=64)) as bench:
        front = bench.front()
        ids = front.submit_all(rows(MANY))
        bench.take()
        front.cancel(ids[leaver])
        bench.turn()
        replies = front.replies()
        assert sorted(replies) == ids
        assert [id for id in ids if isinstance(replies[id], Fault)] == [ids[leaver]]
        assert answer(replies, ids[1])[0].tolist() == [[3.0, -1.0]]
        assert bench.model.queue.pending.rows == 0


@pytest.mark.parametrize("leaver", [0, 1, 3, 4, 7])
def test_a_caller_of_a_block_that_leaves_when_half_of_it_has_run_disturbs_nobody(leaver: int) -> None:
    """The first four are answered by then; their callers' cancellations cross the answers."""
    with Bench(replica(PAIR, rows_max=4)) as bench:
        front = bench.front()
        ids = front.submit_all(rows(8))
        bench.cycle.turn(0)
        assert bench.replica.backend.sizes == [4]
        front.cancel(ids[leaver])
        bench.turn()
        replies = front.replies()
        assert sorted(replies) == ids
        assert [i for i, id in enumerate(ids) if isinstance(replies[id], Fault)] == ([leaver] if leaver >= 4 else [])
        assert (len(bench.model.queue.pending), bench.model.queue.pending.rows) == (0, 0)


def test_a_block_whose_deadlines_pass_while_it_waits_is_given_back() -> None:
    with Bench(replica(PAIR, rows_max=64)) as bench:
        front = bench.front()
        bench.turn()
        ids = front.submit_all(rows(MANY), within_s=0.01)
        bench.clock.advance(0.02)
        for _ in range(8):
            bench.cycle.turn(0)
            bench.clock.advance(0.02)
        replies = front.replies()
        assert sorted(replies) == ids
        assert {r.code for r in replies.values() if isinstance(r, Fault)} == {"deadline_exceeded"}
        assert bench.replica.backend.sizes == [] and bench.model.queue.pending.rows == 0


def test_one_late_request_of_a_block_does_not_take_the_others_along() -> None:
    with Bench(replica(PAIR, rows_max=64)) as bench:
        front = bench.front()
        bench.turn()
        spans = [60.0] * MANY
        spans[4] = 0.01
        ids = front.submit_all(rows(MANY), within_s=spans)
        bench.clock.advance(0.02)
        for _ in range(8):
            bench.cycle.turn(0)
            bench.clock.advance(0.02)
        replies = front.replies()
        assert sorted(replies) == ids
        assert [id for id in ids if isinstance(replies[id], Fault)] == [ids[4]]
        assert bench.model.queue.pending.rows == 0 and len(bench.model.queue.pending) == 0


def test_a_front_that_dies_takes_its_blocks_along() -> None:
    with Bench(replica(PAIR, rows_max=4)) as bench:
        dies, stays = bench.front(), bench.front()
        dies.submit_all(rows(MANY))
        bench.cycle.turn(0)
        dies.channel.close()
        ids = stays.submit_all(rows(MANY))
        bench.turn(10)
        assert_own_answers(stays, ids)
        assert bench.replica.backend.sizes == [4, 4, 4, 4], "nothing runs for a front that is gone"
        assert (len(bench.model.queue.pending), bench.model.queue.pending.rows) == (0, 0)


def test_a_block_of_rows_is_counted_as_its_rows() -> None:
    with Bench(replica(PAIR, rows_max=64)) as bench:
        front = bench.front()
        front.submit_all(rows(MANY))
        bench.turn()
        count = bench.page.engine(0).count
        assert (count[Engine.BATCHES], count[Engine.ROWS]) == (1, MANY)
        assert sum(count[Engine.QUEUE_TIME : Engine.QUEUE_TIME + TIME_CELLS]) == MANY
