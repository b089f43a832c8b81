"""One model of a container of many: its name, where it is loaded, and what is being done with it. The states are a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from evenkeel.container.supervise.command_link import AskedCommand
from evenkeel.serve.contract.commands import Later
from evenkeel.serve.contract.model_order import ModelOrder

PlacedState = Enum("PlacedState", "WAITING LOADING LOADED UNLOADING GONE")
NEXT: dict[PlacedState, frozenset[PlacedState]] = {
    PlacedState.WAITING: frozenset({PlacedState.LOADING, PlacedState.GONE}),  # for its turn, or for its engine
    PlacedState.LOADING: frozenset({PlacedState.LOADED, PlacedState.WAITING, PlacedState.GONE}),
    PlacedState.LOADED: frozenset({PlacedState.UNLOADING, PlacedState.WAITING}),  # its engine has ended: it is loaded again
    PlacedState.UNLOADING: frozenset({PlacedState.GONE}),
    PlacedState.GONE: frozenset(),
}


def step(state: PlacedState, target: PlacedState) -> PlacedState:
    """The next state, or ValueError for a step that the table does not have."""
    if target not in NEXT[state]:
        raise ValueError(f"illegal transition {state.name} -> {target.name}")
    return target


@dataclass(slots=True, eq=False)
class PlacedModel:
    """`was_loaded`: its load was answered with success, so it is listed until somebody wants it gone. `leaves`: somebody does."""

    name: str
    url: str
    folder: str
    number: int
    place: int  # of its engine
    state: PlacedState = PlacedState.WAITING
    generation: int = 0
    epoch: int = 0  # the life of the engine in which it was asked for last
    was_loaded: bool = False
    leaves: bool = False
    asked: AskedCommand | None = None
    waits: list[Later] = field(default_factory=list)  # who is to be told what comes of it

    def become(self, target: PlacedState) -> None:
        self.state = step(self.state, target)

    def order(self) -> ModelOrder:
        return ModelOrder(self.folder, self.number, self.generation, name=self.name)
