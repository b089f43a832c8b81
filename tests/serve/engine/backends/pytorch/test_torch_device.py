"""PyTorch on a GPU, as far as a machine without one can tell, by a scripted driver.

CudaDriver itself needs a card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from model_folder import Folder

from evenkeel.serve.contract.manifest import Gpu
from evenkeel.serve.engine import failures
from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.models.startup import Ledger
from evenkeel.serve.errors import BadModel, ModelFailed, OutOfMemory
from tests.support.log_read import logged

torch = pytest.importorskip("torch")

from scripted_driver import T4, ScriptedDriver  # noqa: E402

from evenkeel.serve.engine.backends.pytorch.torch_backend import PytorchBackend  # noqa: E402
from evenkeel.serve.engine.backends.pytorch.torch_device import CudaDriver, Driver, TorchTransfers, chosen  # noqa: E402
from evenkeel.serve.engine.backends.pytorch.torch_load import load  # noqa: E402
from evenkeel.serve.engine.backends.pytorch.torch_on_device import PytorchOnDevice  # noqa: E402


class Layer(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)
        torch.nn.init.constant_(self.linear.weight, 1 / 3)
        torch.nn.init.constant_(self.linear.bias, 0.0)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.linear(x), x.sum(-1).to(torch.int64)


SAID = {"inputs": [{"name": "x", "shape": ["rows", 4]}]}
X = np.arange(8, dtype=np.float32).reshape(2, 4)


def loaded(folder: Folder, driver: Driver, kind: str, gpu: Mapping[str, Any] | None = None, **more: Any) -> PytorchBackend:
    if kind == "pt2":
        rows = {"x": {0: torch.export.Dim("n", min=1, max=more.pop("rows_max", 64))}}
        exported = torch.export.export(Layer().eval(), (torch.zeros(3, 4),), dynamic_shapes=rows)
        torch.export.save(exported, folder.path / "model.pt2")
    else:
        torch.jit.script(Layer().eval()).save(str(folder.path / "model.pt"))
    return load(folder.manifest({**SAID, **({"gpu": gpu} if gpu else {})}), LoadOptions(1, "0", **more), driver)


@pytest.mark.parametrize("kind", ["pt2", "pt"])
def test_a_program_runs_on_its_device_and_its_answers_are_waited_for(folder: Folder, kind: str) -> None:
    driver, ledger = ScriptedDriver(), Ledger()
    backend = loaded(folder, driver, kind, ledger=ledger)
    driver.did.clear()
    scores, sums = backend.run([X])
    assert driver.did == ["stage float32", "put", "get", "get", "mark", "wait"], "one wait for all outputs"
    assert np.allclose(scores, X.sum(1, keepdims=True) / 3) and sums.tolist() == [6, 22]
    told = backend.describe()
    assert (told["provider"], told["device"], told["gpu"], told["gpu_dtype"]) == ("cuda", "gpu 0", "Scripted", "as the model")
    assert ledger.to_json()["device_copy_s"] is not None
    assert driver.tf32 is False, "full precision unless asked"


@pytest.mark.parametrize("kind", ["pt2", "pt"])
def test_a_16_bit_dtype_is_for_the_arithmetic_and_the_signature_stays(folder: Folder, kind: str) -> None:
    exact = X.sum(1, keepdims=True) / 3
    backend = loaded(folder, ScriptedDriver(), kind, {"dtype": "bf16"})
    scores, sums = backend.run([X])
    assert backend.signature.outputs[0].dtype == "float32" and scores.dtype == np.float32
    assert np.allclose(scores, exact, rtol=1e-2) and not np.allclose(scores, exact, rtol=1e-5), "rounded, as asked"
    assert sums.tolist() == [6, 22]
    assert backend.describe()["gpu_dtype"] == "bf16"


def test_what_it_takes_of_the_card_is_told_as_it_is_known_now(folder: Folder) -> None:
    driver = ScriptedDriver()
    backend = loaded(folder, driver, "pt2")
    driver.did.clear()
    for peak_mb in ("1", "2"):
        told = backend.describe()
        assert (told["gpu_used_mb"], told["gpu_peak_mb"]) == ("1", peak_mb)
        backend.run([X])


def test_what_a_batch_takes_is_learned_of_each_size_and_the_largest_peak_is_kept(folder: Folder) -> None:
    driver = ScriptedDriver()
    backend = loaded(folder, driver, "pt2", rows_max=3)
    assert isinstance(backend, PytorchOnDevice)
    driver.did.clear()
    backend.run([X]), backend.run([X])
    for rows in (1, 2, 1, 7):  # the last one is beyond the bound of the export
        backend.prepare([np.tile(X[:1], (rows, 1))])
    told = backend.describe()
    assert told["gpu_batch_mb"] == "1: 1, 2: 1" and told["gpu_peak_mb"] == "3", "2 batches before anything was forgotten"


def test_a_batch_put_together_in_the_places_that_were_lent_is_not_copied_on_the_host(folder: Folder) -> None:
    driver = ScriptedDriver()
    backend = loaded(folder, driver, "pt2")
    assert isinstance(backend, PytorchOnDevice)
    driver.did.clear()
    (place,) = backend.lend([(2, 4)])
    place[:] = X
    ticket = backend.launch([place])
    assert driver.did.count("stage float32") == 1, "when it was lent"
    assert backend.complete(ticket)[1].tolist() == [6, 22]
    (never,) = backend.lend([(3, 4)])
    never[:] = 0
    assert backend.run([X])[1].tolist() == [6, 22], "what is not lent is copied"
    driver.did.clear()
    assert backend.run([never])[1].tolist() == [0, 0, 0] and "stage float32" in driver.did, "after a launch nothing is lent"


def test_places_of_bfloat16_take_its_bits() -> None:
    device = TorchTransfers(torch, Gpu(), ScriptedDriver())
    (place,) = device.lend([((2,), torch.bfloat16)])
    place[:] = [0x3F80, 0x4000]
    assert device.put(place, torch.bfloat16).tolist() == [1.0, 2.0]


def test_answers_of_one_batch_are_not_changed_by_the_next(folder: Folder) -> None:
    backend = loaded(folder, ScriptedDriver(), "pt2", rows_max=3)
    first = backend.run([X])[0]
    kept = first.copy()
    assert backend.run([np.tile(X * 2, (3, 1))])[0].shape == (6, 2), "beyond the bound of the export, in parts"
    assert np.array_equal(first, kept)


def test_a_batch_is_begun_while_another_is_on_its_way_and_each_has_its_own_answers(folder: Folder) -> None:
    driver = ScriptedDriver()
    backend = loaded(folder, driver, "pt2", rows_max=3)
    assert isinstance(backend, PytorchOnDevice)
    driver.did.clear()
    staged = X.copy()
    one = backend.launch([staged])
    staged[:] = -1  # the slot may be anything by then: what is needed of it has been copied
    two = backend.launch([np.tile(X * 2, (2, 1))])
    assert "wait" not in driver.did, "nothing is waited for at a launch"
    assert backend.complete(one)[1].tolist() == [6, 22]
    assert backend.complete(two)[1].tolist() == [12, 44, 12, 44], "beyond the bound of the export, in parts"


def test_what_fails_on_the_device_is_told_when_the_batch_is_waited_for(folder: Folder) -> None:
    driver = ScriptedDriver()
    backend = loaded(folder, driver, "pt2")
    assert isinstance(backend, PytorchOnDevice)
    driver.fails = "CUDA error: out of memory"
    ticket = backend.launch([X])
    with pytest.raises(ModelFailed, match="out of memory") as e:
        backend.complete(ticket)
    assert isinstance(failures.translated(e.value), OutOfMemory)


def test_on_a_cpu_there_is_nothing_to_launch(folder: Folder) -> None:
    assert not hasattr(loaded(folder, ScriptedDriver(why="old"), "pt2"), "launch")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")
@pytest.mark.parametrize("kind", ["pt2", "pt"])
def test_a_real_device_computes_two_batches_in_flight(folder: Folder, kind: str) -> None:
    backend = loaded(folder, CudaDriver(torch), kind)
    assert isinstance(backend, PytorchOnDevice)
    one, two = backend.launch([X]), backend.launch([X * 2])
    assert backend.complete(one)[1].tolist() == [6, 22] and backend.complete(two)[1].tolist() == [12, 44]


def test_an_input_that_must_not_be_written_to_is_staged_and_bfloat16_travels_as_bits() -> None:
    driver = ScriptedDriver()
    device = TorchTransfers(torch, Gpu(), driver)
    x = np.arange(3, dtype=np.float32)
    x.flags.writeable = False
    assert device.put(x, torch.float32).tolist() == [0, 1, 2]
    assert device.put(np.array([0x3F80, 0x4000], np.uint16), torch.bfloat16).tolist() == [1.0, 2.0]
    assert device.put(np.array(True), torch.bool).item() is True
    with pytest.raises(TypeError):
        device.put(np.zeros(2), torch.float32)


def test_what_fails_on_the_device_is_an_error_of_the_batch(folder: Folder) -> None:
    driver = ScriptedDriver()
    backend = loaded(folder, driver, "pt")
    driver.fails = "CUDA error: device-side assert triggered"
    with pytest.raises(ModelFailed, match="device-side assert"):
        backend.run([X])


@pytest.mark.parametrize(
    ("memory_mb", "sharers", "share"), [(None, 1, 0.9), (None, 3, 0.3), (2048, 1, 0.25), (2048, 3, 0.25), (1 << 20, 1, 1.0)]
)
def test_a_replica_never_takes_the_whole_card_or_that_of_its_neighbours_unless_told_so(
    folder: Folder, memory_mb: int | None, sharers: int, share: float
) -> None:
    driver = ScriptedDriver()
    backend = loaded(folder, driver, "pt", {"memory_mb": memory_mb} if memory_mb else None, sharers=sharers)
    assert driver.share == pytest.approx(share) and backend.describe()["gpu_memory_mb"] == str(int(8192 * share))


def test_tf32_is_used_when_asked_for(folder: Folder) -> None:
    driver = ScriptedDriver()
    loaded(folder, driver, "pt", {"dtype": "tf32"})
    assert driver.tf32 is True


@pytest.mark.parametrize("dtype", ["bf16", "tf32"])
def test_a_card_that_cannot_compute_so_is_refused_by_name(dtype: str) -> None:
    with pytest.raises(BadModel, match=f"gpu.dtype = '{dtype}', which Scripted cannot compute: take fp16"):
        chosen(torch, Gpu(dtype), LoadOptions(1, "0"), ScriptedDriver(capability=T4))
    assert chosen(torch, Gpu("fp16"), LoadOptions(1, "0"), ScriptedDriver(capability=T4)) is not None


def test_a_device_that_cannot_be_used_is_a_failed_start_where_one_is_required(folder: Folder) -> None:
    with pytest.raises(BadModel, match=r"^GPU 0 cannot be used as asked: the driver is old; or set EVENKEEL_REQUIRE_GPU=0"):
        loaded(folder, ScriptedDriver(why="the driver is old"), "pt", require_gpu=True)


def test_else_it_is_told_and_the_cpu_serves_in_its_own_precision(folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    driver = ScriptedDriver(why="the driver is old")
    backend = loaded(folder, driver, "pt", {"dtype": "bf16"})
    lines = [json.loads(line) for line in logged(capfd).splitlines()]
    assert [line["message"] for line in lines if line["event"] == "gpu_unused"] == [
        "GPU 0 is not used as asked: the driver is old"
    ]
    assert np.allclose(backend.run([X])[0], X.sum(1, keepdims=True) / 3, rtol=1e-6) and driver.did == []
    assert (backend.describe()["provider"], backend.describe()["device"]) == ("cpu", "cpu")


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built with CUDA")
def test_a_torch_without_cuda_says_so() -> None:
    assert "is built without CUDA: use the GPU image" in CudaDriver(torch).why_not()
    assert chosen(torch, Gpu(), LoadOptions(1)) is None, "without a device nobody asks"


def test_an_output_that_a_program_makes_on_the_cpu_is_where_it_has_to_be() -> None:
    made = torch.ones(2)
    assert CudaDriver(torch).to_host(made) is made
