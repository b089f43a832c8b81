"""`make chaos`: real trees are hurt under load, and every reply is counted; writes benchmarks/results/chaos-*.md.

The story of one round: a tree starts, the load begins, the case injects its fault a few times, the load ends in order,
and the tree is told to stop and must leave nothing behind. Rounds of a case repeat until its share of the time is over
or it has its number of injections. The exit code is 0 when nothing was lost and every bound held.

The long form, a million requests over random kills of engines:

    make chaos MINUTES=15 ARGS="--cases 'kill -9 of an engine' --requests 1000000"

usage: python -m benchmarks.chaos [--minutes 12] [--cases WORDS] [--requests N] [--seed N] [--no-table]
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from benchmarks.chaos_cases import CASES, Case, Stage, slow_start_folder, versions_folder
from benchmarks.chaos_hostile import HOSTILE, free_tensors_folder, handler_folder
from benchmarks.load import Failure, Load, Plan, Tally, tensors_folder
from benchmarks.markdown import table
from tests.support.tree import START_S, Tree, eventually

HERE = Path(__file__).resolve().parent
MINUTES_MAX = 15.0
AFTER_S = 0.3  # of load after the last injection
EXIT_S = 30.0  # what the platform grants from SIGTERM on
MODELS = {
    "tensors": tensors_folder, "free tensors": free_tensors_folder, "slow start": slow_start_folder,
    "versions": versions_folder, "handler": handler_folder,
}  # fmt: skip
ECHO_BYTES = ("slow start", "handler")  # they answer with the body itself


@dataclass(slots=True)
class Outcome:
    """One case, over all its rounds."""

    case: Case
    rounds: int = 0
    injected: int = 0
    sent: int = 0
    right: int = 0
    wrong: int = 0
    lost: Counter[str] = field(default_factory=Counter)  # by kind
    explained: Counter[str] = field(default_factory=Counter)
    longest_gap_s: float = 0.0
    noticed_s: list[float] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # rounds that did not end as they must

    def add(self, stage: Stage, tally: Tally) -> None:
        self.rounds += 1
        self.injected += len(stage.injected_s)
        self.sent += tally.sent
        self.right += tally.right
        self.longest_gap_s = max(self.longest_gap_s, tally.longest_gap_s)
        self.noticed_s += stage.noticed_s
        for failure in tally.failures:
            self._judge(failure, stage.injected_s)
        if tally.failed > len(tally.failures):
            self.lost["not told one by one"] += tally.failed - len(tally.failures)

    def _judge(self, failure: Failure, injected_s: list[float]) -> None:
        if failure.kind == "wrong":
            self.wrong += 1
        elif self.case.explains(failure, injected_s):
            self.explained[failure.kind] += 1
            return
        else:
            self.lost[failure.kind] += 1
        before_s = [failure.failed_s - t for t in injected_s if t <= failure.failed_s]
        after = f"{min(before_s):.3f} s after a fault" if before_s else "before any fault"
        waited_s, age_s = failure.failed_s - failure.sent_s, failure.failed_s - failure.opened_s
        what = f"{failure.kind}, {after}, {waited_s:.3f} s after it was sent, on a connection {age_s:.3f} s old"
        self.examples.append(f"{what}: {failure.detail}")

    @property
    def holds(self) -> bool:
        bound_s = self.case.bound_s
        in_time = bound_s is None or all(s <= bound_s for s in self.noticed_s)
        return not self.lost and not self.wrong and not self.broken and in_time


# ---- one round -------------------------------------------------------------------------------------------------------


def play(case: Case, folder: Path, seed: int) -> tuple[Stage, Tally, str]:
    """Returns what was done, what the clients saw, and how the tree ended wrongly, if it did."""
    model = MODELS[case.model](folder / case.model.replace(" ", "-"))
    with unread_pipe() if case.log_unread else nullcontext("") as log_to:
        return play_with(Tree(model, log_to, **case.settings), case, seed)


@contextmanager
def unread_pipe() -> Iterator[str]:
    """The path of a pipe whose other end is open, and that is all."""
    read_fd, write_fd = os.pipe()
    try:
        yield f"/proc/self/fd/{write_fd}"
    finally:
        os.close(write_fd)
        os.close(read_fd)


def play_with(tree: Tree, case: Case, seed: int) -> tuple[Stage, Tally, str]:
    stage = Stage(tree, None, random.Random(seed))
    plan = Plan(tree.port, seed=seed % 1000 + 1, echo_bytes=case.model in ECHO_BYTES)
    try:
        eventually(lambda: tree.ping() == 200 if case.loaded else tree.ping() != 0, "the data port answers", START_S)
        stage.load = Load(plan)
        stage.load.wait_begun()
        time.sleep(0.3)
        wrong = acted_wrongly(case, stage)
        if case.ends:
            wrong = wrong or ended_wrongly(tree, stage.injected_s[-1])
            return stage, stage.load.stop(), wrong
        time.sleep(AFTER_S)
        tally = stage.load.stop()
        if not wrong:
            tree.stop()
        return stage, tally, wrong
    finally:
        if stage.load is not None:
            stage.load.kill()
        tree.kill()


def acted_wrongly(case: Case, stage: Stage) -> str:
    """What did not come about as it must: told, and the load is still counted."""
    try:
        case.act(stage)
    except AssertionError as e:
        return str(e)[:300]
    return ""


def ended_wrongly(tree: Tree, told_s: float) -> str:
    """Whether a tree that was told to end has ended well and in time."""
    try:
        code = tree.process.wait(EXIT_S + 10)
        tree.assert_nothing_left()
    except (AssertionError, subprocess.TimeoutExpired) as e:
        return f"the tree did not leave well: {str(e)[:300]}"
    took_s = time.monotonic() - told_s
    if took_s > EXIT_S:
        return f"the tree took {took_s:.1f} s to leave"
    return f"exit code {code}" if code else ""


def run_case(case: Case, seconds: float, folder: Path, seed: int, rounds_max: int = 1000, requests: int = 0) -> Outcome:
    outcome = Outcome(case)
    end_s = time.monotonic() + seconds
    took_s = 0.0
    while outcome.rounds < rounds_max and (not case.target or outcome.injected < case.target or outcome.sent < requests):
        if outcome.rounds and time.monotonic() + took_s > end_s:
            break
        began_s = time.monotonic()
        stage, tally, wrong = play(case, folder, seed + outcome.rounds)
        outcome.add(stage, tally)
        if wrong:
            outcome.broken.append(wrong)
        took_s = time.monotonic() - began_s
        print(f"  {case.name}: {progress(outcome)}", flush=True)
    return outcome


def progress(o: Outcome) -> str:
    return (f"round {o.rounds}, {o.injected} faults, {o.sent} sent, {sum(o.lost.values())} lost, {o.wrong} wrong, "
            f"{sum(o.explained.values())} explained, gap {o.longest_gap_s:.2f} s")  # fmt: skip


# ---- the table -------------------------------------------------------------------------------------------------------

HEAD = ("fault", "injected", "requests sent", "right", "lost", "wrong", "explained", "longest gap, s", "zero lost proves",
        "slowest of what is timed, s")  # fmt: skip
HOW_TO_READ = """\
Every request has a payload of its own, and every reply is compared with it; no request is sent twice by the client.
**Lost**: no right answer, for a reason that the fault does not explain. **Explained**: connections that were open to a
killed front; 504 at the deadline of those who waited for the only engine while it hung, and 429 for who came then;
refusals before the container is ready, and after its quiet time. Requests that are at fault themselves are not of the load:
what they are told is checked, and a wrong word breaks the round. **Longest gap**: between two right answers, whichever client got
them; where one process ends again and again it holds the supervisor's pause before the next start, up to 5 s. **Zero lost
proves**: with 95 % confidence the share of lost requests is below this (3/n, n requests sent). **Timed**: how long a hang went
unnoticed; how long a new `/ping` took; after how long a request that cannot be served was refused."""


def row(o: Outcome) -> tuple[str, ...]:
    noticed = f"{max(o.noticed_s):.2f} (bound {o.case.bound_s:g})" if o.noticed_s and o.case.bound_s else ""
    lost, clean = sum(o.lost.values()), not o.lost and not o.wrong
    return (
        o.case.name + ("" if o.holds else " (!)"), str(o.injected), f"{o.sent:,}", f"{o.right:,}",
        counted(o.lost) if lost else "0", str(o.wrong), counted(o.explained) or "0", f"{o.longest_gap_s:.2f}",
        f"< {3 / o.sent:.1e}" if clean and o.sent else "", noticed)  # fmt: skip


def counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{n} × {kind}" for kind, n in kinds.most_common())


def together(outcomes: Sequence[Outcome]) -> str:
    kills = [o for o in outcomes if o.case.name.startswith("kill -9 of") and "engine" in o.case.name]
    lines = [
        f"All faults: {sum(o.injected for o in outcomes)} injected, {sum(o.sent for o in outcomes):,} requests sent, "
        f"{sum(sum(o.lost.values()) for o in outcomes)} lost, {sum(o.wrong for o in outcomes)} wrong."
    ]
    if kills:
        sent, lost = sum(o.sent for o in kills), sum(sum(o.lost.values()) for o in kills)
        bound = "" if lost else f" (with 95 % confidence less than {3 / sent:.1e} are lost)"
        lines.append(f"Engine kills: {sum(o.injected for o in kills)}, {sent:,} requests sent, {lost} lost{bound}.")
    return "\n".join(lines)


def markdown(outcomes: Sequence[Outcome], facts: Sequence[tuple[str, str]], stem: str) -> str:
    parts = [f"# Chaos {stem.removeprefix('chaos-')}", *table(("", ""), facts), together(outcomes),
             *table(HEAD, [row(o) for o in outcomes]), HOW_TO_READ]  # fmt: skip
    notes = [f"- {o.case.name}: {text}" for o in outcomes for text in [*o.broken, *o.examples[:5]]]
    return "\n\n".join([*parts, *(["## What went wrong", "\n".join(notes)] if notes else [])]) + "\n"


def facts(minutes: float, seed: int) -> list[tuple[str, str]]:
    return [
        ("machine", f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"),
        ("run", f"{minutes:g} minutes, seed {seed}"),
        ("load", "24 connections, closed loop with pauses up to 10 ms, JSON of 1 and 3 rows and NPY of 2"),
        ("model", "echo of float32 rows; 5 % of the batches take 20 ms longer"),
    ]


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    return found or "uncommitted"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--minutes", type=float, default=12.0, help=f"for everything, at most {MINUTES_MAX:g}")
    parser.add_argument("--cases", default="", help="only those whose name holds this text")
    parser.add_argument("--requests", type=int, default=0, help="inject on, beyond a case's number, until so many were sent")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--no-table", action="store_true", help="write no file")
    args = parser.parse_args(argv)
    if not 0 < args.minutes <= MINUTES_MAX:
        parser.error(f"--minutes {args.minutes:g} must be above 0 and at most {MINUTES_MAX:g}")
    chosen = [c for c in (*CASES, *HOSTILE) if args.cases in c.name and c.least_minutes <= args.minutes]
    folder = Path(tempfile.mkdtemp(prefix="ekc-"))
    try:
        outcomes = run_all(chosen, args.minutes * 60, folder, args.seed, args.requests)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    stem = f"chaos-{date.today().isoformat()}-{commit()}"
    text = markdown(outcomes, facts(args.minutes, args.seed), stem)
    print(text)
    if not args.no_table:
        (HERE / "results" / f"{stem}.md").write_text(text)
        print(f"written: benchmarks/results/{stem}.md")
    return 0 if all(o.holds for o in outcomes) else 1


def run_all(cases: Sequence[Case], seconds: float, folder: Path, seed: int, requests: int = 0) -> list[Outcome]:
    """What one case leaves of its time goes to those after it. `requests`: over all cases, for those that end by a number."""
    outcomes: list[Outcome] = []
    end_s = time.monotonic() + seconds
    for i, case in enumerate(cases):
        left_s = max(0.0, end_s - time.monotonic())
        share = case.share / sum(c.share for c in cases[i:])
        print(f"{case.name}: {left_s * share:.0f} s of {left_s:.0f} s left (seed {seed})", flush=True)
        outcomes.append(run_case(case, left_s * share, folder, seed + 100 * i, requests=requests // len(cases)))
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
