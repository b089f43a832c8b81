"""ONNX models, run by ONNX Runtime. The only file that imports onnxruntime.

Owns one inference session. What the session says of its inputs and outputs becomes the signature, checked against the
manifest in `shapes`. Knows nothing of requests, slots or batches beyond "the first axis counts rows".
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from serve.contract.logline import log
from serve.contract.manifest import Manifest
from serve.contract.signature import Signature
from serve.engine.backends import card, providers
from serve.engine.backends.base import Array, LoadOptions
from serve.engine.backends.device import facts, unused
from serve.engine.backends.formats import kind_of
from serve.engine.backends.providers import Provider
from serve.engine.backends.shapes import Dim, Found, Runs, settle
from serve.errors import BadModel, ModelFailed

DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16", "tensor(bool)": "bool", "tensor(string)": "string",
    **{f"tensor({name})": name for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")},
}  # fmt: skip
ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16
VERSION_UNSAID = (1 << 63) - 1  # what the runtime says of a file without one
FATAL = 4  # every error is raised as well; the runtime's own lines would break the JSON log
MESSAGE_CHARS_MAX = 400


class OnnxBackend:
    def __init__(self, session: ort.InferenceSession, manifest: Manifest, options: LoadOptions) -> None:
        self._session, self._threads = session, manifest.threads or options.threads
        self._where = facts(options, providers.WORDS.get(session.get_providers()[0], "other"))
        ins = [_found(node, tuple(node.shape)) for node in session.get_inputs()]
        # A shape of [] means "a scalar" and "not known" alike. Few inputs are either; outputs are found out by running.
        outs = [_found(node, tuple(node.shape) or None) for node in session.get_outputs()]
        served = {spec.name for spec in manifest.outputs} if manifest.outputs else {f.name for f in outs}
        for found in (*ins, *(f for f in outs if f.name in served)):
            _refuse_unknown(found, str(manifest.file))
        _refuse_mixture([*ins, *(f for f in outs if f.name in served)], {f.name for f in ins}, str(manifest.file))
        settled = settle(ins, outs, manifest, self._runs)
        self.signature, self._batching = settled.signature, settled.batching
        self._run = self._runs(self.signature)

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        try:
            return self._run(inputs)
        except Exception as e:  # onnxruntime's errors have no common base class
            raise ModelFailed(f"onnxruntime: {_short(e)}") from e

    def describe(self) -> Mapping[str, Any]:
        meta = self._session.get_modelmeta()
        version = None if meta.version == VERSION_UNSAID else meta.version
        return {"framework": f"onnxruntime {ort.__version__}", "providers": self._session.get_providers(),
                **self._where, "threads": self._threads, "batching": self._batching,
                "producer": meta.producer_name, "model_version": version}  # fmt: skip

    def _runs(self, signature: Signature) -> Runs:
        names = [spec.name for spec in signature.inputs]
        wanted = [spec.name for spec in signature.outputs]
        if "bfloat16" in {spec.dtype for spec in (*signature.inputs, *signature.outputs)}:
            return _runs_of_ort_values(self._session, signature)
        # The public run() checks the names again: 6.4 us for a tiny model where the method it passes on to takes 4.8. That
        # one is not public, so where a version lacks it the public one serves.
        bare = getattr(getattr(self._session, "_sess", None), "run", self._session.run)
        if len(names) == 1:
            name = names[0]
            return lambda inputs: bare(wanted, {name: inputs[0]}, None)
        return lambda inputs: bare(wanted, dict(zip(names, inputs, strict=True)), None)


def load(
    manifest: Manifest, options: LoadOptions, runtime: Any = ort, card_bytes: Callable[[], int | None] = card.memory_bytes
) -> OnnxBackend:
    """`runtime`: the module, or what stands for it in a test of the providers that this machine has not; so `card_bytes`."""
    assert manifest.file is not None, "the manifest names a file for every backend but echo"
    _, text = kind_of(manifest.file)
    if text:
        raise BadModel(f"{manifest.file} is not an ONNX model but {text}")
    available = runtime.get_available_providers() if options.device else []
    wanted = providers.wanted(manifest.gpu, options.device, available, card_bytes() if options.device else None)
    if len(wanted) > 1:
        runtime.preload_dlls(directory="")  # CUDA and cuDNN from NVIDIA's wheels, where no path leads to them
    session = _best_session(manifest, options, wanted, runtime)
    why = providers.why_not(manifest.gpu, options.device, available, session.get_providers())
    if why:
        unused(options, why)
    return OnnxBackend(session, manifest, options)


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
        raise BadModel(f"{file}: {_short(e)}{_advice(str(e))}") from e


def _advice(message: str) -> str:
    if "protobuf parsing failed" in message.lower() or "No graph was found" in message:
        return "; it is not an ONNX file or it is cut short: compare its size and checksum with the original"
    if "opset" in message.lower() or "IR version" in message:
        return f"; export the model with a lower opset, or use an image with a newer onnxruntime than {ort.__version__}"
    if "is not a registered function/op" in message or "No Op registered" in message:
        return "; the model uses operators that onnxruntime alone does not have"
    if "external data" in message.lower() or ".data" in message:
        return "; a model in several files needs all of them in the model folder"
    return ""


def _found(node: Any, shape: tuple[Dim, ...] | None) -> Found:
    return Found(node.name, DTYPES.get(node.type, node.type), shape)


def _refuse_unknown(found: Found, file: str) -> None:
    if found.dtype in DTYPES.values():
        return
    if found.dtype.startswith("seq(map"):
        advice = "convert the classifier with options={'zipmap': False}, so that it gives a plain tensor"
    else:
        advice = "only plain tensors can be served; change the model, or name the other outputs in [[outputs]]"
    raise BadModel(f"{file}: {found.name!r} has type {found.dtype}: {advice}")


def _refuse_mixture(tensors: Sequence[Found], inputs: set[str], file: str) -> None:
    """bfloat16 travels by OrtValues, which onnxruntime's Python interface cannot make from strings."""
    narrow = next((f.name for f in tensors if f.dtype == "bfloat16"), None)
    text = next((f.name for f in tensors if f.dtype == "string" and f.name in inputs), None)
    if narrow is not None and text is not None:
        raise BadModel(f"{file}: {narrow!r} is bfloat16 and the input {text!r} holds strings, which onnxruntime cannot take "
                       f"together: let the model cast {narrow!r} from or to float32")  # fmt: skip


def _short(e: Exception) -> str:
    """One line without the runtime's source paths and C++ signatures."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(e).split()))
    text = re.sub(r"/onnxruntime_src/\S+:\d+ .*?\)>?(?: \[with [^\]]*\])? (?=[A-Z])", "", text)
    text = re.sub(r"Load model from \S+ failed: ?|Exception during \w+: ", "", text).strip()
    return text if len(text) <= MESSAGE_CHARS_MAX else text[:MESSAGE_CHARS_MAX] + "…"


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
