"""What comes of a wish for a version, in words for the one who asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.container.plan.memory_fit import MemoryFit
from evenkeel.container.versions.blue_green import Revision, RevisionState


@dataclass(frozen=True, slots=True)
class WishAnswer:
    """`how`: stays, at once, beside or in place."""

    how: str
    why: str


def without_a_load(version: str, serving: str, wanted: str, other: Revision | None, fit: MemoryFit) -> WishAnswer | None:
    """For a version whose engines are here; None: it has to be loaded. `other`: what the other slot holds and goes on holding."""
    if version == serving:
        given_up = f", the swap to {wanted} is given up" if wanted != version else ""
        return WishAnswer("stays", f"version {version} serves already{given_up}")
    if other is None or other.version != version:
        return None
    if other.state is RevisionState.PREVIOUS:
        return WishAnswer("at once", f"version {version} is warm: fronts switch without a load")
    return WishAnswer(how(fit), f"version {version} is on its way already")


def with_a_load(version: str, fit: MemoryFit, *, steady: bool) -> WishAnswer:
    gap = "" if fit.beside else "; requests wait meanwhile, up to their deadline, and /ping says 503"
    after = "" if steady else ", after the swap that is under way"
    return WishAnswer(how(fit), f"version {version} loads {fit.why}{gap}{after}")


def how(fit: MemoryFit) -> str:
    return "beside" if fit.beside else "in place"
