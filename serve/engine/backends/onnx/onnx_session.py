"""Sessions of ONNX Runtime: by the best providers that take the model, or by what is left without them."""

from __future__ import annotations

from typing import Any

from evenkeel.serve.contract import fingerprint
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.backends.onnx import providers
from evenkeel.serve.engine.backends.onnx.onnx_backend import session_of
from evenkeel.serve.engine.backends.onnx.providers import Provider
from evenkeel.serve.errors import BadModel


def recording_session(manifest: Manifest, options: LoadOptions, wanted: list[Provider], runtime: Any) -> Any | None:
    """One that can record CUDA graphs, where they are asked for and the model runs on the GPU as a whole."""
    if not manifest.gpu.graphs:
        return None
    assert manifest.file is not None, "see load"
    try:
        return session_of(manifest.file, manifest.threads or options.threads, providers.recording(wanted), runtime)
    except BadModel as e:
        log("graphs_off", f"gpu.graphs = true, but onnxruntime cannot record this model: {e.message}", level="warning")
        return None


def best_session(manifest: Manifest, options: LoadOptions, wanted: list[Provider], runtime: Any) -> Any:
    """By the providers wanted, or, where that is allowed, by what is left without the best. Raises BadModel."""
    assert manifest.file is not None, "see load"
    threads = manifest.threads or options.threads
    try:
        return session_of(manifest.file, threads, wanted, runtime)
    except BadModel as e:
        if len(wanted) == 1 or options.require_gpu:
            raise
        log("provider_failed", f"{providers.WORDS[wanted[0][0]]} does not take the model: {e.message}", level="warning")
    return best_session(manifest, options, wanted[1:], runtime)


def engine_cache(manifest: Manifest, options: LoadOptions) -> str:
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
