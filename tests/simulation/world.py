"""A small world to break things in: one front, one or two engines, callers, a clock. Everything by one seed.

A payload says what is to become of its row, so the right answer is known without running anything: a value is its
row's unique number, and the *mark* is what the model does when it meets the row (nothing, raise, give a NaN, take the
whole process down). Replies are checked against the request that was really sent, bit for bit.
"""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serve.contract.signature import Signature
from serve.engine.replica import Replica
from serve.front.heads import Head
from serve.front.invocation import SUBMITS_MAX, Invocation
from serve.settings import Limits
from tests.support.front_bench import Caller, FrontBench, head
from tests.support.models import Array, replica, signature, spec

PLAIN, RAISES, GIVES_NAN, CRASHES = 0.0, 0.25, 0.5, 0.75  # marks: the fraction of a row's number
IS_NAN = "nan in the input"
TIMEOUT_S = 5.0
JSON, NPY = head("application/json"), head("application/x-npy")

Dims = Callable[[random.Random], tuple[int, ...]]


class Crash(BaseException):
    """The engine process is gone in the middle of a batch: nothing that it had not sent will be sent."""


@dataclass(frozen=True)
class Model:
    """A kind of model: its signature, what row shapes its callers send, and the right answer."""

    signature: Signature
    dims: Dims
    answer: Callable[[Array], Array]


def _wide(x: Array) -> Array:
    y = x * 2 + 1
    return np.tile(y, 200) if x.shape[1] == 3 else y  # rows of three outgrow their slots


MODELS: dict[str, Model] = {
    "fixed shape": Model(
        signature([spec("x", 2, dtype="float64")], [spec("y", 2, dtype="float64")]), lambda r: (2,), lambda x: x * 2 + 1
    ),
    "answers larger than their slots": Model(
        signature([spec("x", "n", dtype="float64")], [spec("y", "m", dtype="float64")]), lambda r: (r.randint(1, 3),), _wide
    ),
    "padded lengths": Model(
        signature([spec("x", "n", dtype="float64", pad=0.0)], [spec("y", "n", dtype="float64")]),
        lambda r: (r.randint(1, 40),),
        lambda x: x * 2 + 1,
    ),
}


@dataclass(eq=False)
class Request:
    """One request, and everything that may rightly become of it."""

    number: int
    array: Array
    mark: float | str
    as_json: bool
    caller: Caller
    invocation: Invocation
    deadline_s: float
    left: bool = False
    told: str = ""


@dataclass
class World:
    seed: int
    model: Model
    engines: int
    random: random.Random = field(init=False)
    requests: list[Request] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    crashes: int = 0
    calm: bool = False
    killed: bool = False  # whether engines die by another's hand too, and not only of what they run
    poisoned: Counter[int] = field(default_factory=Counter)  # by request: crashes of engines that ran it

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        makers = [self._replica] * self.engines
        self.rows_max = self.random.choice([1, 4, 16, 64])
        self.free_rows = self.random.random() < 0.7
        # Crowds of single rows in half of the worlds: engines handle those that arrive together by columns.
        self.crowds = self.random.random() < 0.5
        self.killed = self.random.random() < 0.6
        limits = Limits(request_timeout_s=TIMEOUT_S, queue_rows_max=400)
        self.bench = FrontBench(*makers, limits=limits, started=self.random.random() < 0.5)
        self.down = [e for e in self.bench.engines if e.cycle is None]

    # ---- the model -----------------------------------------------------------------------------------------------

    def _replica(self) -> Replica:
        return replica(self.model.signature, self._run, rows_max=self.rows_max, free_rows=self.free_rows)

    def _run(self, inputs: Sequence[Array]) -> list[Array]:
        x = inputs[0]
        self.bench.clock.advance(0.0001 * len(x))
        marks = x[:, 0] % 1
        if not self.calm and (marks == CRASHES).any() and self.random.random() < 0.5:
            self.poisoned.update(set((x[:, 0] // 1000).astype(int).tolist()))
            raise Crash
        if (marks == RAISES).any():
            raise ValueError("a row says so")
        y = self.model.answer(x)
        y[marks == GIVES_NAN] = np.nan
        return [y]

    # ---- what happens ----------------------------------------------------------------------------------------------

    def live(self, steps: int) -> None:
        acts: list[tuple[float, Callable[[], None]]] = [
            (2 if self.crowds else 6, self.ask), (6, self.front_turns), (9, self.engine_turns), (1, self.leave),
            (0.5 * self.killed, self.crash), (1.5, self.restart), (2, self.time_passes),
            (0.15, self.long_time_passes), (1, self.bench.front.sweep),
        ]  # fmt: skip
        for _ in range(steps):
            self.random.choices([a for _, a in acts], [w for w, _ in acts])[0]()
            self.check_answers()

    def ask(self) -> None:
        for _ in range(self.random.choice([1, 6, 12, 24] if self.crowds else [1, 1, 1, 5])):
            self.ask_once()

    def ask_once(self) -> None:
        number = len(self.requests) + 1
        rows = self.random.choice([1, 1, 1, 1, self.random.randint(2, 10), self.random.randint(1, 200)])
        if self.crowds and self.random.random() < 0.95:
            rows = 1
        shape = (rows, *self.model.dims(self.random))
        array = (number * 1000.0 + np.arange(rows))[:, None] + np.zeros(shape)
        mark: float | str = PLAIN
        as_json = self.random.random() < 0.5
        if self.random.random() < (0.03 if self.crowds else 0.25):
            mark = self.random.choice([RAISES, GIVES_NAN, CRASHES, CRASHES, IS_NAN])
            at = self.random.randrange(rows)
            if mark == IS_NAN:
                as_json = False  # strict JSON has no word for it
                array[at, 0] = np.nan
            else:
                array[at] += float(mark)
        caller = Caller()
        invocation = Invocation(caller, self._head(as_json))
        deadline_s = self.bench.clock() + TIMEOUT_S
        self.requests.append(Request(number, array, mark, as_json, caller, invocation, deadline_s))
        # As the hot path brings them, many in a turn of the event loop, or each on its own.
        enter = self.bench.front.arrive if self.random.random() < 0.7 else self.bench.front.begin
        enter(invocation, self._body(array, as_json))

    def _head(self, as_json: bool) -> Head:
        return JSON if as_json else NPY

    def _body(self, array: Array, as_json: bool) -> bytes:
        if as_json:
            rows = array.tolist()
            return json.dumps({"instances": rows} if self.random.random() < 0.7 else rows).encode()
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()

    def front_turns(self) -> None:
        self.bench.step_front()

    def engine_turns(self) -> None:
        engine = self.random.choice(self.bench.engines)
        try:
            engine.turn()
        except Crash:
            self.crashes += 1
            engine.crash()
            self.down.append(engine)

    def leave(self) -> None:
        waiting = [r for r in self.requests if r.invocation.caller is not None]
        if waiting:
            request = self.random.choice(waiting)
            request.left = True
            self.bench.front.abandon(request.invocation)

    def crash(self) -> None:
        alive = [e for e in self.bench.engines if e.cycle is not None]
        if alive:
            engine = self.random.choice(alive)
            assert engine.cycle is not None
            if self.random.random() < 0.5:
                engine.cycle._take(0)  # it dies with records that it has read
            engine.crash()
            self.crashes += 1
            self.down.append(engine)

    def restart(self) -> None:
        if self.down:
            self.down.pop().start()

    def time_passes(self) -> None:
        self.bench.clock.advance(self.random.random() * 0.1)

    def long_time_passes(self) -> None:
        self.bench.clock.advance(self.random.random() * TIMEOUT_S)

    # ---- what must hold --------------------------------------------------------------------------------------------

    def check_answers(self) -> None:
        for request in self.requests:
            if request.told or not request.caller.answered:
                continue
            request.told = request.caller.code
            self.seen[request.told] += 1
            assert not request.left, f"request {request.number} was answered after its caller had left"
            self._check(request)

    def _check(self, request: Request) -> None:
        code, late = request.told, self.bench.clock() >= request.deadline_s
        if code in ("not_ready", "overloaded"):
            return
        if code == "deadline_exceeded":
            assert late, f"request {request.number} was given up before its deadline"
            return
        if code == "engine_lost":
            assert self.killed and self.crashes >= SUBMITS_MAX, f"request {request.number} never ran, and was given up"
            return
        if code == "poisoned_request":
            self._check_poisoned(request)
            return
        expected = {PLAIN: "ok", CRASHES: "ok", RAISES: "model_error", IS_NAN: "not_finite_input"}.get(request.mark)
        if request.mark == GIVES_NAN:
            expected = "not_finite_output" if request.as_json else "ok"
        why = request.caller.error.message if request.caller.error else ""
        assert code == expected, f"request {request.number}, marked {request.mark}, was told {code}: {why}"
        if code == "ok":
            self._check_numbers(request)

    def _check_poisoned(self, request: Request) -> None:
        """Only the cause of a crash is refused for it. Who is killed from outside while he runs alone cannot prove that
        he was innocent, but he too has seen two crashes."""
        if request.mark == CRASHES:
            assert self.killed or self.poisoned[request.number] == 2, f"{self.poisoned[request.number]} crashes"
        else:
            assert self.killed and self.crashes >= 2, f"request {request.number} did nothing wrong"

    def _check_numbers(self, request: Request) -> None:
        got = self._numbers(request)
        want = self.model.answer(request.array)
        if request.mark == GIVES_NAN:
            want[request.array[:, 0] % 1 == GIVES_NAN] = np.nan
        assert np.array_equal(got, want, equal_nan=True), f"request {request.number} got another's answer: {got} for {want}"

    def _numbers(self, request: Request) -> Array:
        raw = request.caller.body
        assert raw is not None
        if request.as_json:
            found = json.loads(raw)
            return np.array(found["predictions"] if isinstance(found, dict) else found, np.float64)
        array: np.ndarray[Any, Any] = np.load(io.BytesIO(raw))
        return array

    def end(self) -> None:
        """Calm weather: every engine lives, nobody crashes; soon nothing may be left anywhere."""
        self.calm = True
        while self.down:
            self.down.pop().start()
        for _ in range(400):
            self.bench.settle(2)
            self.bench.clock.advance(0.06)
            self.bench.front.sweep()
            self.check_answers()
            if self.bench.front.idle:
                break
        self.bench.settle()
        self.check_answers()
        self.bench.assert_clean()
        forgotten = [r.number for r in self.requests if not r.told and not r.left]
        assert not forgotten, f"never answered: {forgotten}"
