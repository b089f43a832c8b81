"""From a file to a backend: which providers of ONNX Runtime a model gets on this machine, and what is done without the best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.backends.formats import kind_of
from evenkeel.serve.engine.backends.gpu import cuda_runtime, device_memory
from evenkeel.serve.engine.backends.gpu.assigned_device import unused
from evenkeel.serve.engine.backends.gpu.cuda_runtime import Runtime
from evenkeel.serve.engine.backends.onnx import onnx_device, providers
from evenkeel.serve.engine.backends.onnx.onnx_backend import OnnxBackend, the_runtime
from evenkeel.serve.engine.backends.onnx.onnx_device import OnnxTransfers
from evenkeel.serve.engine.backends.onnx.onnx_on_device import backend_of
from evenkeel.serve.engine.backends.onnx.onnx_session import best_session, engine_cache, recording_session
from evenkeel.serve.errors import BadModel


def load(
    manifest: Manifest, options: LoadOptions, runtime: Any = None,
    gpu_bytes: Callable[[], int | None] = device_memory.memory_bytes, cuda: Callable[[], Runtime] = cuda_runtime.opened,
) -> OnnxBackend:  # fmt: skip
    """`runtime`: the module, or what stands for it in a test of the providers that this machine has not; so the others."""
    assert manifest.file is not None, "the manifest names a file for every backend but echo"
    runtime = runtime or the_runtime()
    _, text = kind_of(manifest.file)
    if text:
        raise BadModel(f"{manifest.file} is not an ONNX model but {text}")
    available = runtime.get_available_providers() if options.device else []
    total = gpu_bytes() if options.device else None
    wanted = providers.wanted(manifest.gpu, options.device, available, total, options.sharers, engine_cache(manifest, options))
    device: OnnxTransfers | str = ""
    if len(wanted) > 1:
        runtime.preload_dlls(directory="")  # CUDA and cuDNN from NVIDIA's wheels, where no path leads to them
        device = onnx_device.chosen(cuda)
        wanted = wanted if isinstance(device, str) else providers.on_stream(wanted, device.computes)
    recording = None if isinstance(device, str) else recording_session(manifest, options, wanted, runtime)
    session = recording or best_session(manifest, options, wanted, runtime)
    why = providers.why_not(manifest.gpu, options.device, available, session.get_providers())
    if why:
        unused(options, why)
    graphs_bytes = providers.limit_bytes(manifest.gpu, total, options.sharers) if recording else 0
    return backend_of(session, manifest, options, device, graphs_bytes)
