"""From a folder to a replica that is loaded, and neither warm nor proven yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel.serve.contract import manifest as manifests
from evenkeel.serve.contract.logline import log
from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.models import replica as replicas

if TYPE_CHECKING:
    from evenkeel.serve.contract.model_order import ModelOrder
    from evenkeel.serve.engine.models.replica import Replica
    from evenkeel.serve.engine.models.startup import Ledger
    from evenkeel.serve.settings import EngineSettings


def loaded(settings: EngineSettings, order: ModelOrder, ledger: Ledger) -> Replica:
    """As an engine loads it, and so does `evenkeel check`. Raises BadModel."""
    cache = Path(settings.cache_dir) if settings.cache_dir else None
    options = LoadOptions(
        settings.threads, settings.device, settings.sharers, settings.require_gpu, ledger, True, settings.hugging_face, cache
    )
    replica = replicas.load(Path(order.folder), options, order.name, order.version, order.program)
    others = manifests.unused(replica.manifest)
    if others:
        log("unused_models", f"also here and not used: {', '.join(others)}; file = in model.toml says which one serves",
            level="warning")  # fmt: skip
    return replica
