"""One row by the way of a batch, and from memory that is bound: the same answer, the same words, the same errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.engine.backends.base import BoundRun, Capabilities
from evenkeel.serve.engine.cycle.single_request import BOUND_BYTES_MAX, LOOKED_AT_BY_STRUCT_MAX, BoundRowRunner, RowRunner, row_of
from evenkeel.serve.errors import NotFinite
from evenkeel.serve.transport.descriptor import FINITE
from tests.support.engine_bench import Bench, Fault, only
from tests.support.models import Array, Run, ScriptedBackend, replica, signature, spec, twice_plus_one

OFFSET = 1024


class Binding(ScriptedBackend):
    """Runs from the same memory into the same memory."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(binding=self)

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> BoundRun | None:
        def run() -> None:
            outputs[0][:] = self.run(inputs)[0]

        return BoundRun(run, lambda e: e)


class NotOfTheseTypes(ScriptedBackend):
    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(binding=self)

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> BoundRun | None:
        return None


def made(run: Run, *dims: int, dtype: str = "float32", backend: type[ScriptedBackend] = Binding, **said: Any) -> Any:
    sig = signature([spec("x", *dims, dtype=dtype, **said)], [spec("y", *dims, dtype=dtype)])
    found = replica(sig, run)
    found.tensors = backend(sig, run)
    return found


def asked(row: Callable[[memoryview, int], Any], array: Array) -> Any:
    memory = memoryview(bytearray(16384))
    memory[OFFSET : OFFSET + array.nbytes] = array.tobytes()
    try:
        answer, flags, _ = row(memory, OFFSET)
    except NotFinite as e:
        return e.message
    return answer, flags


def clock() -> float:
    return 0.0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool"])
@pytest.mark.parametrize("values", [2, LOOKED_AT_BY_STRUCT_MAX, LOOKED_AT_BY_STRUCT_MAX + 1, 600])
def test_both_ways_give_the_same(dtype: str, values: int) -> None:
    model = made(lambda inputs: [inputs[0][:, ::-1]], values, dtype=dtype)
    bound, plain = row_of(model, clock), RowRunner(model, clock)
    assert isinstance(bound, BoundRowRunner)
    random = np.random.default_rng(values)
    for _ in range(3):
        row = (random.standard_normal((1, values)) * 50).astype(dtype)
        assert asked(bound, row) == asked(plain, row) == (row[:, ::-1].tobytes(), FINITE)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("values", [3, LOOKED_AT_BY_STRUCT_MAX + 1])
@pytest.mark.parametrize("wrong", [[np.nan], [np.inf], [np.inf, -np.inf], [-np.inf, np.nan]])
def test_what_is_not_finite_is_refused_going_in_and_told_coming_out(dtype: str, values: int, wrong: list[float]) -> None:
    def spoil(inputs: Sequence[Array]) -> list[Array]:
        out = inputs[0].copy()
        out[0, : len(wrong)] = wrong
        return [out]

    row = np.ones((1, values), dtype)
    model = made(spoil, values, dtype=dtype)
    for way in (row_of(model, clock), RowRunner(model, clock)):
        answer, flags = asked(way, row)
        assert flags == 0 and not np.isfinite(np.frombuffer(answer, dtype)).all()
    row[0, -len(wrong) :] = wrong
    found = {asked(way, row) for way in (row_of(model, clock), RowRunner(model, clock))}
    assert len(found) == 1 and "holds NaN or infinity" in found.pop()
    assert not model.backend.batches[2:], "it does not reach the model"
    allowed = made(twice_plus_one, values, dtype=dtype, allow_nan=True)
    assert asked(row_of(allowed, clock), row)[1] == 0, "the model takes it, and what it gives is told"


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=4, max_size=4))
def test_finite_doubles_whose_sum_is_not_are_taken(values: list[float]) -> None:
    model = made(lambda inputs: [inputs[0]], 4, dtype="float64")
    row = np.array([values])
    assert asked(row_of(model, clock), row) in (asked(RowRunner(model, clock), row), (row.tobytes(), 0))
    huge = np.array([[1.7e308, 1.7e308, 0.0, 1.0]])
    assert asked(row_of(model, clock), huge)[0] == huge.tobytes()


def test_an_answer_stays_as_it_was_when_the_next_row_runs() -> None:
    model = made(twice_plus_one, 2)
    row = row_of(model, clock)
    first = asked(row, np.array([[1, 2]], np.float32))
    asked(row, np.array([[8, 9]], np.float32))
    assert np.frombuffer(first[0], np.float32).tolist() == [3, 5]


@pytest.mark.parametrize("backend", [ScriptedBackend, NotOfTheseTypes])
def test_a_backend_that_cannot_bind_runs_as_ever(backend: type[ScriptedBackend]) -> None:
    model = made(twice_plus_one, 2, backend=backend)
    assert isinstance(row_of(model, clock), RowRunner)


def test_a_large_row_is_handed_over_as_it_lies_in_its_slot() -> None:
    seen = []

    def run(inputs: Sequence[Array]) -> list[Array]:
        seen.append(inputs[0].flags.owndata)
        return [inputs[0] + 1]

    model = made(run, BOUND_BYTES_MAX // 4 + 1)
    row = row_of(model, clock)
    assert isinstance(row, RowRunner) and isinstance(row_of(made(run, BOUND_BYTES_MAX // 4), clock), BoundRowRunner)
    given = np.arange(BOUND_BYTES_MAX // 4 + 1, dtype=np.float32)[None]
    memory = memoryview(bytearray(OFFSET + given.nbytes))
    memory[OFFSET:] = given.tobytes()
    answer, flags, _ = row(memory, OFFSET)
    assert bytes(answer) == (given + 1).tobytes() and flags == FINITE and seen == [False]


def raises(inputs: Sequence[Array]) -> list[Array]:
    raise ValueError("no")


@pytest.mark.parametrize("run", [twice_plus_one, raises])
def test_an_engine_uses_it_and_nobody_can_tell(run: Run) -> None:
    def answered(backend: type[ScriptedBackend]) -> list[str]:
        model = made(run, 2, backend=backend)
        with Bench(model) as bench:
            front, found = bench.front(), []
            for row in ([1.0, 2.0], [3.0, 4.0], [float("nan"), 0.0], [5.0, 6.0]):
                front.submit([row])
                bench.turn()
                found.append(repr(only(front.replies())))
            return [*found, str(list(bench.block.count))]

    assert answered(Binding) == answered(ScriptedBackend)


def test_a_backend_that_is_put_in_its_place_later_is_the_one_that_runs() -> None:
    """Faults on purpose are wrapped around a backend after warm-up."""
    model = made(twice_plus_one, 2)
    with Bench(model) as bench:
        front = bench.front()
        front.submit([[1.0, 2.0]])
        bench.turn()
        front.replies()
        model.tensors = ScriptedBackend(model.signature, raises)
        front.submit([[1.0, 2.0]])
        bench.turn()
        assert isinstance(only(front.replies()), Fault)
