"""ONNX models on a GPU, as far as a machine without one can tell: by a scripted GPU on which ONNX Runtime really computes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from model_folder import Folder

from evenkeel.serve.engine import failures
from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.backends.onnx import onnx_device
from evenkeel.serve.engine.backends.onnx.providers import CPU, CUDA, TENSORRT
from evenkeel.serve.engine.cycle.launch_complete import IN_FLIGHT_MAX
from evenkeel.serve.errors import ModelFailed, OutOfMemory
from tests.support.log_read import logged

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import helper  # noqa: E402
from scripted_gpu import GpuSession, ScriptedGpu  # noqa: E402

from evenkeel.serve.engine.backends.onnx.onnx_backend import OnnxBackend  # noqa: E402
from evenkeel.serve.engine.backends.onnx.onnx_load import load  # noqa: E402
from evenkeel.serve.engine.backends.onnx.onnx_on_device import OnnxOnDevice  # noqa: E402
from tests.serve.engine.backends.onnx.test_onnx_backend import identity, model, tensor  # noqa: E402
from tests.serve.engine.backends.onnx.test_providers import CARD_BYTES, WHEEL, ScriptedRuntime  # noqa: E402

Array = np.ndarray[Any, Any]


class Wheel(ScriptedRuntime):
    """An onnxruntime-gpu whose sessions compute on the scripted GPU."""

    def __init__(self, gpu: ScriptedGpu, starts: Sequence[str] = WHEEL) -> None:
        super().__init__(starts=starts)
        self._gpu = gpu

    def InferenceSession(self, file: str, settings: Any, providers: Sequence[Any], enable_fallback: int) -> Any:
        session = super().InferenceSession(file, settings, providers, enable_fallback)
        said = self.options.get(session.get_providers()[0], {})
        records = said.get("enable_cuda_graph") == "1"
        return GpuSession(session, self._gpu, session.get_providers(), int(said.get("user_compute_stream", 0)), records)


def loaded(
    folder: Folder, content: bytes, data: Mapping[str, Any] | None = None, gpu: ScriptedGpu | None = None,
    starts: Sequence[str] = WHEEL, cuda: Callable[[], ScriptedGpu] | None = None,
) -> OnnxBackend:  # fmt: skip
    folder.put("model.onnx", content)
    gpu = gpu or ScriptedGpu()
    options = LoadOptions(1, "0")
    return load(folder.manifest(data), options, Wheel(gpu, starts), lambda: CARD_BYTES, cuda or (lambda: gpu))


def on_device(folder: Folder, gpu: ScriptedGpu, content: bytes, data: Mapping[str, Any] | None = None) -> OnnxOnDevice:
    backend = loaded(folder, content, data, gpu)
    assert isinstance(backend, OnnxOnDevice)
    gpu.did.clear()
    return backend


def doubled(shape: Sequence[int | str]) -> bytes:
    return model([helper.make_node("Add", ["x", "x"], ["y"])], [tensor("x", shape)], [tensor("y", shape)])


def two_outputs() -> bytes:
    """y = x + x, and the sums of the rows."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("ReduceSum", ["x", "last"], ["sums"], keepdims=0)]
    return model(nodes, [tensor("x", ["N", 4])], [tensor("y", ["N", 4]), tensor("sums", ["N"])],
                 constants=[helper.make_tensor("last", 7, [1], [1])])  # fmt: skip


X = np.arange(8, dtype=np.float32).reshape(2, 4)


def events(capfd: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in logged(capfd).splitlines()]
    return [(line["level"], line["message"]) for line in lines if line["event"] == "io_binding_off"]


# The way of a batch ---------------------------------------------------------------------------------------------------


def test_each_step_of_a_batch_waits_on_the_device_for_the_one_before_and_the_thread_once_for_all(folder: Folder) -> None:
    gpu = ScriptedGpu()
    backend = on_device(folder, gpu, two_outputs())
    ticket = backend.launch([X])
    assert gpu.did == [
        "copy 32 on to", "mark to", "hold compute for to", "run", "mark compute", "hold back for compute",
        "copy 32 on back", "copy 8 on back", "mark back",
    ]  # fmt: skip
    gpu.did.clear()
    y, sums = backend.complete(ticket)
    assert gpu.did == ["wait"]
    assert np.array_equal(y, X * 2) and sums.tolist() == [6, 22]
    assert gpu.values_alive() == 0, "the session may use their memory again"


def test_answers_are_there_when_they_have_been_waited_for_and_not_before(folder: Folder) -> None:
    backend = on_device(folder, ScriptedGpu(), doubled(["N", 4]))
    ticket = backend.launch([X])
    assert np.isnan(ticket.outputs[0]).all(), "so the tests below would see whoever does not wait"
    assert np.array_equal(backend.complete(ticket)[0], X * 2)


def test_two_batches_in_flight_have_their_own_answers_whatever_becomes_of_their_inputs(folder: Folder) -> None:
    gpu = ScriptedGpu()
    backend = on_device(folder, gpu, doubled(["N", 4]))
    given = X.copy()
    one = backend.launch([given])
    given[:] = -1  # the slot may be anything by then
    two = backend.launch([X * 10])
    assert "wait" not in gpu.did, "nothing is waited for at a launch"
    assert np.array_equal(backend.complete(one)[0], X * 2)
    assert np.array_equal(backend.complete(two)[0], X * 20)


def test_answers_hold_until_the_batch_after_the_next_is_launched(folder: Folder) -> None:
    backend = on_device(folder, ScriptedGpu(), doubled(["N", 4]))
    first = backend.run([X])[0]
    two = backend.launch([np.tile(X * 3, (5, 1))])
    assert np.array_equal(first, X * 2)
    backend.complete(two)
    assert np.array_equal(first, X * 2)


def test_a_long_flight_of_batches_of_all_sizes_gives_what_the_cpu_gives(folder: Folder) -> None:
    gpu, random = ScriptedGpu(), np.random.default_rng(1)
    backend = on_device(folder, gpu, doubled(["N", "T", 3]))
    flying: list[tuple[Any, Array]] = []
    for _ in range(40):
        x = random.standard_normal((random.integers(1, 9), random.integers(1, 40), 3)).astype(np.float32)
        flying.append((backend.launch([x]), x))
        if len(flying) == IN_FLIGHT_MAX:
            ticket, was = flying.pop(0)
            assert np.array_equal(backend.complete(ticket)[0], was * 2)
    assert gpu.values_alive() == 1


def test_no_more_batches_fly_than_there_are_slots(folder: Folder) -> None:
    assert onnx_device.SLOTS == IN_FLIGHT_MAX
    backend = on_device(folder, ScriptedGpu(), doubled(["N", 4]))
    tickets = [backend.launch([X]) for _ in range(IN_FLIGHT_MAX)]
    with pytest.raises(ModelFailed, match="at most 2 batches fly"):
        backend.launch([X])
    assert [np.array_equal(backend.complete(t)[0], X * 2) for t in tickets] == [True, True]


def test_memory_grows_to_the_largest_batch_and_is_used_again(folder: Folder) -> None:
    gpu = ScriptedGpu()
    backend = on_device(folder, gpu, doubled(["N", 4]))
    backend.run([np.zeros((100, 4), np.float32)])
    backend.run([np.zeros((70, 4), np.float32)])
    assert gpu.sizes("device") == [2048, 2048] and gpu.sizes("host") == [2048] * 4, "powers of two, for each slot its own"
    made = len(gpu.regions)
    for rows in (1, 100, 128, 3):
        assert np.array_equal(backend.run([np.ones((rows, 4), np.float32)])[0], np.full((rows, 4), 2.0))
    assert {r.kind for r in gpu.regions[made:]} == {"value"}


# What a model may have ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
)
def test_each_type_travels_there_and_back(folder: Folder, dtype: str) -> None:
    backend = on_device(folder, ScriptedGpu(), identity(["N", 3], ["N", 3], dtype))
    x = np.array([[0, 1, 2], [3, 0, 100]]).astype(dtype)
    y = backend.run([x])[0]
    assert y.dtype == x.dtype and np.array_equal(y, x)


def test_bfloat16_travels_as_its_bits(folder: Folder) -> None:
    backend = on_device(folder, ScriptedGpu(), identity(["N", 3], ["N", 3], "bfloat16"))
    bits = np.array([[0x3F80, 0x4000, 0xBF80]], np.uint16)
    assert np.array_equal(backend.run([bits])[0], bits)


def test_a_scalar_without_rows_and_a_batch_without_values_are_arrays_too(folder: Folder) -> None:
    scalar = on_device(folder, ScriptedGpu(), identity([], []))
    y = scalar.run([np.array(7, np.float32)])[0]
    assert y.shape == () and y == 7
    free = on_device(folder, ScriptedGpu(), identity(["N", "T"], ["N", "T"]))
    assert free.run([np.zeros((2, 0), np.float32)])[0].shape == (2, 0)


def test_inputs_of_odd_sizes_lie_apart_and_outputs_come_in_the_order_that_was_asked_for(folder: Folder) -> None:
    nodes = [helper.make_node(op, [a], [b]) for op, a, b in (("Not", "m", "off"), ("Neg", "s", "minus"), ("Abs", "x", "size"))]
    ins = [tensor("m", ["N", 3], "bool"), tensor("s", ["N"], "int64"), tensor("x", ["N", "T"], "float16")]
    outs = [tensor("off", ["N", 3], "bool"), tensor("minus", ["N"], "int64"), tensor("size", ["N", "T"], "float16")]
    backend = on_device(
        folder, ScriptedGpu(), model(nodes, ins, outs), {"outputs": [{"name": "size"}, {"name": "off"}, {"name": "minus"}]}
    )
    m, s, x = np.array([[1, 0, 1]] * 3, bool), np.array([1, -2, 1 << 40]), np.linspace(-4, 4, 21, dtype=np.float16).reshape(3, 7)
    size, off, minus = backend.run([m, s, x])
    assert np.array_equal(size, abs(x)) and np.array_equal(off, ~m) and minus.tolist() == [-1, 2, -(1 << 40)]


def test_an_input_that_does_not_lie_in_one_piece_is_gathered(folder: Folder) -> None:
    backend = on_device(folder, ScriptedGpu(), doubled(["N", 4]))
    assert np.array_equal(backend.run([np.tile(X, (1, 2))[:, ::2]])[0], np.tile(X, (1, 2))[:, ::2] * 2)


def test_tensors_lie_where_an_allocation_could() -> None:
    assert onnx_device.packed([1, 256, 257, 0, 4]) == ([0, 256, 512, 1024, 1024], 1028)
    assert onnx_device.packed([]) == ([], 0)


# Places that are lent ------------------------------------------------------------------------------------------------


def test_a_batch_put_together_in_the_places_that_were_lent_is_not_copied_on_the_host(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = ScriptedGpu()
    backend = on_device(folder, gpu, two_inputs())
    places = backend.lend([(2, 4), (2, 3)])
    assert [p.shape for p in places] == [(2, 4), (2, 3)] and [p.dtype for p in places] == [np.float32, np.int64]
    assert all(gpu.region(p.ctypes.data, p.nbytes).kind == "host" for p in places)
    places[0][:], places[1][:] = X, 7
    with monkeypatch.context() as patched:
        patched.setattr(onnx_device.np, "copyto", lambda *_, **__: pytest.fail("it is copied"))
        ticket = backend.launch(places)
    y, minus = backend.complete(ticket)
    assert np.array_equal(y, X * 2) and (minus == -7).all()


def two_inputs() -> bytes:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Neg", ["s"], ["minus"])]
    return model(nodes, [tensor("x", ["N", 4]), tensor("s", ["N", 3], "int64")],
                 [tensor("y", ["N", 4]), tensor("minus", ["N", 3], "int64")])  # fmt: skip


def test_what_was_lent_for_a_batch_that_never_came_is_lent_again_and_others_are_copied(folder: Folder) -> None:
    backend = on_device(folder, ScriptedGpu(), doubled(["N", 4]))
    (never,) = backend.lend([(3, 4)])
    never[:] = 1
    for given in (np.tile(X, (60, 1)), X, never):
        assert np.array_equal(backend.run([given])[0], given * 2), "not those that are lent"
    (place,) = backend.lend([(2, 4)])
    place[:] = X * 3
    assert np.array_equal(backend.run([place])[0], X * 6)


def test_places_of_a_batch_in_flight_are_not_lent(folder: Folder) -> None:
    gpu, random = ScriptedGpu(), np.random.default_rng(2)
    backend = on_device(folder, gpu, doubled(["N", 4]))
    flying: list[tuple[Any, Array]] = []
    for _ in range(40):
        x = random.standard_normal((random.integers(1, 90), 4)).astype(np.float32)
        (place,) = backend.lend([x.shape])
        place[:] = x
        flying.append((backend.launch([place]), x))
        if len(flying) == IN_FLIGHT_MAX:
            ticket, given = flying.pop(0)
            assert np.array_equal(backend.complete(ticket)[0], given * 2)


def test_memory_that_is_short_for_what_is_to_be_lent_is_known(folder: Folder) -> None:
    gpu = ScriptedGpu()
    backend = on_device(folder, gpu, doubled(["N", 4]))
    gpu.refuses["host_memory"] = FULL
    with pytest.raises(ModelFailed) as e:
        backend.lend([(400, 4)])
    assert isinstance(failures.translated(e.value), OutOfMemory)
    gpu.refuses.clear()
    assert np.array_equal(backend.run([X])[0], X * 2)


# What fails -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [(X.astype(np.float64), "Cannot cast array data"), (X.reshape(4, 2), "Got invalid dimensions for input: x"),
     (X.reshape(2, 2, 2), "Invalid rank for input: x")],
)  # fmt: skip
def test_an_input_of_another_type_or_shape_is_an_error_of_its_batch(folder: Folder, wrong: Array, says: str) -> None:
    backend = on_device(folder, ScriptedGpu(), doubled(["N", 4]))
    with pytest.raises(ModelFailed, match=says):
        backend.run([wrong])
    assert np.array_equal(backend.run([X])[0], X * 2)


FULL = "CUDA error: out of memory (cudaErrorMemoryAllocation by cudaMalloc)"
ARENA = ("[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Add node. Name:'' Status Message: "
         "Available memory of 1048576 is smaller than requested bytes of 2097152")  # fmt: skip
LOST = "CUDA error: an illegal memory access was encountered (cudaErrorIllegalAddress by cudaEventSynchronize)"


class Fail(Exception):
    """As the runtime's own."""


Fail.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


@pytest.mark.parametrize(("call", "words"), [("device_memory", FULL), ("host_memory", FULL.replace("Malloc", "HostAlloc"))])
def test_memory_that_is_short_at_the_launch_is_known_and_the_next_batch_is_well(folder: Folder, call: str, words: str) -> None:
    gpu = ScriptedGpu()
    backend = on_device(folder, gpu, doubled(["N", 4]))
    gpu.refuses[call] = words
    with pytest.raises(ModelFailed) as e:
        backend.launch([np.tile(X, (40, 1))])
    assert isinstance(failures.translated(e.value), OutOfMemory)
    gpu.refuses.clear()
    for _ in range(3):
        assert np.array_equal(backend.run([np.tile(X, (40, 1))])[0], np.tile(X, (40, 1)) * 2)


def test_memory_of_the_session_that_is_short_is_known(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = ScriptedGpu()
    backend = on_device(folder, gpu, doubled(["N", 4]))

    def full(*_: Any) -> None:
        raise Fail(ARENA)

    with monkeypatch.context() as patched:
        patched.setattr(GpuSession, "run_with_iobinding", full)
        with pytest.raises(ModelFailed, match="Available memory of 1048576 is smaller") as e:
            backend.launch([X])
    assert isinstance(failures.translated(e.value), OutOfMemory)
    assert np.array_equal(backend.run([X])[0], X * 2)


@pytest.mark.parametrize("call", ["run", "host_memory"])
def test_what_a_failed_launch_has_begun_is_over_before_its_memory_is_used_again(folder: Folder, call: str) -> None:
    """`run` fails after the copy to the device has been begun, `host_memory` after the computation has."""
    gpu = ScriptedGpu()
    content = model([helper.make_node("Concat", ["x"] * 20, ["y"], axis=1)], [tensor("x", ["N", 4])], [tensor("y", ["N", 80])])
    backend = on_device(folder, gpu, content)
    beside = backend.launch([X])
    gpu.refuses[call] = "CUDA error: invalid argument (cudaErrorInvalidValue)"
    with pytest.raises(ModelFailed, match="invalid argument"):
        backend.launch([X])
    gpu.refuses.clear()
    assert np.array_equal(backend.complete(beside)[0], np.tile(X, (1, 20)))
    beside = backend.launch([X])
    large = np.tile(X, (100, 1))  # its slot is the failed one's, whose memory is given back for more
    last = backend.launch([large])
    assert np.array_equal(backend.complete(beside)[0], np.tile(X, (1, 20)))
    assert np.array_equal(backend.complete(last)[0], np.tile(large, (1, 20)))
    assert gpu.values_alive() == 0


def test_an_output_is_held_until_a_failed_batch_is_over(folder: Folder) -> None:
    gpu = ScriptedGpu()
    backend = on_device(folder, gpu, doubled(["N", 4]))
    backend.run([X]), backend.run([X])
    copies = gpu.copy

    def copy(to: int, source: int, size: int, stream: int) -> None:
        copies(to, source, size, stream)
        if stream == 3:
            raise RuntimeError("CUDA error: invalid argument (cudaErrorInvalidValue by cudaMemcpyAsync)")

    gpu.copy = copy  # type: ignore[method-assign]
    with pytest.raises(ModelFailed):
        backend.launch([X])
    gpu.copy = copies  # type: ignore[method-assign]
    assert gpu.values_alive() == 1
    for _ in range(2):
        assert np.array_equal(backend.run([X])[0], X * 2)
    assert gpu.values_alive() == 0


@pytest.mark.parametrize(
    "words", [LOST, "CUDA error: unspecified launch failure (cudaErrorLaunchFailure by cudaEventSynchronize)"]
)
def test_what_fails_on_the_device_is_told_when_the_batch_is_waited_for(folder: Folder, words: str) -> None:
    gpu = ScriptedGpu()
    backend = on_device(folder, gpu, doubled(["N", 4]))
    ticket = backend.launch([X])
    gpu.fails = words
    with pytest.raises(ModelFailed) as e:
        backend.complete(ticket)
    with pytest.raises(failures.DeviceLost):
        failures.translated(e.value)


# Who does so ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gpu", "best"), [({}, CUDA), ({"tensorrt": True}, TENSORRT)])
def test_a_session_computes_on_the_stream_that_the_copies_keep_to_and_says_so(
    folder: Folder, gpu: Mapping[str, Any], best: str
) -> None:
    backend = loaded(folder, doubled(["N", 4]), {"gpu": gpu} if gpu else None)
    assert backend.describe()["providers"][0] == best and backend.describe()["io"] == "device"
    assert hasattr(backend, "launch")
    assert np.array_equal(backend.run([X])[0], X * 2)


def test_a_model_that_holds_strings_runs_as_on_a_cpu_and_says_why(folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    backend = loaded(folder, identity(["N"], ["N"], "string"))
    assert not hasattr(backend, "launch")
    assert backend.run([np.array(["a", "b"], object)])[0].tolist() == ["a", "b"]
    assert backend.describe()["io"] == "host: 'x' holds strings, which are on the host only"
    assert events(capfd) == [
        ("info", "batches are copied and computed one after the other: 'x' holds strings, which are on the host only")
    ]


def test_a_model_whose_input_is_taken_by_the_cpu_runs_as_on_a_cpu(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees and other operators that CUDA lacks: bound to the device, it could be copied back before it has come."""
    monkeypatch.setattr(GpuSession, "get_input_memory_infos", lambda self: [SimpleNamespace(name="Cpu")])
    backend = loaded(folder, doubled(["N", 4]))
    assert not hasattr(backend, "launch") and np.array_equal(backend.run([X])[0], X * 2)
    assert backend.describe()["io"] == "host: what takes 'x' runs on the CPU"


@pytest.mark.parametrize(
    "error", [OSError("none of them can be loaded: use the GPU image"), RuntimeError("CUDA error: no CUDA-capable device")]
)
def test_without_the_library_of_cuda_a_model_runs_as_on_a_cpu_and_a_warning_says_why(
    folder: Folder, error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    def cuda() -> ScriptedGpu:
        raise error

    backend = loaded(folder, doubled(["N", 4]), cuda=cuda)
    assert not hasattr(backend, "launch") and backend.describe()["io"] == f"host: {error}"
    assert np.array_equal(backend.run([X])[0], X * 2)
    assert events(capfd) == [("warning", f"batches are copied and computed one after the other: {error}")]


def test_on_a_cpu_there_is_nothing_to_launch_and_nothing_to_say(folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    backend = loaded(folder, doubled(["N", 4]), starts=[CPU])
    assert not hasattr(backend, "launch") and "io" not in backend.describe()
    assert events(capfd) == []
