"""One named rollout in the sidecar: what it is about, how far it is, and what is shown of it. Decides nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evenkeel.sidecar.rollout.checkpoint import Checkpoint
from evenkeel.sidecar.rollout.counters import Window
from evenkeel.sidecar.rollout.decision_record import holding
from evenkeel.sidecar.rollout.reasons import RolloutReason
from evenkeel.sidecar.rollout.rollout import Record, Rollout
from evenkeel.sidecar.rollout.rule import Arm
from evenkeel.sidecar.rollout.sources import Direct, Round, Source, targets
from evenkeel.sidecar.rollout.spec import RolloutSpec, Split

BODY_BYTES_MAX = 256 << 10  # of an instance's /metrics, which has 32 kB at most
WHY_CHARS_MAX = 300


@dataclass(slots=True)
class Case:
    """One named rollout. `rollout` and `start_s` are the thread's; the rest changes under the lock."""

    order: RolloutSpec
    source: Source
    rollout: Rollout
    named_s: float
    start_s: float | None  # of the first round; None while not all instances have answered
    due_s: float
    record: dict[str, Any]
    decided_s: float  # since when the verdict is this one
    trail: Mapping[str, Any]
    windows: tuple[Window, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)  # at the last look
    splits: list[Split] = field(default_factory=list)  # of stages that the thread has not begun yet
    stages: int = 0
    done: bool = False
    failed: str = ""  # what became of the last look, when it ended in an error of ours
    saving: bool = True

    @property
    def phase(self) -> str:
        if self.done or self.failed:
            return "ended" if self.done else "failed"
        return "waiting" if self.start_s is None else "judging"

    def is_due(self, now_s: float) -> bool:
        asked = bool(self.splits) and not self.failed  # a look that failed is tried again at its time, not at once
        return not self.done and (now_s >= self.due_s or asked)

    def shown(self) -> dict[str, Any]:
        judge = {"phase": self.phase, "missing": dict(self.missing)}
        changed = holding(RolloutReason.JUDGE_FAILED, self.failed, final=self.done) if self.failed else {}
        return {**self.record, **changed, "judge": judge}

    def take(self, answers: Round, at_s: float, began_s: float) -> Window | None:
        """The first round is one in which all have answered; when the time allowed has passed without it, that is a gap, or the
        end of a candidate that never came."""
        waited_s, rule = began_s - self.named_s, self.rollout.rule
        only_candidates = all(key.arm == Arm.CANDIDATE for key in answers.missing)
        wait_s_max = min(rule.max_s, rule.ready_s_max) if only_candidates else rule.max_s
        if self.start_s is None and answers.missing and waited_s < wait_s_max:
            return None
        if self.start_s is None:
            self.rollout.observe(0.0, answers.scrapes, tuple(answers.missing), answers.unread)
            self.start_s = began_s
            if not answers.missing:
                return None
            return self.rollout.observe(round(waited_s, 3), answers.scrapes, tuple(answers.missing), answers.unread)
        return self.rollout.observe(at_s, answers.scrapes, tuple(answers.missing), answers.unread)

    def tell(self, answers: Round, record: Record, began_s: float) -> None:
        """What the newest look has come to."""
        self.record, self.done, self.failed = record.to_json(), record.final, ""
        self.windows, self.trail = tuple(self.rollout.windows), self.rollout.trail.to_json()
        self.decided_s = decided_s(self.rollout, self.named_s, self.start_s, began_s)
        self.missing = {str(key): why[:WHY_CHARS_MAX] for key, why in answers.missing.items()}

    def progress(self) -> Checkpoint:
        return Checkpoint(self.order, self.named_s, self.start_s, self.rollout)


def begun(order: RolloutSpec, named_s: float) -> Case:
    """Raises CannotJudge for addresses that are none."""
    rollout = Rollout(order.rule(), order.split)
    record, trail = rollout.decision().to_json(), rollout.trail.to_json()
    return Case(order, source_of(order), rollout, named_s, None, named_s, record, named_s, trail)


def resumed(progress: Checkpoint, source: Source, now_s: float) -> Case:
    """As a predecessor has left it."""
    rollout, decision = progress.rollout, progress.rollout.decision()
    since_s = decided_s(rollout, progress.named_s, progress.start_s, now_s)
    case = Case(progress.order, source, rollout, progress.named_s, progress.start_s, now_s, decision.to_json(), since_s,
                rollout.trail.to_json(), tuple(rollout.windows), done=decision.final)  # fmt: skip
    case.stages = int(case.record["stage"])
    return case


def source_of(order: RolloutSpec) -> Source:
    return Direct(targets(order.arms()), order.timeout_s, order.model, BODY_BYTES_MAX, order.own, order.label)


def decided_s(rollout: Rollout, named_s: float, start_s: float | None, now_s: float) -> float:
    """When it came to its present verdict, by our clock: hold is what it says from the moment it is named."""
    if start_s is None or rollout.verdict_since_s <= 0:
        return named_s
    return min(now_s, start_s + rollout.verdict_since_s)
