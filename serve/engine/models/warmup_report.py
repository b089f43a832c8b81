"""What a warm-up did, as data: its plan as it went, its checks, and what people should know of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from evenkeel.serve.engine.models.convergence import Convergence
from evenkeel.serve.engine.models.golden import Golden

RESULTS = ("settled", "unsettled", "left_out")


@dataclass(frozen=True, slots=True)
class WarmupEntry:
    """One line of the plan, as it went. `runs` 0: there was no time left for it."""

    key: str
    rows: int
    runs: int
    seconds: float
    converged: bool

    @property
    def result(self) -> str:
        """One of RESULTS."""
        return "settled" if self.converged else "unsettled" if self.runs else "left_out"


@dataclass(slots=True)
class Report:
    """What warm-up did. `notes` are for people."""

    samples: int = 0  # that the model has
    plan: list[WarmupEntry] = field(default_factory=list)
    seconds: float = 0.0
    golden: Golden = field(default_factory=Golden)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # what its owner should do something about

    def record(self, key: str, rows: int, convergence: Convergence) -> None:
        """One entry of the plan, as it went."""
        self.plan.append(WarmupEntry(key, rows, convergence.runs, round(convergence.seconds, 5), convergence.settled))

    def leave_out(self, key: str, rows: int) -> None:
        """One for which there was no time left."""
        self.record(key, rows, Convergence())

    def to_json(self) -> dict[str, Any]:
        """`results`: how many of the plan ended how. The plan itself may be cut to what a page holds."""
        results = Counter(e.result for e in self.plan)
        return {"plan": [asdict(e) for e in self.plan], "results": {r: results[r] for r in RESULTS},
                "seconds": round(self.seconds, 4), "samples": self.samples, "golden": self.golden.to_json(),
                "notes": [*self.warnings, *self.notes]}  # fmt: skip
