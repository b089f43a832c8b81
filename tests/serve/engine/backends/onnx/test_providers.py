"""ONNX Runtime on a GPU, as far as a machine without one can tell: what is asked of it, and what is made of its answers.

The runtime here is scripted: it says which providers it has and which of them start, and the CPU does the work.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_folder import Folder

from evenkeel.serve.contract.manifest import Gpu
from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.backends.gpu import device_memory
from evenkeel.serve.engine.backends.onnx.providers import CPU, CUDA, TENSORRT, on_stream, wanted, why_not
from evenkeel.serve.errors import BadModel
from tests.support.log_read import logged

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from evenkeel.serve.engine.backends.onnx.onnx_backend import OnnxBackend  # noqa: E402
from evenkeel.serve.engine.backends.onnx.onnx_load import load  # noqa: E402
from tests.serve.engine.backends.onnx.test_onnx_backend import identity  # noqa: E402

CARD_BYTES = 8 << 30
WHEEL = [TENSORRT, CUDA, CPU]  # what onnxruntime-gpu has, whether its libraries are there or not


class ScriptedRuntime:
    """`starts`: providers whose libraries and driver are there. `refuses`: those that raise instead of being left out."""

    def __init__(self, has: Sequence[str] = WHEEL, starts: Sequence[str] = WHEEL, refuses: Sequence[str] = ()) -> None:
        self._has, self._starts, self._refuses = has, starts, refuses
        self.asked: list[list[str]] = []
        self.options: Mapping[str, Mapping[str, str]] = {}
        self.preloaded = 0

    def get_available_providers(self) -> list[str]:
        return list(self._has)

    def preload_dlls(self, directory: str) -> None:
        self.preloaded += 1

    def InferenceSession(self, file: str, settings: Any, providers: Sequence[Any], enable_fallback: int) -> Any:
        names = [name for name, _ in providers]
        self.asked.append(names)
        self.options = dict(providers)
        assert not enable_fallback, "the runtime's own fallback is silent"
        if names[0] in self._refuses:
            raise RuntimeError(f"{names[0]} does not know an operator")
        return ScriptedSession(ort.InferenceSession(file, settings, providers=[CPU]), [n for n in names if n in self._starts])


class ScriptedSession:
    def __init__(self, real: Any, in_force: list[str]) -> None:
        self._real, self._in_force = real, in_force

    def get_providers(self) -> list[str]:
        return self._in_force

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def loaded(folder: Folder, runtime: ScriptedRuntime, gpu: Mapping[str, Any] | None = None, **options: Any) -> OnnxBackend:
    folder.put("model.onnx", identity(["N", 4], ["N", 4]))
    manifest = folder.manifest({"gpu": gpu} if gpu else {})
    return load(manifest, LoadOptions(1, **options), runtime, lambda: CARD_BYTES, without_streams)


def without_streams() -> Any:
    raise OSError("no libcudart")


def events(capfd: pytest.CaptureFixture[str]) -> dict[str, str]:

    lines = [json.loads(line) for line in logged(capfd).splitlines()]
    return {line["event"]: line["message"] for line in lines}


@pytest.fixture
def cached(folder: Folder, tmp_path: Path) -> Callable[..., Mapping[str, str]]:
    """What TensorRT is asked for, of a model that adds nothing or something to its input, by a replica with this cache."""

    def ask(cache: str = "cache-0", tensorrt: bool = True, shape: int = 4) -> Mapping[str, str]:
        runtime = ScriptedRuntime()
        folder.put("model.onnx", identity(["N", shape], ["N", shape]))
        manifest = folder.manifest({"gpu": {"tensorrt": tensorrt}})
        options = LoadOptions(1, device="0", cache=tmp_path / cache)
        load(manifest, options, runtime, lambda: CARD_BYTES, without_streams)
        return runtime.options.get(TENSORRT, {})

    return ask


def test_what_tensorrt_builds_is_kept_for_the_next_start_of_the_same_replica_with_the_same_files(
    cached: Callable[..., Mapping[str, str]], tmp_path: Path
) -> None:
    asked = cached()
    folder = asked["trt_engine_cache_path"]
    assert asked["trt_engine_cache_enable"] == asked["trt_timing_cache_enable"] == "1"
    assert asked["trt_timing_cache_path"] == folder and Path(folder).parent == tmp_path / "cache-0" and Path(folder).is_dir()
    assert cached() == asked, "also when the folder is there already"
    assert cached(cache="cache-1")["trt_engine_cache_path"] != folder, "nobody else writes there at the same time"
    assert cached(shape=5)["trt_engine_cache_path"] != folder, "an engine of other weights must not be found"


def test_without_tensorrt_nothing_is_kept(cached: Callable[..., Mapping[str, str]], tmp_path: Path) -> None:
    assert cached(tensorrt=False) == {} and list(tmp_path.glob("cache*")) == []


def test_a_cache_that_cannot_be_made_is_told_and_the_model_is_served(
    cached: Callable[..., Mapping[str, str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache-0").write_text("not a folder")
    assert "trt_engine_cache_path" not in cached()
    assert "no_engine_cache" in logged(capfd)


def test_with_a_device_the_model_runs_by_cuda_and_says_so(folder: Folder) -> None:
    runtime = ScriptedRuntime()
    backend = loaded(folder, runtime, device="GPU-8f", require_gpu=True)
    assert (runtime.asked, runtime.preloaded) == ([[CUDA, CPU]], 1)
    told = backend.describe()
    assert (told["provider"], told["device"], told["providers"]) == ("cuda", "gpu GPU-8f", [CUDA, CPU])
    assert backend.run([np.ones((2, 4), np.float32)])[0].shape == (2, 4)


def test_without_a_device_nothing_of_cuda_is_touched(folder: Folder) -> None:
    runtime = ScriptedRuntime()
    backend = loaded(folder, runtime, require_gpu=True)
    assert (runtime.asked, runtime.preloaded) == ([[CPU]], 0)
    assert (backend.describe()["provider"], backend.describe()["device"]) == ("cpu", "cpu")


def test_a_session_gets_no_more_of_the_card_than_it_needs_and_full_precision_unless_asked(folder: Folder) -> None:
    runtime = ScriptedRuntime()
    loaded(folder, runtime, device="0")
    asked = runtime.options[CUDA]
    assert (asked["arena_extend_strategy"], asked["use_tf32"], asked["device_id"]) == ("kSameAsRequested", "0", "0")
    loaded(folder, runtime, {"dtype": "tf32"}, device="0")
    assert runtime.options[CUDA]["use_tf32"] == "1"


def test_tensorrt_is_asked_for_by_the_manifest_with_cuda_behind_it(folder: Folder) -> None:
    runtime = ScriptedRuntime()
    backend = loaded(folder, runtime, {"tensorrt": True, "dtype": "fp16"}, device="0", require_gpu=True)
    assert runtime.asked == [[TENSORRT, CUDA, CPU]] and backend.describe()["provider"] == "tensorrt"
    assert runtime.options[TENSORRT] == {"device_id": "0", "trt_fp16_enable": "1"}


def test_all_providers_but_the_cpu_compute_on_the_stream_that_they_are_given() -> None:
    found = on_stream(wanted(Gpu(tensorrt=True), "0", WHEEL), 0x7F00)
    assert [(name, said.get("user_compute_stream")) for name, said in found] == [
        (TENSORRT, "32512"), (CUDA, "32512"), (CPU, None)
    ]  # fmt: skip
    assert dict(found)[CUDA]["arena_extend_strategy"] == "kSameAsRequested"


def test_without_a_stream_of_ours_they_take_their_own(folder: Folder) -> None:
    runtime = ScriptedRuntime()
    loaded(folder, runtime, device="0")
    assert "user_compute_stream" not in runtime.options[CUDA]


SILENT = ScriptedRuntime(starts=[CPU])
WRONG_WHEEL = ScriptedRuntime(has=[CPU])
FALLBACKS = [
    (
        SILENT,
        {},
        r"^GPU 0 cannot be used as asked: .*its cuda provider, and cpu runs the model: .*driver.*EVENKEEL_REQUIRE_GPU=0",
    ),
    (WRONG_WHEEL, {}, r"has no cuda provider, only cpu: use the GPU image, or install onnxruntime-gpu"),
    (ScriptedRuntime(refuses=[CUDA]), {}, r"CUDAExecutionProvider does not know an operator"),
    (ScriptedRuntime(starts=[CUDA, CPU]), {"tensorrt": True}, r"its tensorrt provider, and cuda runs the model"),
]


@pytest.mark.parametrize(("runtime", "gpu", "why"), FALLBACKS)
def test_a_fallback_is_a_failed_start_where_a_gpu_is_required(
    folder: Folder, runtime: ScriptedRuntime, gpu: Mapping[str, Any], why: str
) -> None:
    with pytest.raises(BadModel, match=why) as e:
        loaded(folder, runtime, gpu, device="0", require_gpu=True)
    assert "\n" not in e.value.message


@pytest.mark.parametrize(("runtime", "gpu", "why"), FALLBACKS)
def test_a_fallback_that_is_allowed_is_told_and_shown(
    folder: Folder, runtime: ScriptedRuntime, gpu: Mapping[str, Any], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    backend = loaded(folder, runtime, gpu, device="0")
    assert "is not used as asked: " in events(capfd)["gpu_unused"]
    assert backend.describe()["provider"] == ("cuda" if gpu else "cpu")


def test_a_model_that_no_provider_takes_is_refused_for_what_the_cpu_says(folder: Folder) -> None:
    with pytest.raises(BadModel, match="CPUExecutionProvider does not know"):
        loaded(folder, ScriptedRuntime(refuses=WHEEL), device="0")


def test_a_wheel_without_tensorrt_is_asked_for_cuda_and_the_lack_is_named() -> None:
    assert [name for name, _ in wanted(Gpu(tensorrt=True), "0", [CUDA, CPU])] == [CUDA, CPU]
    assert "has no tensorrt provider, only cuda, cpu" in why_not(Gpu(tensorrt=True), "0", [CUDA, CPU], [CUDA, CPU])
    assert why_not(Gpu(), "", [], [CPU]) == why_not(Gpu(), "0", WHEEL, [CUDA, CPU]) == ""


@pytest.mark.parametrize(("memory_mb", "limit"), [(None, int(0.9 * CARD_BYTES)), (512, 512 << 20), (1 << 20, CARD_BYTES)])
def test_a_replica_never_takes_the_whole_card_unless_told_so(folder: Folder, memory_mb: int | None, limit: int) -> None:
    runtime = ScriptedRuntime()
    loaded(folder, runtime, {"memory_mb": memory_mb} if memory_mb else None, device="0")
    assert runtime.options[CUDA]["gpu_mem_limit"] == str(limit)


def test_replicas_of_one_card_divide_it_among_them(folder: Folder) -> None:
    runtime = ScriptedRuntime()
    loaded(folder, runtime, device="0", sharers=3)
    assert runtime.options[CUDA]["gpu_mem_limit"] == str(int(0.9 * CARD_BYTES / 3))


def test_a_card_that_nobody_can_measure_is_bounded_where_asked() -> None:
    assert dict(wanted(Gpu(memory_mb=512), "0", WHEEL))[CUDA]["gpu_mem_limit"] == str(512 << 20)
    assert "gpu_mem_limit" not in dict(wanted(Gpu(), "0", WHEEL))[CUDA]


class ScriptedCuda:
    """The driver's library. `fails` names a call that answers with an error."""

    def __init__(self, fails: str = "") -> None:
        self._fails = fails

    def cuInit(self, flags: int) -> int:
        return int(self._fails == "cuInit")

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = 40 + ordinal
        return int(self._fails == "cuDeviceGet")

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        assert device.value == 40
        size._obj.value = CARD_BYTES
        return int(self._fails == "cuDeviceTotalMem_v2")


def test_the_driver_says_how_much_memory_the_card_has() -> None:
    assert device_memory.memory_bytes(lambda name: ScriptedCuda()) == CARD_BYTES
    for call in ("cuInit", "cuDeviceGet", "cuDeviceTotalMem_v2"):
        assert device_memory.memory_bytes(lambda name, call=call: ScriptedCuda(fails=call)) is None  # type: ignore[misc]


def test_where_there_is_no_driver_nobody_can_say() -> None:
    assert device_memory.memory_bytes(lambda name: ctypes.CDLL(name + ".missing")) is None
