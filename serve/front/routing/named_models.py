"""Where requests go that name their model, in a container of many: by the table, and by what each engine says that it holds.

A model is in the table from the moment its engine takes requests for it; what the engine says of it may still lie unread in
the channel then, and is read. After the end of its engine it stays in the table while it is loaded again, and has no engine
meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evenkeel.serve.contract.model_table import LoadedNames
from evenkeel.serve.errors import NotFound
from evenkeel.serve.front.routing.destination import Destination

if TYPE_CHECKING:
    from evenkeel.serve.front.routing.engine_channel import EngineChannel, ServedVersion

SHOWN_CHARS = 100  # of a name, in a message


class NamedModels:
    """Owner of one destination a name that was asked for."""

    def __init__(self, names: LoadedNames) -> None:
        self.names = names
        self.links: Sequence[EngineChannel] = ()
        self._destinations: dict[str, Destination] = {}

    def find(self, name: str) -> Destination:
        """Its `model` is None while it is being loaded again. Raises NotFound."""
        row = self.names.find(name)
        if row is None:
            self._destinations.pop(name, None)
            raise not_loaded(name)
        link = self.links[row.place]
        model = link.models.get(row.ref)
        if model is None:
            link.look_again()
            model = link.models.get(row.ref)
        to = self._destinations.setdefault(name, Destination())
        if to.model is not model or bool(to.up) is link.mistrusted:
            to.serve(model, [] if model is None or link.mistrusted else [link])
        return to

    def holder(self, wanted: ServedVersion) -> EngineChannel | None:
        """The engine that holds the model of that name now, if its inputs are the same."""
        if self.why_not(wanted):
            return None
        to = self.find(wanted.name)
        return to.only if to.model is not None and to.model.takes(wanted) else None

    def why_not(self, wanted: ServedVersion) -> NotFound | None:
        """None where the model of that name is loaded, or is being loaded again."""
        try:
            self.find(wanted.name)
        except NotFound as e:
            return e
        return None


def not_loaded(name: str) -> NotFound:
    return NotFound(f"no model {name[:SHOWN_CHARS]!r} is loaded")
