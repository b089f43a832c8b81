"""CUDA graphs of ONNX models, as far as a machine without a card can tell: by a scripted GPU on which the runtime computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from model_folder import Folder
from replay_clock import ReplayClock, every_batch_alike, replayed

from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.backends.gpu.cuda_graphs import Graphs
from evenkeel.serve.engine.backends.onnx.providers import CPU, CUDA
from evenkeel.serve.engine.models import replica
from evenkeel.serve.engine.models.warmup import Warmup
from tests.support.log_read import logged

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper
from scripted_gpu import ScriptedGpu

from evenkeel.serve.engine.backends.onnx.onnx_backend import OnnxBackend
from evenkeel.serve.engine.backends.onnx.onnx_load import load
from evenkeel.serve.engine.backends.onnx.onnx_on_device import OnnxOnDevice
from tests.serve.engine.backends.onnx.test_onnx_backend import identity, model, tensor
from tests.serve.engine.backends.onnx.test_onnx_device import Wheel, two_outputs
from tests.serve.engine.backends.onnx.test_providers import CARD_BYTES

Array = np.ndarray[Any, Any]
Made = Callable[..., tuple[OnnxOnDevice, ScriptedGpu]]


class Refusing(Wheel):
    """Its sessions do not record: a part of the model is on the CPU."""

    def InferenceSession(self, file: str, settings: Any, providers: Any, enable_fallback: int) -> Any:
        if "enable_cuda_graph" in dict(providers).get(CUDA, {}):
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        return super().InferenceSession(file, settings, providers, enable_fallback)


def backend_of(folder: Folder, content: bytes, wheel: Wheel, gpu: ScriptedGpu, said: dict[str, Any]) -> OnnxBackend:
    folder.put("model.onnx", content)
    return load(folder.manifest({"gpu": {"graphs": True, **said}}), LoadOptions(1, "0"), wheel, lambda: CARD_BYTES, lambda: gpu)


@pytest.fixture
def made(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Made:
    def make(replay_s: float = 0.5, content: bytes = b"", **said: Any) -> tuple[OnnxOnDevice, ScriptedGpu]:
        gpu = ScriptedGpu()
        monkeypatch.setattr(
            "evenkeel.serve.engine.backends.onnx.onnx_on_device.Graphs", partial(Graphs, clock=ReplayClock(gpu.did, replay_s))
        )
        backend = backend_of(folder, content or two_outputs(), Wheel(gpu), gpu, said)
        assert isinstance(backend, OnnxOnDevice)
        gpu.did.clear()
        return backend, gpu

    return make


def x(rows: int, first: int = 0) -> Array:
    return np.arange(first, first + 4 * rows, dtype=np.float32).reshape(rows, 4)


def right(outputs: Any, given: Array) -> bool:
    return np.array_equal(outputs[0], given * 2) and np.array_equal(outputs[1], given.sum(1))


def test_a_batch_of_a_recorded_size_is_replayed_and_of_another_runs_as_ever(made: Made) -> None:
    backend, gpu = made()
    backend.prepare([x(4)])
    assert gpu.did.count("record") == 1
    for rows, replays in ((4, 1), (5, 0)):
        gpu.did.clear()
        assert right(backend.run([x(rows, 7)]), x(rows, 7))
        assert replayed(gpu.did) == replays and "record" not in gpu.did


def test_each_step_of_a_replayed_batch_follows_the_one_before_on_the_device(made: Made) -> None:
    backend, gpu = made()
    backend.prepare([x(2)])
    gpu.did.clear()
    backend.complete(backend.launch([x(2, 3)]))
    assert gpu.did == [
        "wait",  # for the last batch of this slot, long over
        "copy 32 on to", "mark to", "hold compute for to",
        "copy 32 on compute", "replay 1", "copy 32 on compute", "copy 8 on compute",
        "mark compute", "hold back for compute", "copy 32 on back", "copy 8 on back", "mark back", "wait",
    ]  # fmt: skip


def test_fewer_rows_than_recorded_get_their_own_answers_and_nothing_of_the_batch_before(made: Made) -> None:
    backend, gpu = made()
    backend.prepare([x(4)])
    backend.run([x(4, 50)])
    gpu.did.clear()
    outputs = backend.run([x(3, 9)])
    assert replayed(gpu.did) == 1 and [len(o) for o in outputs] == [3, 3] and right(outputs, x(3, 9))


@pytest.mark.parametrize("hasty", [False, True])
def test_two_batches_in_flight_by_one_graph_have_their_own_answers(made: Made, hasty: bool) -> None:
    backend, gpu = made()
    backend.prepare([x(2)])
    gpu.hasty = hasty
    gpu.did.clear()
    tickets = [backend.launch([x(2, first)]) for first in (10, 20)]
    assert replayed(gpu.did) == 2 and gpu.did.count("wait") == 2, "each for the last batch of its slot, long over"
    assert all(right(backend.complete(t), x(2, first)) for t, first in zip(tickets, (10, 20), strict=True))


def test_a_graph_waits_for_the_copies_back_of_a_batch_that_ran_without_one(made: Made) -> None:
    """Its own memory may be where the outputs of that batch are."""
    backend, gpu = made()
    backend.prepare([x(2)])
    one = backend.launch([x(3, 30)])
    two = backend.launch([x(2, 10)])
    assert "hold compute for back" in gpu.did
    assert right(backend.complete(one), x(3, 30)) and right(backend.complete(two), x(2, 10))


@pytest.mark.parametrize("hasty", [False, True])
def test_all_orders_of_batches_with_and_without_a_graph_give_right_answers(made: Made, hasty: bool) -> None:
    backend, gpu = made()
    gpu.hasty = hasty
    for rows in (1, 2, 4):
        backend.prepare([x(rows)])
    random = np.random.default_rng(5)
    flying: list[tuple[Any, Array]] = []
    for _ in range(200):
        given = x(int(random.integers(1, 7)), int(random.integers(0, 1000)))
        flying.append((backend.launch([given]), given))
        if len(flying) == 2:
            ticket, first = flying.pop(0)
            assert right(backend.complete(ticket), first)
    assert replayed(gpu.did) > 50 and gpu.did.count("run") > 50


def test_a_graph_that_is_slower_is_not_used(made: Made) -> None:
    backend, gpu = made(replay_s=2.0)
    backend.prepare([x(4)])
    gpu.did.clear()
    assert right(backend.run([x(4, 7)]), x(4, 7)) and replayed(gpu.did) == 0
    assert backend.describe()["graphs"] == "0 recorded of 1 tried, 1 MB"


def test_recordings_keep_within_their_share_of_the_memory(made: Made) -> None:
    backend, gpu = made(memory_mb=6)  # a quarter is 1.5 MB: one recording of the scripted GPU
    for rows in (1, 2, 4):
        backend.prepare([x(rows)])
    assert gpu.did.count("record") == 2, "the second shows that it is too much, the third is not tried"
    assert backend.describe()["graphs"].startswith("1 recorded of 2 tried, 2 MB; no more, because 1 MB is all")


def test_a_run_that_cannot_be_recorded_leaves_the_model_as_it_was_and_says_why(made: Made) -> None:
    backend, gpu = made()
    gpu.refuses["record"] = "CUDA failure 900: operation not permitted when stream is capturing"
    backend.prepare([x(4)])
    gpu.refuses.clear()
    backend.prepare([x(2)])
    assert gpu.did.count("record") == 1, "the next one would fail too"
    assert "no more, because RuntimeError: CUDA failure 900" in backend.describe()["graphs"]
    assert right(backend.run([x(4)]), x(4)) and replayed(gpu.did) == 0


def test_a_model_that_lies_partly_on_the_cpu_is_served_without_graphs(folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    gpu = ScriptedGpu()
    backend = backend_of(folder, two_outputs(), Refusing(gpu), gpu, {})
    assert isinstance(backend, OnnxOnDevice) and backend.describe()["graphs"] == "off"
    assert "graphs_off" in logged(capfd)
    backend.prepare([x(2)])
    assert right(backend.run([x(2)]), x(2)) and "record" not in gpu.did


def test_without_a_card_nothing_is_recorded_and_nothing_said(folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    gpu = ScriptedGpu()
    folder.put("model.onnx", two_outputs())
    wheel = Wheel(gpu, starts=[CPU])
    backend = load(folder.manifest({"gpu": {"graphs": True}}), LoadOptions(1, ""), wheel, lambda: CARD_BYTES, lambda: gpu)
    assert not hasattr(backend, "prepare") and "graphs" not in backend.describe()
    assert "graphs_off" not in logged(capfd)


def test_outputs_without_rows_are_not_recorded(made: Made) -> None:
    content = model(
        [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("ReduceSum", ["x"], ["all"], keepdims=0)],
        [tensor("x", ["N", 4])], [tensor("y", ["N", 4]), tensor("all", [])],
    )  # fmt: skip
    backend, gpu = made(content=content)
    if not backend.signature.rows_axis:  # then sizes are fixed, and the batch is one
        backend.prepare([x(2)])
        gpu.did.clear()
        y, total = backend.run([x(2, 4)])
        assert replayed(gpu.did) == 1 and np.array_equal(y, x(2, 4) * 2) and total == x(2, 4).sum()
        return
    backend.prepare([x(2)])
    assert "an output has no rows" in backend.describe()["graphs"]


@pytest.mark.parametrize("dtype", ["float16", "int64", "bool", "uint8"])
def test_each_type_is_recorded(made: Made, dtype: str) -> None:
    backend, gpu = made(content=identity(["N", 3], ["N", 3], dtype))
    given = np.array([[0, 1, 2], [3, 0, 100]]).astype(dtype)
    backend.prepare([np.zeros_like(given)])
    gpu.did.clear()
    y = backend.run([given])[0]
    assert replayed(gpu.did) == 1 and y.dtype == given.dtype and np.array_equal(y, given)


def test_bfloat16_is_recorded_as_its_bits(made: Made) -> None:
    backend, gpu = made(content=identity(["N", 3], ["N", 3], "bfloat16"))
    bits = np.array([[0x3F80, 0x4000, 0xBF80]], np.uint16)
    backend.prepare([bits * 0])
    gpu.did.clear()
    assert np.array_equal(backend.run([bits])[0], bits) and replayed(gpu.did) == 1


def test_warm_up_records_every_size_that_it_warms_and_service_none(
    made: Made, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, gpu = made()
    monkeypatch.setattr(replica, "loader", lambda kind: lambda manifest, options: backend)
    loaded = replica.load(folder.path, LoadOptions(1, "0"))
    report = Warmup(loaded, clock=every_batch_alike()).run()
    warmed = len({e.rows for e in report.plan})
    assert gpu.did.count("record") == warmed > 3 and report.golden.checked == report.golden.passed > 0
    gpu.did.clear()
    for rows in (1, 3, 7, 64):
        assert right(backend.run([x(rows)]), x(rows))
    assert "record" not in gpu.did and replayed(gpu.did) == 4
