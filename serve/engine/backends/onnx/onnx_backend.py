"""ONNX models, run by ONNX Runtime. The only file that imports onnxruntime.

Owns one inference session. What the session says of its inputs and outputs becomes the signature, checked against the
manifest in `shapes`. Knows nothing of requests, slots or batches beyond "the first axis counts rows".
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.engine.backends.base import Array, BoundRun, Capabilities, LoadOptions
from evenkeel.serve.engine.backends.gpu.assigned_device import facts
from evenkeel.serve.engine.backends.model_shapes import settle
from evenkeel.serve.engine.backends.onnx import providers
from evenkeel.serve.engine.backends.onnx.onnx_maps import columns, with_keys
from evenkeel.serve.engine.backends.onnx.onnx_run import ONNX_BFLOAT16
from evenkeel.serve.engine.backends.onnx.onnx_words import advice, found, refuse_mixture, refuse_unknown, short
from evenkeel.serve.engine.backends.onnx.providers import Provider
from evenkeel.serve.engine.backends.trial_runs import Runs
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
        outs = with_keys(outs, ins, self._by_names)
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
            raise failed(e) from e

    def describe(self) -> Mapping[str, Any]:
        meta = self._session.get_modelmeta()
        version = None if meta.version == VERSION_UNSAID else meta.version
        return {"framework": f"onnxruntime {ort.__version__}", "providers": self._session.get_providers(),
                **self._where, **self._io, "threads": self._threads, "batching": self._batching,
                "producer": meta.producer_name, "model_version": version}  # fmt: skip

    def _by_names(self, inputs: Sequence[str], outputs: Sequence[str]) -> Runs:
        return lambda arrays: self._session.run(outputs, dict(zip(inputs, arrays, strict=True)), run_options())

    def _runs(self, signature: Signature) -> Runs:
        run, maps = self._plain_runs(signature), {i: spec for i, spec in enumerate(signature.outputs) if spec.keys}
        if not maps:
            return run
        return lambda inputs: [columns(y, maps[i]) if i in maps else y for i, y in enumerate(run(inputs))]

    def _plain_runs(self, signature: Signature) -> Runs:
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
        specs = (*self.signature.inputs, *self.signature.outputs)
        if {spec.dtype for spec in specs} & {"bfloat16", "string"} or any(spec.keys for spec in specs):
            return None
        session, binding, options = self._session, self._session.io_binding(), run_options()
        for spec, array in zip(self.signature.inputs, inputs, strict=True):
            binding.bind_input(spec.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for spec, array in zip(self.signature.outputs, outputs, strict=True):
            binding.bind_output(spec.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        begin, bound = session.run_with_iobinding, binding
        if hasattr(session, "_sess") and hasattr(binding, "_iobinding"):  # as in `_runs`; the public one takes 75 us in 1.31
            begin, bound = session._sess.run_with_iobinding, binding._iobinding
        return BoundRun(partial(begin, bound, options), failed)


def the_runtime() -> Any:
    """The module, for those who may not import it."""
    return ort


def plain_options() -> Any:
    return ort.RunOptions()


def run_options() -> Any:
    options = ort.RunOptions()
    options.log_severity_level = FATAL
    return options


def failed(e: Exception) -> ModelFailed:
    return ModelFailed(f"onnxruntime: {short(e)}")


def session_of(file: Path, threads: int, wanted: list[Provider], runtime: Any) -> ort.InferenceSession:
    """Raises BadModel."""
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
