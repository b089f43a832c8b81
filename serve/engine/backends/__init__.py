"""The backends, by the name a manifest gives. A framework is imported only when a model asks for its backend."""

from __future__ import annotations

from importlib import import_module

from serve.contract.manifest import BACKENDS
from serve.engine.backends.base import Loader
from serve.errors import BadModel


def loader(backend: str) -> Loader:
    """The `load` function of one backend. Raises BadModel when this image lacks what the backend needs."""
    assert backend in BACKENDS, f"the manifest lets only {BACKENDS} through, not {backend!r}"
    try:
        load: Loader = import_module(f"{__name__}.{backend}").load
    except ImportError as e:
        raise BadModel(
            f"backend = {backend!r} cannot start: {e}; use the image that carries this framework, or install it"
        ) from e
    return load
