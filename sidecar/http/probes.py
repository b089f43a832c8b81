"""`/livez`, `/readyz` and `/startupz`: one line for machines, and with `?verbose` each condition, as Kubernetes' own.

Pure: snapshots in, conditions and text out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evenkeel.serve.contract.lifecycle import Condition, Verdict

BEAT_S_MAX = 10.0  # a watch loop that has not looked for this long has stopped; it looks about every 0.05 s


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer to one probe, and what it is made of."""

    name: str
    ok: bool
    conditions: tuple[Condition, ...]

    @property
    def status(self) -> int:
        return 200 if self.ok else 503

    def text(self, verbose: bool) -> str:
        if self.ok and not verbose:
            return "ok"
        lines = [f"[+]{c.name} ok" if c.ok else f"[-]{c.name} failed: {c.missing}" for c in self.conditions]
        return "\n".join([*lines, f"{self.name} check {'passed' if self.ok else 'failed'}"]) + "\n"


def live(beat_age_s: float) -> Probe:
    """Whether starting the container anew could help: only when the sidecar no longer watches. What else breaks is
    mended by the supervisor, faster than by anybody outside."""
    watching = beat_age_s <= BEAT_S_MAX
    missing = "" if watching else f"the sidecar has not looked for {beat_age_s:.0f} s"
    return Probe("livez", watching, (Condition("watching", watching, missing),))


def ready(verdict: Verdict, conditions: Sequence[Condition]) -> Probe:
    """The verdict that `/ping` gives decides, so that all say the same. The conditions are read a moment later: for one
    look of the watch loop they may be newer than the verdict."""
    first = Condition("verdict", verdict.ready, "" if verdict.ready else verdict.reason.code)
    return Probe("readyz", verdict.ready, (first, *conditions))


def started(all_proven: bool) -> Probe:
    missing = "" if all_proven else "not every replica has been ready since the container started"
    return Probe("startupz", all_proven, (Condition("started", all_proven, missing),))
