"""What `make chaos` does to a tree, one case for each fault: how the tree is set up, what is done to it, and which
failed requests the fault explains. Everything that a case does not explain counts as lost.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from benchmarks import procs
from benchmarks.load import Failure, Load
from evenkeel.container.watch.stopped_processes import LOOK_S, STOPPED_S, is_stopped
from tests.support import versioned
from tests.support.tree import Tree, eventually

NOTICED_S = 2.0  # within which a client has learnt that its connection was cut
HELD_S = 1.0  # how long a process is held by SIGSTOP
TIMEOUT_S = 3.0  # of requests, where a hang has to be noticed by it
# A hang is noticed when its batch has run for EVENKEEL_STUCK_S and beyond its last deadline, one second more; a tick of the
# supervisor later it writes its stacks, for half a second. The rest is for a busy machine.
HANG_BOUND_S = max(5.0, TIMEOUT_S + 1.0) + 0.25 + 0.5 + 0.5
STOPPED_BOUND_S = STOPPED_S + 2 * LOOK_S + 0.5
SETTLE_S = (0.05, 0.4)  # between two injections, at random
QUIET_S = 0.5  # from SIGTERM on the container still takes what comes
SOME_TAKE_LONGER = "slow:rate=0.05,ms=20"  # so that faults meet batches that run


@dataclass(slots=True)
class Stage:
    """One tree under load, and what was done to it when."""

    tree: Tree
    load: Load | None
    rng: random.Random
    injected_s: list[float] = field(default_factory=list)  # CLOCK_MONOTONIC
    noticed_s: list[float] = field(default_factory=list)  # how long each hang went unnoticed, or what else has a bound

    def pause(self) -> None:
        time.sleep(self.rng.uniform(*SETTLE_S))

    def hit(self, pid: int, signum: int) -> None:
        self.injected_s.append(time.monotonic())
        os.kill(pid, signum)


Explains = Callable[[Failure, list[float]], bool]


def nothing(failure: Failure, injected_s: list[float]) -> bool:
    """No request may fail."""
    return False


def cut_connections(failure: Failure, injected_s: list[float]) -> bool:
    """A connection that was open to a killed front is lost with it, and nothing else is."""
    return failure.kind == "closed" and any(failure.opened_s <= t <= failure.failed_s <= t + NOTICED_S for t in injected_s)


def told_of_the_hang(failure: Failure, injected_s: list[float]) -> bool:
    """Who waits for the only engine while it hangs is told at the deadline; who comes later, that the wait would be too long."""
    told = failure.kind in ("504 deadline_exceeded", "429 overloaded")
    return told and any(failure.sent_s <= t + HANG_BOUND_S and t <= failure.failed_s for t in injected_s)


def said_no(failure: Failure, injected_s: list[float]) -> bool:
    """Before it is ready the container takes no requests, and says so; told to end, it has no quiet time to wait."""
    return failure.kind == "503 not_ready" or closing_door(failure, injected_s, 0.0)


def after_it_said_so(failure: Failure, injected_s: list[float]) -> bool:
    """Clients that never look at /ping: who asks after the quiet time may meet a closing door, who asked before may not."""
    return closing_door(failure, injected_s, QUIET_S)


def closing_door(failure: Failure, injected_s: list[float], quiet_s: float) -> bool:
    late = any(failure.sent_s > t + quiet_s for t in injected_s)
    return late and failure.kind in ("closed", "no connection", "503 draining", "503 not_ready")


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table. `act` injects until the tree has had enough; `ends` says that the tree ends by it."""

    name: str
    act: Callable[[Stage], None]
    explains: Explains = nothing
    settings: Mapping[str, str] = field(default_factory=dict)
    model: str = "tensors"  # or another of chaos.py's MODELS
    share: float = 1.0  # of the time, relative to the others
    target: int = 0  # injections after which it is enough
    loaded: bool = True  # whether the load begins when the tree is ready, and not with the tree
    ends: bool = False
    least_minutes: float = 0.0  # of the whole run, for those that take long
    bound_s: float | None = None  # for what the stage times
    log_unread: bool = False  # its stdout is a pipe that nobody reads


# ---- who is who ----------------------------------------------------------------------------------------------------------


def engine_pid(tree: Tree, place: int) -> int:
    return int(tree.status()["replicas"][place]["pid"])


def front_pids(tree: Tree) -> list[int]:
    return [int(f["pid"]) for f in tree.status()["fronts"]]


def gunicorn_pid(tree: Tree) -> int:
    worker = procs.read_process(front_pids(tree)[0])
    assert worker is not None, "a front worker runs"
    return worker.parent


def sidecar_pid(tree: Tree) -> int:
    return tree.pid_of("sidecar")


def all_ready(tree: Tree) -> bool:
    status = tree.status()
    return bool(status["ready"]) and all(r["alive"] and r["state"] == "READY" for r in status["replicas"])


def is_back(tree: Tree, place: int, killed: int) -> bool:
    """Another process has that place, and all are ready."""
    return engine_pid(tree, place) not in (0, killed) and all_ready(tree)


def fronts_serve(tree: Tree, besides: int) -> bool:
    pids = front_pids(tree)
    return besides not in pids and all(p and procs.read_process(p) is not None for p in pids) and tree.ping() == 200


# ---- what is done --------------------------------------------------------------------------------------------------------


def kill_engines(times: int) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        for _ in range(times):
            stage.pause()
            place = stage.rng.randrange(len(stage.tree.status()["replicas"]))
            killed = engine_pid(stage.tree, place)
            stage.hit(killed, signal.SIGKILL)
            eventually(lambda p=place, k=killed: is_back(stage.tree, p, k), "the engine is back", 60)  # type: ignore[misc]

    return act


def kill(who: Callable[[Tree], int], times: int, back: Callable[[Tree, int], bool]) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        for _ in range(times):
            stage.pause()
            killed = who(stage.tree)
            stage.hit(killed, signal.SIGKILL)
            eventually(lambda k=killed: back(stage.tree, k), "another took its place", 60)  # type: ignore[misc]

    return act


def hold(who: Callable[[Tree], int], times: int) -> Callable[[Stage], None]:
    """SIGSTOP, and SIGCONT a second later."""

    def act(stage: Stage) -> None:
        for _ in range(times):
            stage.pause()
            held = who(stage.tree)
            stage.hit(held, signal.SIGSTOP)
            time.sleep(HELD_S)
            os.kill(held, signal.SIGCONT)
            eventually(lambda: stage.tree.ping() == 200, "/ping says 200", 30)

    return act


def hold_for_ever(who: Callable[[Tree], int], within_s: float) -> Callable[[Stage], None]:
    """SIGSTOP without an end: somebody must notice, and let it go on."""

    def act(stage: Stage) -> None:
        stage.pause()
        held = who(stage.tree)
        began_s = time.monotonic()
        stage.hit(held, signal.SIGSTOP)
        eventually(lambda: not is_stopped(held), "the held process goes on", within_s + 3)
        stage.noticed_s.append(time.monotonic() - began_s)
        eventually(lambda: all_ready(stage.tree) and stage.tree.ping() == 200, "all is well again", 60)

    return act


def stop_while(state: str) -> Callable[[Stage], None]:
    """SIGTERM while the only replica is in that state."""

    def act(stage: Stage) -> None:
        eventually(lambda: stage.tree.status()["replicas"][0]["state"] == state, state, 60)
        if state == "READY":
            eventually(lambda: stage.tree.ping() == 200, "/ping says 200")
            time.sleep(0.5)
        stage.pause()
        stage.injected_s.append(time.monotonic())
        stage.tree.tell(signal.SIGTERM)

    return act


def stop_and_route_away(stage: Stage) -> None:
    """SIGTERM; the platform hears 503 from /ping and sends nothing new from then on."""
    stop_while("READY")(stage)
    time.sleep(stage.rng.uniform(0.1, QUIET_S * 0.8))
    assert stage.load is not None, "this case runs under load"
    stage.load.tell(quiet=True)


def until_injected(event: str, times: int, within_s: float) -> Callable[[Stage], None]:
    """EVENKEEL_FAULTS injects by itself; wait for it, and for the tree to be well again."""

    def act(stage: Stage) -> None:
        for n in range(1, times + 1):
            eventually(lambda n=n: len(stage.tree.events("fault_injected")) >= n, f"{event} {n} was injected", 120)  # type: ignore[misc]
            if event == "hang":
                eventually(lambda n=n: len(stage.tree.events("restart")) >= n, "the hang was noticed", within_s + 30)  # type: ignore[misc]
        eventually(lambda: stage.tree.status()["ready"], "it serves", 60)
        offset_s = time.monotonic() - time.time()
        for told, name in (("fault_injected", "injected"), ("restart", "ended")):
            times_s = [datetime.fromisoformat(e["time"]).timestamp() + offset_s for e in stage.tree.events(told)]
            if name == "injected":
                stage.injected_s = times_s
            elif event == "hang":
                stage.noticed_s = [b - a for a, b in zip(stage.injected_s, times_s, strict=False)]

    return act


def swap(during: Callable[[Stage], None] | None, times: int) -> Callable[[Stage], None]:
    """The other version is asked for, and something may happen while it loads; then it serves, whatever happened."""

    def act(stage: Stage) -> None:
        for _ in range(times):
            stage.pause()
            wanted = "2" if versioned.versions(stage.tree)["serving"] == "1" else "1"
            stage.injected_s.append(time.monotonic())
            status, said = versioned.ask(stage.tree, wanted)
            assert status == 202, f"the swap was refused: {said}"
            if during is not None:
                during(stage)
            eventually(lambda w=wanted: versioned.settled_on(stage.tree, w), f"version {wanted} serves", 60)  # type: ignore[misc]

    return act


def kill_while_swapping(who: Callable[[Tree], int]) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        time.sleep(stage.rng.uniform(0.0, 1.2))  # a load takes about one second: before, in and after the switch
        pid = who(stage.tree)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                stage.hit(pid, signal.SIGKILL)

    return act


def stop_while_swapping(stage: Stage) -> None:
    stage.pause()
    versioned.ask(stage.tree, "2")
    time.sleep(stage.rng.uniform(0.0, 1.2))
    stage.injected_s.append(time.monotonic())
    stage.tree.tell(signal.SIGTERM)


def serving_engine(tree: Tree) -> int:
    return next((int(r["pid"]) for r in tree.status()["replicas"] if r["serves"] and r["alive"]), 0)


def other_engine(tree: Tree) -> int:
    return next((int(r["pid"]) for r in tree.status()["replicas"] if not r["serves"] and r["alive"]), 0)


def another_sidecar(tree: Tree, killed: int) -> bool:
    with contextlib.suppress(StopIteration):
        return sidecar_pid(tree) != killed and bool(tree.status())
    return False


MANY = {"EVENKEEL_RESTART_LIMIT": "1000"}
SOME_SLOW = {**MANY, "EVENKEEL_FAULTS": SOME_TAKE_LONGER}
TWO = {**SOME_SLOW, "EVENKEEL_REPLICAS": "2"}
TWO_FRONTS = {**SOME_SLOW, "EVENKEEL_FRONTS": "2"}
QUIET = {**SOME_SLOW, "EVENKEEL_QUIET_S": f"{QUIET_S:g}"}
CRASHES = {**MANY, "EVENKEEL_FAULTS": "crash:every=400"}
HANGS = {**MANY, "EVENKEEL_FAULTS": "hang:every=700", "EVENKEEL_REQUEST_TIMEOUT_S": f"{TIMEOUT_S:g}"}
VERSIONS = {**SOME_SLOW, "EVENKEEL_MODEL_VERSION": "1"}
LOADS = {**VERSIONS, "EVENKEEL_ROLLBACK_WINDOW_S": "0"}  # the version before ends at once, so that every swap loads
IN_PLACE = {**VERSIONS, "EVENKEEL_SWAP": "in_place"}
HELD = {**MANY, "EVENKEEL_REQUEST_TIMEOUT_S": f"{TIMEOUT_S:g}", "EVENKEEL_REPLICAS": "2"}


def first_engine(tree: Tree) -> int:
    return engine_pid(tree, 0)


def first_front(tree: Tree) -> int:
    return front_pids(tree)[0]


CASES = (
    Case("kill -9 of the engine, 1 replica", kill_engines(4), settings=SOME_SLOW, share=6, target=60),
    Case("kill -9 of an engine, 2 replicas", kill_engines(8), settings=TWO, share=6, target=80),
    Case("kill -9 of a front worker, 2 workers", kill(first_front, 6, fronts_serve), cut_connections, TWO_FRONTS),
    Case("kill -9 of gunicorn", kill(gunicorn_pid, 5, fronts_serve), cut_connections, SOME_SLOW),
    Case("kill -9 of the sidecar", kill(sidecar_pid, 5, another_sidecar), settings=SOME_SLOW),
    Case("SIGSTOP of the engine for 1 s", hold(first_engine, 5), settings=SOME_SLOW),
    Case("SIGSTOP of a front worker for 1 s", hold(first_front, 5), settings=TWO_FRONTS),
    Case("SIGSTOP of gunicorn for 1 s", hold(gunicorn_pid, 4), settings=SOME_SLOW, share=0.7),
    Case("SIGSTOP of the sidecar for 1 s", hold(sidecar_pid, 4), settings=SOME_SLOW, share=0.7),
    Case("SIGTERM while loading", stop_while("LOADING"), said_no, QUIET, "slow start", loaded=False, ends=True),
    Case("SIGTERM while warming", stop_while("WARMING"), said_no, QUIET, "slow start", loaded=False, ends=True),
    Case("SIGTERM while serving; clients heed /ping", stop_and_route_away, settings=QUIET, share=3, ends=True),
    Case("SIGTERM while serving; clients do not", stop_while("READY"), after_it_said_so, QUIET, share=1.5, ends=True),
    Case("version swap, beside", swap(None, 8), settings=LOADS, model="versions", share=2),
    Case("version swap, 2 replicas and 2 front workers", swap(None, 6), settings={**LOADS, "EVENKEEL_REPLICAS": "2",
         "EVENKEEL_FRONTS": "2"}, model="versions", share=2),
    Case("version swap, to the one that stands by", swap(None, 20), settings=VERSIONS, model="versions"),
    Case("version swap, in place", swap(None, 5), settings=IN_PLACE, model="versions"),
    Case("kill -9 of the old engine in a version swap", swap(kill_while_swapping(serving_engine), 5), settings=LOADS,
         model="versions", share=1.5),
    Case("kill -9 of the new engine in a version swap", swap(kill_while_swapping(other_engine), 5), settings=LOADS,
         model="versions", share=1.5),
    Case("kill -9 of the sidecar in a version swap", swap(kill_while_swapping(sidecar_pid), 5), settings=LOADS, model="versions"),
    Case("SIGTERM in a version swap; clients do not heed /ping", stop_while_swapping, after_it_said_so,
         {**QUIET, **LOADS}, "versions", ends=True),
    Case("crash of the model (EVENKEEL_FAULTS)", until_injected("crash", 6, 0), settings=CRASHES, share=2),
    Case("hang of the model (EVENKEEL_FAULTS)", until_injected("hang", 2, HANG_BOUND_S), told_of_the_hang, HANGS, share=1.5,
         bound_s=HANG_BOUND_S),
    *(Case(f"SIGSTOP of {name}, for ever", hold_for_ever(who, STOPPED_BOUND_S), settings=settings, share=0.5,
           bound_s=STOPPED_BOUND_S)
      for name, who, settings in (("one of 2 engines", first_engine, TWO), ("the engine", first_engine, SOME_SLOW),
                                  ("a front worker", first_front, TWO_FRONTS), ("gunicorn", gunicorn_pid, SOME_SLOW))),
)  # fmt: skip


SLOW_START = """
import time

def model_fn(model_dir):
    time.sleep(1.5)
    return None

def transform_fn(model, body, content_type, accept):
    if len(body) < 4:  # the sample of the warm-up
        time.sleep(1.5)
    return body, content_type
"""
SLOW_START_TOML = """
[[samples]]
input = "sample.json"
"""


def versions_folder(to: Path) -> Path:
    """Two versions of the model that answers with its own numbers."""
    if not to.exists():
        for version in ("1", "2"):
            versioned.tensor_version(to, version)
    return to


def slow_start_folder(to: Path) -> Path:
    """A handler that takes its time to load and to warm, and answers with the body itself."""
    (to / "code").mkdir(parents=True, exist_ok=True)
    (to / "code" / "inference.py").write_text(SLOW_START)
    (to / "model.toml").write_text(SLOW_START_TOML)
    (to / "sample.json").write_text("[]")
    return to
