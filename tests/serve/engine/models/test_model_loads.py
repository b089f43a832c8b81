"""Models are loaded and unloaded while the engine serves: the cycle turns here, and the loader's thread works beside it."""

from __future__ import annotations

import gc
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from evenkeel.serve.contract.commands import CommandError, Refusal, Result
from evenkeel.serve.contract.model_order import ModelOrder
from evenkeel.serve.engine.cycle.replies import NOT_LOADED
from evenkeel.serve.engine.models.model_loads import JOBS_MAX, ModelLoads
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.errors import BadModel
from evenkeel.serve.transport.descriptor import model_ref
from tests.support.engine_bench import Bench, Fault, answer, only
from tests.support.models import replica, signature, spec

PAIR = signature([spec("x", 2)], [spec("y", 2)])
OWN = 0


def made(order: ModelOrder) -> Replica:
    if order.folder == "bad":
        raise BadModel("this folder holds no model")
    if order.folder == "large":
        raise MemoryError
    found = replica(PAIR, lambda inputs: [inputs[0] + float(order.number)])
    found.number, found.revision = order.number, order.generation
    return found


class Loading:
    """An engine with one model of its own."""

    def __init__(self, bench: Bench, load_replica: Callable[[ModelOrder], Replica] = made) -> None:
        self.bench, self.outcomes = bench, queue.SimpleQueue[Result | CommandError]()
        self.loads = ModelLoads(bench.cycle, load_replica, OWN, lambda: [{"name": "own"}])
        self.loads.start()

    def load(self, number: int, generation: int = 1, folder: str = "good") -> None:
        self.loads.load(ModelOrder(folder, number, generation), self.outcomes.put)

    def unload(self, number: int, generation: int = 1) -> None:
        self.loads.unload(number, generation, self.outcomes.put)

    def outcome(self) -> Result | CommandError:
        """What came of the next that is done; the cycle turns meanwhile."""
        end_s = time.monotonic() + 20
        while self.outcomes.empty():
            assert time.monotonic() < end_s, "nothing came of it"
            self.bench.cycle.turn(0.01)
        return self.outcomes.get()

    def refusal(self) -> str:
        error = self.outcome()
        assert isinstance(error, CommandError)
        return error.refusal


@pytest.fixture
def loading() -> Iterator[Loading]:
    with Bench(made(ModelOrder("good", OWN, 1))) as bench:
        yield Loading(bench)


def refused(call: Callable[..., None], *args: Any) -> str:
    with pytest.raises(CommandError) as raised:
        call(*args)
    assert raised.value.refusal == Refusal.REFUSED
    return raised.value.message


def test_a_model_that_is_loaded_answers_beside_the_others_until_it_is_unloaded(loading: Loading) -> None:
    front = loading.bench.front()
    loading.load(7, generation=3)
    loaded = loading.outcome()
    assert isinstance(loaded, dict) and (loaded["number"], loaded["revision"]) == (7, 3)
    front.ref = model_ref(7, 3)
    id = front.submit([[1.0, 2.0]])
    loading.bench.turn()
    assert answer(front.replies(), id)[0].tolist() == [[8.0, 9.0]] and front.refs == [model_ref(OWN, 1), front.ref]
    loading.unload(7, 3)
    assert loading.outcome() == {"number": 7}
    front.submit([[1.0, 2.0]])
    loading.bench.turn()
    assert only(front.replies()) == Fault("not_ready", NOT_LOADED) and front.refs == [model_ref(OWN, 1)]


def test_what_was_taken_is_answered_before_an_unload_is(loading: Loading) -> None:
    loading.load(7)
    loading.outcome()
    front = loading.bench.front()
    front.ref = model_ref(7, 1)
    ids = front.submit_all([([[float(i), 0.0]],) for i in range(3)])
    loading.bench.take()
    loading.unload(7)
    assert loading.outcome() == {"number": 7}
    replies = front.replies()
    assert [answer(replies, id)[0].tolist() for id in ids] == [[[i + 7.0, 7.0]] for i in range(3)]


def test_nothing_of_an_unloaded_model_is_left_when_that_is_answered() -> None:
    backends = list[weakref.ref[Any]]()

    def remembered(order: ModelOrder) -> Replica:
        found = made(order)
        backends.append(weakref.ref(found.tensors))
        return found

    with Bench(made(ModelOrder("good", OWN, 1))) as bench:
        loading = Loading(bench, remembered)
        gc.disable()  # it is gone without a search for cycles, which would hold up those who serve
        try:
            loading.load(7)
            loading.outcome()
            assert backends[0]() is not None
            loading.unload(7)
            loading.outcome()
            assert backends[0]() is None
        finally:
            gc.enable()


def test_a_load_of_what_is_loaded_and_an_unload_of_what_is_not_change_nothing(loading: Loading) -> None:
    loading.load(7)
    loading.outcome()
    assert "number 7 is loaded already (generation 1)" in refused(loading.load, 7, 2)
    assert "is loaded already" in refused(loading.load, OWN)
    assert "number 8, generation 1, is not loaded" in refused(loading.unload, 8)
    assert "number 7, generation 2, is not loaded" in refused(loading.unload, 7, 2)
    assert "use drain" in refused(loading.unload, OWN)
    described = loading.loads.describe()
    assert described["count"] == 2 and [model["name"] for model in described["models"]] == ["own", "scripted"]
    assert [model.ref for model in loading.bench.cycle.models.all] == [model_ref(OWN, 1), model_ref(7, 1)]


def test_a_load_that_fails_changes_nothing_and_the_number_is_free_again(loading: Loading) -> None:
    loading.load(7, folder="bad")
    error = loading.outcome()
    assert isinstance(error, CommandError)
    assert (error.refusal, error.message) == (Refusal.FAILED, "this folder holds no model")
    loading.load(7, folder="large")
    assert loading.refusal() == Refusal.NO_MEMORY
    assert [model.ref for model in loading.bench.cycle.models.all] == [model_ref(OWN, 1)]
    loading.load(7)
    assert isinstance(loading.outcome(), dict)


def test_while_a_model_is_being_loaded_it_cannot_be_loaded_or_unloaded_and_others_are_answered() -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(order: ModelOrder) -> Replica:
        begun.set()
        assert go.wait(20)
        return made(order)

    with Bench(made(ModelOrder("good", OWN, 1))) as bench:
        loading, front = Loading(bench, slow), bench.front()
        loading.load(7)
        assert begun.wait(20)
        assert "number 7 is being loaded" in refused(loading.load, 7) and "is being loaded" in refused(loading.unload, 7)
        front.submit([[1.0, 1.0]])
        bench.turn()
        assert answer(front.replies(), next(iter(front.asked)))[0].tolist() == [[1.0, 1.0]]
        for number in range(JOBS_MAX - 1):
            loading.load(100 + number)
        with pytest.raises(CommandError) as raised:
            loading.load(99)
        assert raised.value.refusal == Refusal.BUSY and raised.value.retry_after_s
        go.set()
        assert all(isinstance(loading.outcome(), dict) for _ in range(JOBS_MAX))
