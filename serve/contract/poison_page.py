"""The requests that ended engines, as fronts remember them on the status page: so that the same bytes end no other.

How it works. Each front has a ring of entries that only it writes, and all read. An entry is its fingerprint, when it was found,
and the revision of the model that it ended; its time is 0 while it is being written, so that nobody reads half of one. The ring
outlives the front's process, as all of the page does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from evenkeel.serve.contract.status_page import POISON_CELLS, StatusPage

REMEMBERED_MAX = 256  # of one model: the newest
REMEMBERED_S = 600.0
_CELLS = 5  # of an entry: revision, when, the sample, two of the digest
assert 1 + REMEMBERED_MAX * _CELLS <= POISON_CELLS, "the ring fits its place on the page"


class Fingerprint(NamedTuple):
    """`sample`: of some of the bytes, found quickly. `digest`: of all of them."""

    sample: int
    digest: bytes


class Poison(NamedTuple):
    found_s: float
    revision: int
    fingerprint: Fingerprint


def write(page: StatusPage, front: int, poison: Poison) -> None:
    """By that front alone."""
    ring = page.poisons(front)
    at = 1 + ring.count[0] % REMEMBERED_MAX * _CELLS
    ring.value[at + 1] = 0.0  # not to be read meanwhile
    ring.count[at] = poison.revision
    ring.count[at + 2] = poison.fingerprint.sample
    for i in (0, 1):
        ring.count[at + 3 + i] = int.from_bytes(poison.fingerprint.digest[8 * i : 8 * i + 8], "little")
    ring.value[at + 1] = poison.found_s
    ring.count[0] += 1


def remembered(page: StatusPage, fronts: Iterable[int], revision: int, now_s: float) -> list[Poison]:
    """Those of that revision that are not too old, the newest first."""
    poisons: list[Poison] = []
    for front in fronts:
        ring = page.poisons(front)
        for n in range(min(ring.count[0], REMEMBERED_MAX)):
            at = 1 + n * _CELLS
            found_s = ring.value[at + 1]
            if ring.count[at] == revision and found_s > now_s - REMEMBERED_S:
                digest = b"".join(ring.count[at + 3 + i].to_bytes(8, "little") for i in (0, 1))
                poisons.append(Poison(found_s, revision, Fingerprint(ring.count[at + 2], digest)))
    return sorted(poisons, reverse=True)[:REMEMBERED_MAX]
