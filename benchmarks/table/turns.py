"""The turns of a workload: first every answer is compared, then the windows follow each other in rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks import procs
from benchmarks.table.contenders import Contender
from benchmarks.table.ratios import DISTURBANCE_MAX
from benchmarks.table.running import ServerFailed
from benchmarks.table.windows import Window
from benchmarks.table.workloads import Workload

WARM_S_MAX = 2.0
QUIET_S_MAX = 0.5  # of some 450 waits in the short set
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    seconds: float
    say: Say
    note: Say


def take_turns(plan: Plan, workload: Workload, present: Sequence[Contender]) -> dict[str, list[Window]]:
    """The windows of each; a contender that fails leaves, and what it did before goes with it."""
    there = {c.name: c for c in present if _prepared(plan, workload, c)}
    found: dict[str, list[Window]] = {name: [] for name in there}
    for round_ in range(plan.rounds):
        for name in rotated(list(there), round_):
            procs.wait_until_quiet(DISTURBANCE_MAX, limit_s=QUIET_S_MAX)
            if window := _window(plan, workload, there[name], round_):
                found[name].append(window)
            else:
                del there[name], found[name]
    return found


def _prepared(plan: Plan, workload: Workload, contender: Contender) -> bool:
    try:
        contender.prepare(workload, min(plan.seconds, WARM_S_MAX))
    except ServerFailed as e:
        plan.note(f"{workload.name}: {contender.name} is left out: {e}")
        return False
    return True


def _window(plan: Plan, workload: Workload, contender: Contender, round_: int) -> Window | None:
    """None once it has failed."""
    try:
        window = contender.window(workload, round_, plan.seconds)
    except ServerFailed as e:
        plan.note(f"{workload.name}: {contender.name} is left out in round {round_ + 1}: {e}")
        return None
    plan.say(progress(window))
    return window


def rotated(names: Sequence[str], by: int) -> Iterator[str]:
    for i in range(len(names)):
        yield names[(i + by) % len(names)]


def progress(window: Window) -> str:
    flag = " disturbed" if window.disturbance > DISTURBANCE_MAX else ""
    failed = f" FAILED {window.failed}" if window.failed else ""
    return (
        f"{window.workload:16} {window.contender:22} #{window.round + 1} {window.rps:9.1f} requests/s"
        f"  p50 {window.load.p50_ms:8.2f}  p99 {window.load.p99_ms:8.2f} ms  cpu {window.cpu_us:8.1f} us"
        f"  steal {window.steal_cores:.2f} others {window.others_cores:.2f}{flag}{failed}"
    )
