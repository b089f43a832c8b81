"""Where the requests of one model go: the version of it that answers, and which engines of that version take requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evenkeel.serve.front.routing.engine_channel import EngineChannel, ServedVersion


@dataclass(slots=True, eq=False)
class Destination:
    """Kept up to date by the router. `model`: None until an engine of it has greeted. `only`: the engine that is up, if exactly
    one is."""

    model: ServedVersion | None = None
    up: list[EngineChannel] = field(default_factory=list)
    only: EngineChannel | None = None

    @staticmethod
    def of(model: ServedVersion, link: EngineChannel) -> Destination:
        """One engine, whatever else serves."""
        return Destination(model, [link], link)

    def serve(self, model: ServedVersion | None, up: list[EngineChannel]) -> None:
        self.model, self.up = model, up
        self.only = up[0] if len(up) == 1 else None
