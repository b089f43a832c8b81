"""The cases of `make chaos` in which a client, a neighbour or the log's reader is the fault, and not a process that ends.

The load is of honest clients, and none of their requests may be lost. Those at fault are played here, and must be told
what the docs say: what is told otherwise breaks the round.
"""

from __future__ import annotations

import io
import json
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.chaos_cases import SOME_TAKE_LONGER, Case, Stage, all_ready, engine_pid, is_back
from benchmarks.load import COLUMNS
from tests.support.tree import Tree, eventually
from tests.support.wire import Response

MIB = 1 << 20
PING_S_MAX = 1.0  # for a new connection, whatever else is new
BURST = 300  # connections at once
REFUSED_S_MAX = 2.0  # who is refused is told at once, on a busy machine
APART_S = 3.0  # between two kills: as long as the engine is up it answers
VERY_MANY = (100_000, 800_000)  # rows of one request
RETRIES = 30  # of one poisonous request
RAISES = 30  # each leaves a line of some 4 KB, and a pipe holds 64 KiB
NPY, NPZ, JSON = "application/x-npy", "application/x-npz", "application/json"


# ---- what is sent ----------------------------------------------------------------------------------------------------


def npy(rows: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, rows)
    return out.getvalue()


def deflate_bomb(said: tuple[int, int], mib: int) -> bytes:
    """An archive of a thousandth of what it unpacks to. Its array says that it has the shape `said`."""
    head, out = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": said})
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w", force_zip64=True) as member:
        member.write(head.getvalue())
        for _ in range(mib):
            member.write(bytes(MIB))
    return out.getvalue()


def sparse_npz(rows: int, columns: int) -> bytes:
    """One number in a matrix of that size, as scipy.sparse.save_npz writes it."""
    out, zero, one = io.BytesIO(), np.zeros(1, np.int32), np.ones(1, np.float32)
    np.savez_compressed(out, row=zero, col=zero, format=np.array(b"coo"), shape=np.array([rows, columns]), data=one)
    return out.getvalue()


def sparse_json(records: int, columns: int) -> bytes:
    one = {"keys": [0], "shape": [columns], "values": [1]}
    return json.dumps({"instances": [one] * records}).encode()


BOMBS: tuple[tuple[str, bytes, str], ...] = (
    ("NPZ that says 640 bytes and unpacks to 512 MiB", deflate_bomb((2, 80), 512), NPZ),
    ("NPZ of 64 MiB of zeros", deflate_bomb((1, 16 * MIB), 64), NPZ),
    ("NPZ of 512 MiB of zeros", deflate_bomb((1, 128 * MIB), 512), NPZ),
    ("sparse NPZ of 64 MB", sparse_npz(1_000, 16_000), NPZ),
    ("sparse NPZ of 240 MB", sparse_npz(1_000, 60_000), NPZ),
    ("sparse NPZ of 4 TB", sparse_npz(1_000_000, 1_000_000), NPZ),
    ("sparse JSON of 64 MB", sparse_json(100, 160_000), JSON),
    ("sparse JSON of 4 GB", sparse_json(1_000, 1_000_000), JSON),
)


# ---- what is done ----------------------------------------------------------------------------------------------------


def ask(stage: Stage, body: bytes, mime: str = JSON, accept: str | None = None) -> tuple[Response, float]:
    """One request on a connection of its own, and how long it took."""
    began_s = time.monotonic()
    stage.injected_s.append(began_s)
    with stage.tree.wire(90.0) as wire:
        return wire.post(body, mime, accept), time.monotonic() - began_s


def ping_a_newcomer_waits_for(stage: Stage) -> None:
    began_s = time.monotonic()
    assert stage.tree.ping() == 200, "a new connection is told by /ping that all is well"
    stage.noticed_s.append(time.monotonic() - began_s)


def kill_the_engine(stage: Stage) -> None:
    killed = engine_pid(stage.tree, 0)
    stage.hit(killed, signal.SIGKILL)
    eventually(lambda: is_back(stage.tree, 0, killed), "the engine is back", 60)


def raise_and_kill(times: int) -> Callable[[Stage], None]:
    """More log lines than the pipe holds, from the handler and about its end, and nobody reads them."""

    def act(stage: Stage) -> None:
        for _ in range(times):
            for n in range(RAISES):
                answer, _ = ask(stage, json.dumps(f"raise {n} {'z' * 900}").encode())
                assert answer.status == 500 and answer.code == "model_error", answer.raw[:200]
            stage.pause()
            kill_the_engine(stage)
            ping_a_newcomer_waits_for(stage)
        assert lines_lost(stage.tree) > 0, "the pipe was full"

    return act


def lines_lost(tree: Tree) -> float:
    with tree.wire() as wire:
        lines = wire.get("/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("evenkeel_log_lines_lost_total"))


def connect_by_the_hundred(times: int) -> Callable[[Stage], None]:
    """Each newcomer asks once, with a payload of its own, and is counted with the others."""

    def act(stage: Stage) -> None:
        assert stage.load is not None, "this case runs under load"
        for _ in range(times):
            stage.pause()
            stage.injected_s.append(time.monotonic())
            stage.load.tell(burst=BURST)
            for _ in range(5):
                ping_a_newcomer_waits_for(stage)
                stage.pause()

    return act


def poison_and_retry(times: int) -> Callable[[Stage], None]:
    """A request that ends its engine, and a client that sends the same bytes again and again."""

    def act(stage: Stage) -> None:
        for _ in range(times):
            stage.pause()
            ends = stage.tree.status()["restarts"]["engine"]
            body = json.dumps(f"abort {stage.rng.random()}").encode()
            for n in range(1 + RETRIES):
                answer, took_s = ask(stage, body)
                assert answer.status == 500 and answer.code == "poisoned_request", f"sending {n + 1}: {answer.raw[:200]!r}"
                assert n == 0 or took_s < REFUSED_S_MAX, f"sending {n + 1} was refused after {took_s:.1f} s"
            eventually(lambda: all_ready(stage.tree), "the engine is back", 60)
            ends = stage.tree.status()["restarts"]["engine"] - ends
            assert ends <= 2, f"{ends} engines ended by the same bytes"

    return act


def send_very_many_rows(times: int, learnt_s: float = 0.0) -> Callable[[Stage], None]:
    """Answered exactly, or told at once that it cannot be. `learnt_s`: until it is known what a row costs."""

    def act(stage: Stage) -> None:
        time.sleep(learnt_s)
        for _ in range(times):
            stage.pause()
            count = stage.rng.randrange(*VERY_MANY)
            rows = np.arange(count * COLUMNS, dtype=np.float32).reshape(count, COLUMNS)
            answer, took_s = ask(stage, npy(rows), NPY, NPY)
            if answer.status == 200:
                assert np.array_equal(np.load(io.BytesIO(answer.body)), rows), f"{count} rows were answered wrongly"
                continue
            assert answer.status in (413, 429), f"{count} rows: {answer.raw[:200]!r}"
            stage.noticed_s.append(took_s)

    return act


def send_bombs(times: int) -> Callable[[Stage], None]:
    """Refused or, where what it becomes is allowed, answered. A newcomer's /ping waits for neither."""

    def act(stage: Stage) -> None:
        for _ in range(times):
            for name, body, mime in stage.rng.sample(BOMBS, len(BOMBS)):
                stage.pause()
                answer, took_s = ask(stage, body, mime, NPY)
                assert answer.status in (200, 400, 413, 429), f"{name}: {answer.raw[:200]!r}"
                assert answer.status == 200 or took_s < REFUSED_S_MAX, f"{name}: refused after {took_s:.1f} s"
                ping_a_newcomer_waits_for(stage)

    return act


def kill_after_progress(times: int) -> Callable[[Stage], None]:
    """However often it is: an engine that answered something is worth another start."""

    def act(stage: Stage) -> None:
        for _ in range(times):
            answered = stage.tree.status()["replicas"][0]["rows"]
            eventually(lambda a=answered: stage.tree.status()["replicas"][0]["rows"] > a, "it answers", 60)  # type: ignore[misc]
            time.sleep(APART_S + stage.rng.uniform(0.0, 0.5))
            kill_the_engine(stage)
        assert not stage.tree.events("giving_up"), "the container goes on"

    return act


SLOW_ALWAYS = "slow:rate=1,ms=30"
LEARNT_S = 15.0  # warm-up is spared this slowness, and the engine unlearns what it saw there by some 300 batches
DEFAULTS = {"EVENKEEL_FAULTS": SOME_TAKE_LONGER}  # the restart limit above all

HOSTILE = (
    Case("log that nobody reads; handlers raise, kill -9 of the engine", raise_and_kill(4), settings=DEFAULTS, model="handler",
         log_unread=True, bound_s=PING_S_MAX),
    Case(f"{BURST} new connections at once", connect_by_the_hundred(10), settings=DEFAULTS, bound_s=PING_S_MAX),
    Case("poisonous request, sent again and again", poison_and_retry(4), settings=DEFAULTS, model="handler"),
    Case("request of very many rows", send_very_many_rows(6), settings=DEFAULTS, bound_s=REFUSED_S_MAX),
    Case("request of very many rows, slow model", send_very_many_rows(20, LEARNT_S), settings={"EVENKEEL_FAULTS": SLOW_ALWAYS},
         bound_s=REFUSED_S_MAX),
    Case("bodies that become far more than they weigh", send_bombs(1), settings=DEFAULTS, model="free tensors",
         bound_s=PING_S_MAX),
    Case("kill -9 of the engine every 3 s, default limit", kill_after_progress(20), settings=DEFAULTS, share=6, target=100),
)  # fmt: skip


# ---- the models ------------------------------------------------------------------------------------------------------

HANDLER = """
import os

PREDICT_TAKES_BATCH = True

def model_fn(model_dir):
    return None

def input_fn(body, content_type):
    return body.encode() if isinstance(body, str) else bytes(body)

def predict_fn(items, model):
    for item in items:
        if item.startswith(b'"abort'):
            os.abort()
        if item.startswith(b'"raise'):
            raise ValueError(item.decode())
    return items

def output_fn(prediction, accept):
    return prediction, "application/json"
"""
FREE_TOML = """name = "chaos"
backend = "echo"

[[inputs]]
name = "x"
dtype = "float32"
shape = ["rows", "columns"]
"""


def handler_folder(to: Path) -> Path:
    """A handler that answers with the body itself, unless the body asks it to raise or to end its process."""
    (to / "code").mkdir(parents=True, exist_ok=True)
    (to / "code" / "inference.py").write_text(HANDLER)
    return to


def free_tensors_folder(to: Path) -> Path:
    """A model that answers every request with its own numbers, of any width."""
    to.mkdir(parents=True, exist_ok=True)
    (to / "model.toml").write_text(FREE_TOML)
    return to
