"""What an engine is told when it is to load a model: the arguments of the command `load`. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NUMBER_MAX = (1 << 32) - 1  # of a model and of a generation: records have so much room for each


@dataclass(frozen=True, slots=True)
class ModelOrder:
    """`number` is the model's in its engine, `generation` counts the loadings under that number; records name both."""

    folder: str
    number: int
    generation: int
    name: str = ""  # of the model and its version, where folders are called by them; empty: as the manifest says
    version: str = ""
    program: str = ""  # the name of a handler's file, where it is not the usual one
    counters: int = 0  # where fronts count its answers
    rows_max: int = 0  # bound on a batch after one that did not fit into memory; 0: the model's own
    shape_log: str = ""  # file that says which shapes the last version met; empty: none
    faults: str = ""  # on purpose: EVENKEEL_FAULTS, empty for none

    def to_arguments(self) -> dict[str, Any]:
        """Without what is as it usually is: an argument that is given is not empty."""
        given = dataclasses.asdict(self)
        return {name: value for name, value in given.items() if name in REQUIRED or value}

    @staticmethod
    def from_arguments(arguments: Mapping[str, Any]) -> ModelOrder:
        return ModelOrder(**arguments)


REQUIRED: Mapping[str, type] = {"folder": str, "number": int, "generation": int}
OPTIONAL: Mapping[str, type] = {
    "name": str, "version": str, "program": str, "counters": int, "rows_max": int, "shape_log": str, "faults": str,
}  # fmt: skip
assert (REQUIRED | OPTIONAL).keys() == {f.name for f in dataclasses.fields(ModelOrder)}, "each field can be told"  # type: ignore[operator]
