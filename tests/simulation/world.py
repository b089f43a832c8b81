"""A small world to break things in: one front, one or two engines a version, callers, a clock. Everything by one seed.

A payload says what is to become of its row, so the right answer is known without running anything: a value is its
row's unique number, and the *mark* is what the model does when it meets the row (nothing, raise, give a NaN, take the
whole process down). Replies are checked against the request that was really sent, bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evenkeel.serve.contract.engine_ends import Ended
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.contract.status_page import COUNTED_VERSIONS_MAX, Front
from evenkeel.serve.engine.backends.base import Capabilities
from evenkeel.serve.engine.cycle.launch_complete import IN_FLIGHT_MAX
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.errors import FAMILIES
from evenkeel.serve.front.http.request_head import Head
from evenkeel.serve.front.request.invocation import Invocation
from evenkeel.serve.front.request.suspects import KILLS_MAX
from evenkeel.serve.settings import Limits
from tests.simulation import handling
from tests.simulation.lanes import Lanes
from tests.support.front_bench import Caller, EnginePlace, FrontBench, head
from tests.support.models import Array, ScriptedBackend, raw_replica, replica, signature, spec

PLAIN, RAISES, GIVES_NAN, CRASHES = 0.0, 0.25, 0.5, 0.75  # marks: the fraction of a row's number
IS_NAN = "nan in the input"
TIMEOUT_S = 5.0
REVISION = 1e8  # is added to each number of an answer once for each revision: so answers tell who gave them
NAMED = re.compile(rb"x-evenkeel-model: scripted/(\d+)\r\n")
JSON, NPY = head("application/json"), head("application/x-npy")

Dims = Callable[[random.Random], tuple[int, ...]]


class Crash(BaseException):
    """The engine process is gone in the middle of a batch: nothing that it had not sent will be sent."""


@dataclass(frozen=True)
class Model:
    """A kind of model: its signature by revision, what row shapes its callers send, and the right answer by revision.
    `signature` None: a handler, see handling.py."""

    signature: Callable[[int], Signature] | None = None
    dims: Dims = lambda r: (1,)
    answer: Callable[[Array, int], Array] = lambda x, revision: x


def _twice(x: Array, revision: int) -> Array:
    return x * 2 + 1 + revision * REVISION


def _wide(x: Array, revision: int) -> Array:
    y = _twice(x, revision)
    return np.tile(y, 200) if x.shape[1] == 3 else y  # rows of three outgrow their slots


def _wider(x: Array, revision: int) -> Array:
    """Every other version has answers that have no room in a slot made for the one before."""
    return np.tile(_twice(x, revision), 1 if revision % 2 else 40)


MODELS: dict[str, Model] = {
    "fixed shape": Model(
        lambda e: signature([spec("x", 2, dtype="float64")], [spec("y", 2 if e % 2 else 80, dtype="float64")]),
        lambda r: (2,),
        _wider,
    ),
    "answers larger than their slots": Model(
        lambda e: signature([spec("x", "n", dtype="float64")], [spec("y", "m", dtype="float64")]),
        lambda r: (r.randint(1, 3),),
        _wide,
    ),
    "padded lengths": Model(
        lambda e: signature([spec("x", "n", dtype="float64", pad=0.0)], [spec("y", "n", dtype="float64")]),
        lambda r: (r.randint(1, 40),),
        _twice,
    ),
    "handler": Model(),
}


def numbers(x: Array) -> list[int]:
    """Of the requests whose rows these are."""
    known = x[:, 0][~np.isnan(x[:, 0])]
    return sorted(set((known // 1000).astype(int).tolist()))


class Launching(ScriptedBackend):
    """The same model on a device: what a batch meets it meets while it is waited for. What ends the process there ends it for
    all that are in flight, so all of them count as poisoned by it."""

    def __init__(self, signature: Signature, run: Callable[[Sequence[Array]], Sequence[Any]], beside: list[int]) -> None:
        super().__init__(signature, run)
        self._beside = beside
        self._flying: list[list[Array]] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(launching=self)

    def launch(self, inputs: Sequence[Array]) -> list[Array]:
        self._flying.append([np.array(a) for a in inputs])
        assert len(self._flying) <= IN_FLIGHT_MAX
        return self._flying[-1]

    def complete(self, ticket: list[Array]) -> Sequence[Any]:
        assert self._flying.pop(0) is ticket, "in the order of the launches, each once"
        self._beside[:] = [n for batch in self._flying for n in numbers(batch[0])]
        try:
            return self.run(ticket)
        finally:
            self._beside.clear()


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
    followed: int  # place, in the order of those named, of the revision to which its front sent everything when it came
    wish: handling.Wish | None = None  # of a handler
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
    turning: EnginePlace | None = None  # whose turn it is
    fallen: bool = False  # it has crashed in it
    calm: bool = False
    killed: bool = False  # whether engines die by another's hand too, and not only of what they run
    poisoned: Counter[int] = field(default_factory=Counter)  # by request: crashes of engines that ran it
    beside: list[int] = field(default_factory=list)  # requests in flight with the batch that is waited for
    answers: Counter[int] = field(default_factory=Counter)  # by revision
    open_parts: set[object] = field(default_factory=set)  # generators that are neither done nor closed

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.rows_max = self.random.choice([1, 4, 16, 64])
        self.free_rows = self.random.random() < 0.7
        # Crowds of single rows in half of the worlds: engines handle those that arrive together by columns.
        self.crowds = self.random.random() < 0.5
        self.killed = self.random.random() < 0.6
        self.swaps = self.random.random() < 0.7
        self.flies = self.seed % 8 >= 4  # batches are launched, and completed later, as on a GPU
        limits = Limits(request_timeout_s=TIMEOUT_S, queue_rows_max=400, stream_timeout_s=3 * TIMEOUT_S)
        makers = [functools.partial(self._replica, place) for place in range(2 * self.engines)]
        self.bench = FrontBench(*makers, limits=limits, started=False)
        self.lanes = Lanes(self.bench, self.engines, self.random)
        if self.random.random() < 0.5:
            for engine in self.lanes.lane(0):
                engine.start()
            self.bench.settle()

    # ---- the model -----------------------------------------------------------------------------------------------

    def _replica(self, place: int) -> Replica:
        revision = self.lanes.revision_of(place)
        if self.model.signature is None:
            made = raw_replica(handling.Handler(revision, self.open_parts, self._maybe_crash), self.rows_max)
        else:
            run = functools.partial(self._run, revision)
            made = replica(self.model.signature(revision), run, rows_max=self.rows_max, free_rows=self.free_rows)
            if self.flies:
                made.tensors = Launching(self.model.signature(revision), run, self.beside)
        made.manifest = dataclasses.replace(made.manifest, version=str(revision))
        made.revision, made.counters = revision, min(revision, COUNTED_VERSIONS_MAX) - 1
        return made

    def _maybe_crash(self, numbers: list[int]) -> None:
        if not self.calm and self.random.random() < 0.5:
            self.poisoned.update({*numbers, *self.beside})
            assert self.turning is not None, "models run while their engine has its turn"
            self.turning.fall_silent()  # a process that has ended sends nothing more, whatever would catch what is raised
            self.fallen = True
            raise Crash

    def _run(self, revision: int, inputs: Sequence[Array]) -> list[Array]:
        x = inputs[0]
        self.bench.clock.advance(0.0001 * len(x))
        marks = x[:, 0] % 1
        if (marks == CRASHES).any():
            self._maybe_crash(numbers(x))
        if (marks == RAISES).any():
            raise ValueError("a row says so")
        y = self.model.answer(x, revision)
        y[marks == GIVES_NAN] = np.nan
        return [y]

    # ---- what happens ----------------------------------------------------------------------------------------------

    def live(self, steps: int) -> None:
        acts: list[tuple[float, Callable[[], None]]] = [
            (2 if self.crowds else 6, self.ask), (6, self.front_turns), (9, self.engine_turns), (1, self.leave),
            (0.5 * self.killed, self.crash), (1.5, self.restart), (2, self.time_passes),
            (0.15, self.long_time_passes), (1, self.sweep), (1.5 * self.swaps, self.lanes.step), (2, self.catch_up),
            (0.05 * self.killed, self.kill_front),
        ]  # fmt: skip
        for _ in range(steps):
            self.random.choices([a for _, a in acts], [w for w, _ in acts])[0]()
            self.check_answers()

    def ask(self) -> None:
        for _ in range(self.random.choice([1, 6, 12, 24] if self.crowds else [1, 1, 1, 5])):
            self.ask_once()

    def ask_once(self) -> None:
        number = len(self.requests) + 1
        if self.model.signature is None:
            wish = handling.wish(number, self.random, 0.03 if self.crowds else 0.25)
            self._enter(number, wish.body(), True, np.empty(0), PLAIN, wish)
            return
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
        self._enter(number, self._body(array, as_json), as_json, array, mark)

    def _enter(
        self, number: int, body: bytes, as_json: bool, array: Array, mark: float | str, wish: handling.Wish | None = None
    ) -> None:
        caller = Caller(keeps_up=lambda: self.calm or self.random.random() < 0.7)
        invocation = Invocation(caller, self._head(as_json))
        deadline_s, front = self.bench.clock() + TIMEOUT_S, self.bench.front
        followed = self.lanes.place_of(front.engines._revision)
        self.requests.append(Request(number, array, mark, as_json, caller, invocation, deadline_s, followed, wish))
        # As the hot path brings them, many in a turn of the event loop, or each on its own.
        enter = front.row_batcher.arrive if self.random.random() < 0.7 else self.bench.begin_alone
        enter(invocation, body)

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
        engine = self.turning = self.random.choice(self.bench.engines)
        with contextlib.suppress(Crash):
            engine.turn()
        self.turning = None
        if self.fallen:
            self.fallen = False
            self.crashes += 1
            engine.crash()

    def sweep(self) -> None:
        self.bench.front.sweep()

    def catch_up(self) -> None:
        """Clients who were slow take what is there for them."""
        for invocation in list(self.bench.front.in_flight.pending.values()):
            self.bench.front.outcomes.streams.resume(invocation)

    def kill_front(self) -> None:
        self.check_answers()
        for request in self.requests:
            request.left = request.left or not request.told
        self.bench.kill_front()

    def leave(self) -> None:
        waiting = [r for r in self.requests if r.invocation.caller is not None]
        if waiting:
            request = self.random.choice(waiting)
            request.left = True
            self.bench.front.cancellation.abandon(request.invocation)

    def crash(self) -> None:
        alive = [e for e in self.bench.engines if e.cycle is not None]
        if alive:
            engine = self.random.choice(alive)
            assert engine.cycle is not None
            if self.random.random() < 0.5:
                engine.take()  # it dies with records that it has read
            engine.crash(Ended.KILLED)
            self.crashes += 1

    def restart(self) -> None:
        if self.lanes.down:
            self.random.choice(self.lanes.down).start()

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
        if code == "engine_lost" and request.caller.parts is None:
            ends = self.crashes + self.lanes.leaves
            assert ends >= KILLS_MAX, f"request {request.number} never ran, and was given up"
            return
        if code == "poisoned_request":
            self._check_poisoned(request)
            return
        if request.wish is not None:
            self._check_handled(request, request.wish)
            return
        expected = {PLAIN: "ok", CRASHES: "ok", RAISES: "model_error", IS_NAN: "not_finite_input"}.get(request.mark)
        if request.mark == GIVES_NAN:
            expected = "not_finite_output" if request.as_json else "ok"
        why = request.caller.error.message if request.caller.error else ""
        assert code == expected, f"request {request.number}, marked {request.mark}, was told {code}: {why}"
        if code == "ok":
            self._check_numbers(request)

    def _check_poisoned(self, request: Request) -> None:
        """Only the cause of a crash is refused for it: who is killed from outside while he runs is innocent."""
        assert request.mark == CRASHES or (request.wish is not None and request.wish.mark == "crashes"), (
            f"request {request.number} did nothing wrong"
        )
        crashes = self.poisoned[request.number]
        assert crashes == 2 or (crashes > 2 and self.killed), f"{crashes} crashes"

    def _check_handled(self, request: Request, wish: handling.Wish) -> None:
        """Whole and in order, or a beginning of it and then the reason."""
        caller, revision = request.caller, self._revision_of(request)
        whole, had = handling.answer(wish, revision), b"".join(caller.parts or [])
        if request.told == "ok":
            assert wish.mark != "raises" and caller.body == whole, f"request {request.number} got another's answer"
            self.answers[revision] += 1
            self.seen["stream"] += caller.parts is not None
            return
        assert whole.startswith(had), f"request {request.number} got parts that are not its own"
        self.seen[f"{request.told} in a stream"] += caller.parts is not None
        assert request.told == "engine_lost" or (request.told == "model_error" and wish.mark == "raises"), request.told
        assert request.told != "engine_lost" or self.crashes, f"request {request.number} lost an engine that lived"

    def _revision_of(self, request: Request) -> int:
        """Who answered it. One that had the traffic since it came, and was followed by its front."""
        revision = request.invocation.model.revision
        assert revision in self.lanes.since(request.followed), f"request {request.number} was answered by revision {revision}"
        return revision

    def _check_numbers(self, request: Request) -> None:
        got = self._numbers(request)
        revision = self._revision_of(request)
        self.answers[revision] += 1
        named = NAMED.search(request.caller.start)
        assert named and int(named[1]) == revision, f"{request.caller.start!r} was not revision {revision}"
        want = self.model.answer(request.array, revision)
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
        self.lanes.end()
        for _ in range(400):
            for engine in self.lanes.down:
                engine.start()
            self.bench.settle(2)
            self.catch_up()
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
        gc.collect()  # those of an engine that crashed end with it
        assert not self.open_parts, "a generator whose caller is gone was not closed"
        self._check_counters()

    def _check_counters(self) -> None:
        """Each answer and each refusal stands once in the counters of the version that gave it."""
        counters = [self.bench.page.counters(0, i).count for i in range(COUNTED_VERSIONS_MAX)]
        counted = Counter({i + 1: t[Front.OK] for i, t in enumerate(counters) if t[Front.OK]})
        answers: Counter[int] = Counter()
        for revision, n in self.answers.items():
            answers[min(revision, COUNTED_VERSIONS_MAX)] += n
        assert counted == answers, f"counted {counted}, answered {answers}"
        refused = sum(sum(t[Front.ERRORS : Front.ERRORS + len(FAMILIES)]) for t in counters)
        assert refused == sum(r.told not in ("", "ok") for r in self.requests)
