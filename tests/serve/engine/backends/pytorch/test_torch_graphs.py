"""CUDA graphs, as far as a machine without a card can tell: what is recorded, when it is used, and that answers are right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from model_folder import Folder
from replay_clock import ReplayClock, every_batch_alike

from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.models import replica
from evenkeel.serve.engine.models.warmup import Warmup

torch = pytest.importorskip("torch")

from scripted_driver import ScriptedDriver  # noqa: E402

from evenkeel.serve.engine.backends.gpu.cuda_graphs import Graphs  # noqa: E402
from evenkeel.serve.engine.backends.pytorch import torch_load  # noqa: E402
from evenkeel.serve.engine.backends.pytorch.torch_on_device import PytorchOnDevice  # noqa: E402


class Layer(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2 + 1, x.sum(-1).to(torch.int64)


Made = Callable[..., tuple[PytorchOnDevice, ScriptedDriver]]


@pytest.fixture
def made(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Made:
    def make(
        replay_s: float = 0.5, module: Any = None, shape: tuple[Any, ...] = ("rows", 3), **gpu: Any
    ) -> tuple[PytorchOnDevice, ScriptedDriver]:
        driver = ScriptedDriver()
        timed = partial(Graphs, clock=ReplayClock(driver.did, replay_s))
        monkeypatch.setattr("evenkeel.serve.engine.backends.pytorch.torch_device.Graphs", timed)
        torch.jit.script((module or Layer()).eval()).save(str(folder.path / "model.pt"))
        said = {"inputs": [{"name": "x", "shape": list(shape)}], "gpu": {"graphs": True, **gpu}}
        backend = torch_load.load(folder.manifest(said), LoadOptions(1, "0"), driver)
        assert isinstance(backend, PytorchOnDevice)
        driver.did.clear()
        return backend, driver

    return make


def x(rows: int, first: int = 0) -> Any:
    return np.arange(first, first + 3 * rows, dtype=np.float32).reshape(rows, 3)


def right(outputs: Any, given: Any) -> bool:
    return np.array_equal(outputs[0], given * 2 + 1) and outputs[1].tolist() == given.sum(1).tolist()


def test_a_batch_of_a_recorded_size_is_replayed_and_of_another_runs_as_ever(made: Made) -> None:
    backend, driver = made()
    backend.prepare([x(4)])
    for rows, did in ((4, True), (5, False)):
        driver.did.clear()
        assert right(backend.run([x(rows, 7)]), x(rows, 7))
        assert ("replay" in driver.did) is did and "record" not in driver.did


def test_fewer_rows_than_recorded_get_their_own_answers_and_nothing_of_the_batch_before(made: Made) -> None:
    backend, driver = made()
    backend.prepare([x(4)])
    backend.run([x(4, 50)])
    driver.did.clear()
    outputs = backend.run([x(3, 9)])
    assert "replay" in driver.did and [len(o) for o in outputs] == [3, 3] and right(outputs, x(3, 9))


def test_two_batches_in_flight_by_one_graph_have_their_own_answers(made: Made) -> None:
    backend, driver = made()
    backend.prepare([x(2)])
    driver.did.clear()
    tickets = [backend.launch([x(2, first)]) for first in (10, 20)]
    assert driver.did.count("replay") == 2 and "wait" not in driver.did
    assert all(right(backend.complete(t), x(2, first)) for t, first in zip(tickets, (10, 20), strict=True))


def test_a_graph_that_is_slower_is_not_used(made: Made) -> None:
    backend, driver = made(replay_s=2.0)
    backend.prepare([x(4)])
    driver.did.clear()
    assert right(backend.run([x(4, 7)]), x(4, 7)) and "replay" not in driver.did
    assert backend.describe()["graphs"] == "0 recorded of 1 tried, 1 MB"


def test_a_size_is_recorded_once(made: Made) -> None:
    backend, driver = made()
    backend.prepare([x(4)])
    backend.prepare([x(4, 3)])
    assert driver.did.count("record") == 1


def test_a_program_that_cannot_be_recorded_runs_without_and_says_why(made: Made) -> None:
    backend, driver = made()
    driver.cannot_record = "CUDA error: operation not permitted when stream is capturing"
    backend.prepare([x(4)])
    backend.prepare([x(2)])
    assert driver.did.count("record") == 1, "the next one would fail too"
    assert "no more, because RuntimeError: CUDA error: operation not permitted" in backend.describe()["graphs"]
    assert right(backend.run([x(4)]), x(4))


def test_recordings_keep_within_their_share_of_the_memory(made: Made) -> None:
    backend, driver = made(memory_mb=4)  # a quarter is one MB: one recording of the scripted driver
    for rows in (1, 2, 4):
        backend.prepare([x(rows)])
    assert driver.did.count("record") == 2, "the second shows that it is too much, the third is not tried"
    assert backend.describe()["graphs"] == "1 recorded of 2 tried, 2 MB; no more, because 1 MB is all that they may take"
    driver.did.clear()
    backend.run([x(1)]), backend.run([x(2)])
    assert driver.did.count("replay") == 1


class Counts(torch.nn.Module):  # type: ignore[misc]
    """Another answer each time: what was recorded is not what the program gives."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("n", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.n += 1
        return x + self.n, x.sum(-1).to(torch.int64)


def test_a_recording_that_gives_something_else_is_not_used(made: Made) -> None:
    backend, driver = made(module=Counts())
    backend.prepare([x(1)])
    assert backend.describe()["graphs"].endswith("no more, because a recording gave other values than the program")
    driver.did.clear()
    backend.run([x(1)])
    assert "replay" not in driver.did


class Total(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sum(0), x


def test_without_a_rows_axis_outputs_keep_their_own_sizes(made: Made) -> None:
    backend, driver = made(module=Total(), shape=(2, 3))
    assert not backend.signature.rows_axis
    backend.prepare([x(2)])
    driver.did.clear()
    total, same = backend.run([x(2, 4)])
    assert "replay" in driver.did
    assert np.array_equal(total, x(2, 4).sum(0)) and np.array_equal(same, x(2, 4))


class Product(torch.nn.Module):  # type: ignore[misc]
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a.sum(-1, keepdim=True) * b


def test_inputs_in_another_order_than_the_program_takes_them(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of sizes 4 and 8 is not one of 8 and 4."""
    driver = ScriptedDriver()
    monkeypatch.setattr(
        "evenkeel.serve.engine.backends.pytorch.torch_device.Graphs", partial(Graphs, clock=ReplayClock(driver.did, 0.5))
    )
    torch.jit.script(Product().eval()).save(str(folder.path / "model.pt"))
    said = {"inputs": [{"name": "b", "shape": ["rows", "m"]}, {"name": "a", "shape": ["rows", "n"]}], "gpu": {"graphs": True}}
    backend = torch_load.load(folder.manifest(said), LoadOptions(1, "0"), driver)
    assert isinstance(backend, PytorchOnDevice)
    four, eight = np.ones((2, 4), np.float32), np.full((2, 8), 2, np.float32)
    backend.prepare([eight, four])
    for b, a, replays in ((eight, four, 1), (four, eight, 0)):
        driver.did.clear()
        (found,) = backend.run([b, a])
        assert np.array_equal(found, a.sum(-1, keepdims=True) * b) and driver.did.count("replay") == replays


def test_warm_up_records_every_size_that_it_warms_and_service_none(
    made: Made, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, driver = made()
    monkeypatch.setattr(replica, "loader", lambda kind: lambda manifest, options: backend)
    loaded = replica.load(folder.path, LoadOptions(1, "0"))
    report = Warmup(loaded, clock=every_batch_alike()).run()
    warmed = len({e.rows for e in report.plan})
    assert driver.did.count("record") == warmed > 3 and report.golden.checked == report.golden.passed > 0
    assert loaded.backend.describe()["graphs"].startswith(f"{warmed} recorded of {warmed} tried")
    driver.did.clear()
    for rows in (1, 3, 7, 64):
        assert right(backend.run([x(rows)]), x(rows))
    assert "record" not in driver.did and driver.did.count("replay") == 4
