"""The backends, by the name a manifest gives. A framework is imported only when a model asks for its backend."""

from __future__ import annotations

import sys
from importlib import import_module

from evenkeel.serve.engine.backends.base import Loader
from evenkeel.serve.errors import BadModel

MODULES = {"onnx": "onnx.onnx_load", "pytorch": "pytorch.torch_load", "handler": "handler.handler_backend", "echo": "echo"}
TORCH = "torch==2.13.0"  # that it was tried with, as the README says


def loader(backend: str) -> Loader:
    """The `load` function of one backend. Raises BadModel when this image lacks what the backend needs."""
    assert backend in MODULES, f"the manifest lets only {sorted(MODULES)} through, not {backend!r}"
    try:
        load: Loader = import_module(f"{__name__}.{MODULES[backend]}").load
    except ImportError as e:
        how = f"`{sys.executable} -m pip install {TORCH}`" if e.name == "torch" else "install it"
        raise BadModel(f"backend = {backend!r} cannot start: {e}; use the image that carries this framework, or {how}") from e
    return load
