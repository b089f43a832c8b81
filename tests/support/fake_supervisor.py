"""A supervisor that the sidecar asks, as far as a test needs one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evenkeel.serve.contract.commands import CommandError, Result, Verb


class FakeSupervisor:
    """Remembers what it was asked. `refusal`: what it says to all of it, where it is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[Verb, Mapping[str, Any]]] = []
        self.refusal: CommandError | None = None

    def ask(self, verb: Verb, arguments: Mapping[str, Any], within_s: float) -> Result:
        self.asked.append((verb, arguments))
        if self.refusal is not None:
            raise self.refusal
        if verb is Verb.DRAIN:
            return {"already": self.drains > 1}
        return {"how": "beside", "why": "there is room", "serving": "1"}

    @property
    def drains(self) -> int:
        return sum(verb is Verb.DRAIN for verb, _ in self.asked)
