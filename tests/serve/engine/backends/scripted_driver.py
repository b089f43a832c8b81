"""A driver of a GPU whose target is the CPU, with the delays of a device: what was copied back is NaN until `wait`, so whoever
does not wait serves NaN; and what a recording gives is NaN until it is replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

H200, T4 = (9, 0), (7, 5)


class ScriptedDriver:
    target = "cpu"

    def __init__(self, why: str = "", capability: tuple[int, int] = H200) -> None:
        self._why, self._capability = why, capability
        self.did: list[str] = []
        self.tf32: bool | None = None
        self.fails = ""
        self._copies: list[tuple[Any, Any]] = []
        self.allocated, self.of_a_record = 0, 1 << 20
        self.forgotten = 0  # marks before the peak was forgotten
        self.cannot_record = ""

    def why_not(self) -> str:
        return self._why

    def capability(self) -> tuple[int, int]:
        return self._capability

    def name(self) -> str:
        return "Scripted"

    def memory_bytes(self) -> int:
        return 8 << 30

    def limit_memory(self, share: float) -> None:
        self.share = share

    def use_tf32(self, on: bool) -> None:
        self.tf32 = on

    def staging(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self.did.append(f"stage {dtype}".replace("torch.", ""))
        return torch.empty(shape, dtype=dtype)

    def to_device(self, staged: Any) -> Any:
        self.did.append("put")
        return staged.clone()

    def to_host(self, tensor: Any) -> Any:
        self.did.append("get")
        there = _unknown(tensor)
        self._copies.append((there, tensor))
        return there

    def mark(self) -> list[tuple[Any, Any]]:
        self.did.append("mark")
        copies, self._copies = self._copies, []
        return copies

    def wait(self, mark: list[tuple[Any, Any]]) -> None:
        self.did.append("wait")
        if self.fails:
            raise RuntimeError(self.fails)
        with torch.inference_mode():
            for there, tensor in mark:
                there.copy_(tensor)

    def record(self, compute: Callable[[], list[Any]]) -> tuple[Callable[[], None], list[Any]]:
        self.did.append("record")
        if self.cannot_record:
            raise RuntimeError(self.cannot_record)
        self.allocated += self.of_a_record
        gives = [_unknown(t) for t in compute()]

        def replay() -> None:
            self.did.append("replay")
            for place, now in zip(gives, compute(), strict=True):
                place.copy_(now)

        return replay, gives

    def used_bytes(self) -> tuple[int, int]:
        """A megabyte, and at the peak one more for each batch since that was forgotten."""
        return 1 << 20, (1 + self.did.count("mark") - self.forgotten) << 20

    def forget_peak(self) -> None:
        self.forgotten = self.did.count("mark")

    def allocated_bytes(self) -> int:
        return self.allocated


def _unknown(tensor: Any) -> Any:
    return torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else torch.zeros_like(tensor)
