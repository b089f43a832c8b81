"""Several models in one engine, one after the other and side by side."""

from __future__ import annotations

from evenkeel.serve.contract.status_page import Engine
from evenkeel.serve.engine.cycle.model_queue import IDLE_S
from evenkeel.serve.engine.cycle.replies import NOT_LOADED
from evenkeel.serve.engine.models.replica import Replica
from tests.support.engine_bench import Bench, Fault, answer, only
from tests.support.models import ScriptedBackend, replica, signature, spec

PAIR = signature([spec("x", 2)], [spec("y", 2)])


def made(number: int = 0, generation: int = 0, plus: float = 1.0) -> Replica:
    found = replica(PAIR, lambda inputs: [inputs[0] + plus])
    found.number, found.revision = number, generation
    return found


def test_a_withdrawn_model_answers_what_it_took_and_refuses_what_comes() -> None:
    with Bench(made()) as bench:
        front = bench.front()
        taken = front.submit_all([([[float(i), 0.0]],) for i in range(3)])
        bench.take()
        bench.cycle.withdraw(bench.model.ref)
        late = front.submit([[9.0, 9.0]])
        bench.turn()
        replies = front.replies()
        assert [answer(replies, id)[0].tolist() for id in taken] == [[[i + 1.0, 1.0]] for i in range(3)]
        assert replies[late] == Fault("not_ready", NOT_LOADED)
        assert bench.cycle.models.all == () and bench.cycle.idle


def test_an_engine_without_a_model_sleeps_and_refuses() -> None:
    with Bench(made()) as bench:
        front = bench.front()
        bench.cycle.withdraw(bench.model.ref)
        assert [bench.cycle.turn(0) for _ in range(4)] == [IDLE_S] * 4, "it does not spin"
        front.submit([[1.0, 1.0]])
        assert bench.cycle.turn(0) == IDLE_S
        assert only(front.replies()) == Fault("not_ready", NOT_LOADED)
        assert bench.block.value[Engine.BEAT_S] == bench.clock(), "and lives"


def test_the_next_generation_answers_under_the_same_number() -> None:
    with Bench(made()) as bench:
        front = bench.front()
        bench.cycle.withdraw(bench.model.ref)
        next_one = bench.cycle.add(made(0, 1, plus=100.0))
        late = front.submit([[1.0, 1.0]])
        front.ref = next_one.ref
        asked = front.submit([[1.0, 1.0]])
        bench.turn()
        replies = front.replies()
        assert isinstance(replies[late], Fault) and answer(replies, asked)[0].tolist() == [[101.0, 101.0]]
        assert bench.front().ref == next_one.ref, "who comes now is told of it"


def test_fronts_are_told_of_all_models_at_first_and_of_each_that_comes_or_goes() -> None:
    with Bench(made(0)) as bench:
        here = bench.front()
        other = bench.cycle.add(made(1))
        late = bench.front()
        here.replies()
        assert here.refs == late.refs == [bench.model.ref, other.ref]
        bench.cycle.withdraw(bench.model.ref)
        bench.turn()
        assert not here.replies() and not late.replies()
        assert here.refs == late.refs == [other.ref]


def test_two_models_answer_side_by_side_each_its_own() -> None:
    with Bench(made(0, plus=1.0)) as bench:
        other = bench.cycle.add(made(1, plus=10.0))
        front, ids, records = bench.front(), [], b""
        for ref in [bench.model.ref, other.ref] * 4:
            front.ref = ref
            id, record = front._place([[1.0, 2.0]], within_s=60.0)
            ids.append(id)
            records += record
        front.channel.send(records)
        bench.take()
        assert bench.block.count[Engine.QUEUE_ROWS] == 8, "the page has the sum"
        bench.turn()
        replies = front.replies()
        assert [answer(replies, id)[0].tolist() for id in ids] == [[[2.0, 3.0]], [[11.0, 12.0]]] * 4
        assert bench.block.count[Engine.QUEUE_ROWS] == 0


def test_a_request_alone_is_not_alone_while_another_model_has_a_queue() -> None:
    with Bench(made(0)) as bench:
        other = bench.cycle.add(made(1, plus=10.0))
        front = bench.front()
        front.ref = bench.model.ref
        front.submit_all([([[0.0, 0.0]],)] * 3)
        bench.take()
        front.ref = other.ref
        id = front.submit([[1.0, 1.0]])
        bench.cycle.turn(0)
        backend = bench.replica.tensors
        assert isinstance(backend, ScriptedBackend) and backend.sizes == [3]
        assert answer(front.replies(), id)[0].tolist() == [[11.0, 11.0]]
