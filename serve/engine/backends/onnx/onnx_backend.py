"""ONNX models, run by ONNX Runtime. The only file that imports onnxruntime.

Owns one inference session. What the session says of its inputs and outputs becomes the signature, checked against the
manifest in `shapes`. Knows nothing of requests, slots or batches beyond "the first axis counts rows".
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from evenkeel.serve.contract import fingerprint
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.engine.backends.base import Array, BoundRun, Capabilities, LoadOptions
from evenkeel.serve.engine.backends.formats import kind_of
from evenkeel.serve.engine.backends.gpu import cuda_runtime, device_memory
from evenkeel.serve.engine.backends.gpu.assigned_device import facts, unused
from evenkeel.serve.engine.backends.gpu.cuda_graphs import Graphs
from evenkeel.serve.engine.backends.gpu.cuda_runtime import Runtime
from evenkeel.serve.engine.backends.model_shapes import Runs, settle
from evenkeel.serve.engine.backends.onnx import onnx_device, providers
from evenkeel.serve.engine.backends.onnx.onnx_device import OnnxPendingOutputs, OnnxTransfers
from evenkeel.serve.engine.backends.onnx.onnx_graphs import OnnxGraph
from evenkeel.serve.engine.backends.onnx.onnx_run import ONNX_BFLOAT16, DeviceRun
from evenkeel.serve.engine.backends.onnx.onnx_words import advice, found, refuse_mixture, refuse_unknown, short
from evenkeel.serve.engine.backends.onnx.providers import Provider
from evenkeel.serve.engine.foreign import text_of
from evenkeel.serve.errors import BadModel, ModelFailed

VERSION_UNSAID = (1 << 63) - 1  # what the runtime says of a file without one
FATAL = 4  # every error is raised as well; the runtime's own lines would break the JSON log


class OnnxBackend:
    """`run` alone, on whatever device."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    def __init__(self, session: ort.InferenceSession, manifest: Manifest, options: LoadOptions, io: str = "") -> None:
        """`io`: for people, how batches come to the device; empty: there is none."""
        self._session, self._threads, self._io = session, manifest.threads or options.threads, {"io": io} if io else {}
        self._where = facts(options, providers.WORDS.get(session.get_providers()[0], "other"))
        ins = [found(node, tuple(node.shape)) for node in session.get_inputs()]
        # A shape of [] means "a scalar" and "not known" alike. Few inputs are either; outputs are found out by running.
        outs = [found(node, tuple(node.shape) or None) for node in session.get_outputs()]
        served = {spec.name for spec in manifest.outputs} if manifest.outputs else {f.name for f in outs}
        for tensor in (*ins, *(f for f in outs if f.name in served)):
            refuse_unknown(tensor, str(manifest.file))
        refuse_mixture([*ins, *(f for f in outs if f.name in served)], {f.name for f in ins}, str(manifest.file))
        settled = settle(ins, outs, manifest, self._runs)
        self.signature, self._batching = settled.signature, settled.batching
        self._run = self._runs(self.signature)

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        try:
            return self._run(inputs)
        except Exception as e:  # onnxruntime's errors have no common base class
            raise _failed(e) from e

    def describe(self) -> Mapping[str, Any]:
        meta = self._session.get_modelmeta()
        version = None if meta.version == VERSION_UNSAID else meta.version
        return {"framework": f"onnxruntime {ort.__version__}", "providers": self._session.get_providers(),
                **self._where, **self._io, "threads": self._threads, "batching": self._batching,
                "producer": meta.producer_name, "model_version": version}  # fmt: skip

    def _runs(self, signature: Signature) -> Runs:
        names = [spec.name for spec in signature.inputs]
        wanted = [spec.name for spec in signature.outputs]
        if "bfloat16" in {spec.dtype for spec in (*signature.inputs, *signature.outputs)}:
            return _runs_of_ort_values(self._session, signature)
        # The public run() checks the names again: 6.4 us for a tiny model where the method it passes on to takes 4.8. That
        # one is not public, so where a version lacks it the public one serves.
        bare = getattr(getattr(self._session, "_sess", None), "run", self._session.run)
        options = run_options()  # where none are given the runtime makes them anew, in 0.8 us
        if len(names) == 1:
            name = names[0]
            return lambda inputs: bare(wanted, {name: inputs[0]}, options)
        return lambda inputs: bare(wanted, dict(zip(names, inputs, strict=True)), options)


class OnnxOnHost(OnnxBackend):
    """On the CPU."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(binding=self)

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> BoundRun | None:
        """By IO binding: 4 us for a tiny model where a run takes 6, and less yet where caches are cold."""
        if {spec.dtype for spec in (*self.signature.inputs, *self.signature.outputs)} & {"bfloat16", "string"}:
            return None
        session, binding, options = self._session, self._session.io_binding(), run_options()
        for spec, array in zip(self.signature.inputs, inputs, strict=True):
            binding.bind_input(spec.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for spec, array in zip(self.signature.outputs, outputs, strict=True):
            binding.bind_output(spec.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        begin, bound = session.run_with_iobinding, binding
        if hasattr(session, "_sess") and hasattr(binding, "_iobinding"):  # as in `_runs`; the public one takes 75 us in 1.31
            begin, bound = session._sess.run_with_iobinding, binding._iobinding
        return BoundRun(partial(begin, bound, options), _failed)


class OnnxOnDevice(OnnxBackend):
    """On a GPU: a batch is launched, and completed later. `run` is both."""

    def __init__(self, session: ort.InferenceSession, manifest: Manifest, options: LoadOptions, device: OnnxTransfers,
                 graphs_bytes: int = 0) -> None:  # fmt: skip
        """`graphs_bytes`: what the replica may allocate, if CUDA graphs are to be recorded; else 0."""
        self._device = device
        super().__init__(session, manifest, options, "device")
        graphs: Graphs[OnnxGraph] | None = Graphs(graphs_bytes, self.signature.rows_axis) if graphs_bytes else None
        self._run: DeviceRun = DeviceRun(device, session, ort.RunOptions, self.signature, graphs)

    def _runs(self, signature: Signature) -> DeviceRun:
        return DeviceRun(self._device, self._session, ort.RunOptions, signature)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(launching=self, preparing=self)

    def prepare(self, inputs: Sequence[Array]) -> None:
        self._run.prepare(inputs)

    def lend(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        try:
            return self._run.lend(shapes)
        except Exception as e:  # as in `run`
            raise _failed(e) from e

    def launch(self, inputs: Sequence[Array]) -> OnnxPendingOutputs:
        try:
            return self._run.launch(inputs)
        except Exception as e:  # as in `run`
            raise _failed(e) from e

    def complete(self, ticket: OnnxPendingOutputs) -> Sequence[Array]:
        try:
            return self._device.complete(ticket)
        except Exception as e:  # as in `run`
            raise _failed(e) from e

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "graphs": self._run.describe()}


def run_options() -> Any:
    options = ort.RunOptions()
    options.log_severity_level = FATAL
    return options


def _failed(e: Exception) -> ModelFailed:
    return ModelFailed(f"onnxruntime: {short(e)}")


def load(
    manifest: Manifest, options: LoadOptions, runtime: Any = ort,
    card_bytes: Callable[[], int | None] = device_memory.memory_bytes, cuda: Callable[[], Runtime] = cuda_runtime.opened,
) -> OnnxBackend:  # fmt: skip
    """`runtime`: the module, or what stands for it in a test of the providers that this machine has not; so the others."""
    assert manifest.file is not None, "the manifest names a file for every backend but echo"
    _, text = kind_of(manifest.file)
    if text:
        raise BadModel(f"{manifest.file} is not an ONNX model but {text}")
    available = runtime.get_available_providers() if options.device else []
    total = card_bytes() if options.device else None
    wanted = providers.wanted(manifest.gpu, options.device, available, total, options.sharers, _cache(manifest, options))
    device: OnnxTransfers | str = ""
    if len(wanted) > 1:
        runtime.preload_dlls(directory="")  # CUDA and cuDNN from NVIDIA's wheels, where no path leads to them
        device = onnx_device.chosen(cuda)
        wanted = wanted if isinstance(device, str) else providers.on_stream(wanted, device.computes)
    recording = None if isinstance(device, str) else _recording_session(manifest, options, wanted, runtime)
    session = recording or _best_session(manifest, options, wanted, runtime)
    why = providers.why_not(manifest.gpu, options.device, available, session.get_providers())
    if why:
        unused(options, why)
    graphs_bytes = providers.limit_bytes(manifest.gpu, total, options.sharers) if recording else 0
    return _backend(session, manifest, options, device, graphs_bytes)


def _cache(manifest: Manifest, options: LoadOptions) -> str:
    """A folder for what TensorRT builds of these very files: by itself it would take an engine of other weights for its own."""
    if not manifest.gpu.tensorrt or not options.device or options.cache is None:
        return ""
    try:
        folder = options.cache / fingerprint.sha256(manifest.folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        log("no_engine_cache", f"TensorRT's engines are not kept for the next start: {e}", level="warning")
        return ""
    return str(folder)


def _backend(
    session: ort.InferenceSession, manifest: Manifest, options: LoadOptions, device: OnnxTransfers | str, graphs_bytes: int
) -> OnnxBackend:
    """`device`: or why it cannot be used for more than `run`. `graphs_bytes`: as OnnxOnDevice says."""
    if session.get_providers()[0] == providers.CPU:
        return OnnxOnHost(session, manifest, options)
    why = device if isinstance(device, str) else onnx_device.why_not(session)
    if isinstance(device, str) or why:
        level = "warning" if isinstance(device, str) else "info"
        log("io_binding_off", f"batches are copied and computed one after the other: {why}", level=level)
        return OnnxBackend(session, manifest, options, f"host: {why}")
    return OnnxOnDevice(session, manifest, options, device, graphs_bytes)


def _recording_session(
    manifest: Manifest, options: LoadOptions, wanted: list[Provider], runtime: Any
) -> ort.InferenceSession | None:
    """One that can record CUDA graphs, where they are asked for and the model runs on the card as a whole."""
    if not manifest.gpu.graphs:
        return None
    assert manifest.file is not None, "see load"
    try:
        return _session(manifest.file, manifest.threads or options.threads, providers.recording(wanted), runtime)
    except BadModel as e:
        log("graphs_off", f"gpu.graphs = true, but onnxruntime cannot record this model: {e.message}", level="warning")
        return None


def _best_session(manifest: Manifest, options: LoadOptions, wanted: list[Provider], runtime: Any) -> ort.InferenceSession:
    """By the providers wanted, or, where that is allowed, by what is left without the best. Raises BadModel."""
    assert manifest.file is not None, "see load"
    threads = manifest.threads or options.threads
    try:
        return _session(manifest.file, threads, wanted, runtime)
    except BadModel as e:
        if len(wanted) == 1 or options.require_gpu:
            raise
        log("provider_failed", f"{providers.WORDS[wanted[0][0]]} does not take the model: {e.message}", level="warning")
    return _best_session(manifest, options, wanted[1:], runtime)


def _session(file: Path, threads: int, wanted: list[Provider], runtime: Any) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = FATAL
    # Spinning threads burn the core that the fronts need, and count against the container's CPU quota. Spinning within a
    # run only (session.force_spinning_stop) gained nothing measurable for a large model, and halved the throughput of a
    # small one while a neighbour wanted the other core.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena never gives back what the largest batch took, and a memory pattern is kept for every shape ever seen.
    # Without them a small CNN fell from 243 to 75 MB after a batch of 16, and ran as fast within the noise (0.8 ms at
    # batch 1, 7 ms at 8; a tiny MLP 7 to 8 us), so memory that falls back wins.
    settings.enable_cpu_mem_arena = False
    settings.enable_mem_pattern = False
    try:
        # Its own fallback would tell nobody but the log, and only in part.
        return runtime.InferenceSession(str(file), settings, providers=wanted, enable_fallback=0)
    except Exception as e:  # onnxruntime's errors have no common base class
        raise BadModel(f"{file}: {short(e)}{advice(text_of(e), ort.__version__)}") from e


# bfloat16 -------------------------------------------------------------------------------------------------------------
#
# NumPy has no bfloat16, so the session's plain run() cannot carry it. Its values go in as OrtValues over the uint16 bit
# patterns, and come out by copying the bytes the OrtValue points at before it is dropped.


def _runs_of_ort_values(session: ort.InferenceSession, signature: Signature) -> Runs:
    wanted = [spec.name for spec in signature.outputs]

    def value(array: Array, dtype: str) -> ort.OrtValue:
        array = np.ascontiguousarray(array)
        if dtype == "bfloat16":
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, ONNX_BFLOAT16)
        return ort.OrtValue.ortvalue_from_numpy(array)

    def run(inputs: Sequence[Array]) -> Sequence[Array]:
        feed = {spec.name: value(array, spec.dtype) for spec, array in zip(signature.inputs, inputs, strict=True)}
        return [_array(out) for out in session.run_with_ort_values(wanted, feed)]

    return run


def _array(value: ort.OrtValue) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    held = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(held, np.uint16).reshape(value.shape())
