"""The clock of a device on which a batch takes a second, and one that a graph runs `replay_s`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence


class ReplayClock:
    """`did`: what the device was asked to do so far, each replay among it as "replay" or "replay NUMBER"."""

    def __init__(self, did: Sequence[str], replay_s: float) -> None:
        self._did, self._replay_s, self._now_s, self._replays = did, replay_s, 0.0, 0

    def __call__(self) -> float:
        replays = replayed(self._did)
        self._now_s += self._replay_s if replays > self._replays else 1.0
        self._replays = replays
        return self._now_s


def every_batch_alike() -> Callable[[], float]:
    """The clock of a warm-up in which every batch takes as long as any other, so that larger ones pay, on a busy machine too."""
    looks = itertools.count()
    return lambda: 1e-4 * next(looks)


def replayed(did: Sequence[str]) -> int:
    return sum(what.startswith("replay") for what in did)
