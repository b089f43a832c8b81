"""Which models are loaded in this engine.

A model is known by its reference, number and generation in one word (transport/descriptor.py). One that is withdrawn takes
nothing new from that moment on, and stays until it has answered what it had taken.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from evenkeel.serve.transport.descriptor import number_of


class Entry(Protocol):
    ref: int

    @property
    def idle(self) -> bool: ...


E = TypeVar("E", bound=Entry)


class LoadedModels(Generic[E]):
    """`get`: who takes requests under this reference. `all`: those, and those that are leaving."""

    def __init__(self) -> None:
        self._taking: dict[int, E] = {}
        self._leaving: dict[int, E] = {}
        self.get = self._taking.get
        self.all: tuple[E, ...] = ()

    def add(self, entry: E) -> None:
        taken = [ref for ref in (*self._taking, *self._leaving) if number_of(ref) == number_of(entry.ref)]
        assert entry.ref not in taken, "each loading has a generation of its own"
        assert not any(ref in self._taking for ref in taken), "the model that has this number is withdrawn first"
        self._taking[entry.ref] = entry
        self._list()

    def withdraw(self, ref: int) -> E | None:
        """None: it is not loaded, or leaves already."""
        entry = self._taking.pop(ref, None)
        if entry is not None:
            self._leaving[ref] = entry
            self._list()
        return entry

    def owner(self, ref: int) -> E | None:
        """Of requests that were taken under this reference."""
        return self._taking.get(ref) or self._leaving.get(ref)

    def drop_idle(self) -> list[E]:
        """Those that were leaving and have nothing to do any more are gone."""
        idle = [entry for entry in self._leaving.values() if entry.idle]
        for entry in idle:
            del self._leaving[entry.ref]
        if idle:
            self._list()
        return idle

    @property
    def leaving(self) -> bool:
        return bool(self._leaving)

    def _list(self) -> None:
        self.all = (*self._taking.values(), *self._leaving.values())
