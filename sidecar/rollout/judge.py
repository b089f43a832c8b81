"""`evenkeel judge`: polls the arms, shows the evidence as it grows, prints the verdict, writes the replay log and a plot.

Exit codes: 0 promote, 1 roll back, 2 hold, 3 could not judge, 130 interrupted too early. Only what was shown to be good exits 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from evenkeel.sidecar.rollout import judge_options, plot, replay
from evenkeel.sidecar.rollout.decision_server import DecisionServer, listening
from evenkeel.sidecar.rollout.judge_errors import BadLog, CannotJudge
from evenkeel.sidecar.rollout.reasons import RolloutVerdict
from evenkeel.sidecar.rollout.rollout import Record, Rollout
from evenkeel.sidecar.rollout.rule import Arm, Rule
from evenkeel.sidecar.rollout.sources import Direct, Prometheus, Round, Source, targets
from evenkeel.sidecar.rollout.spec import RolloutSpec, check_numbers

EXIT = {RolloutVerdict.PROMOTE: 0, RolloutVerdict.ROLLBACK: 1, RolloutVerdict.HOLD: 2}
COULD_NOT_JUDGE = 3
INTERRUPTED = 128 + signal.SIGINT


class Clock(Protocol):
    def now_s(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class RealClock:
    def now_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def source_of(args: argparse.Namespace, order: RolloutSpec) -> Source:
    given = order.arms()
    if args.prometheus:
        if any(len(names) > 1 for names in given.values()):
            raise CannotJudge("with --prometheus each arm is one selector")
        selectors = {arm: names[0] for arm, names in given.items()}
        return Prometheus(args.prometheus, selectors, order.timeout_s, args.instance_label, order.model, order.own, order.label)
    return Direct(targets(given), order.timeout_s, order.model, own=order.own, strata=order.label)


@dataclass(frozen=True, slots=True)
class JudgeOutput:
    """Where lines for people go."""

    write: Callable[[str], Any]
    quiet: bool

    def begins(self, rule: Rule, window_s: float) -> None:
        if not self.quiet:
            earliest, latest = (f"{seconds / 60:g} min" for seconds in (rule.stage_s_min, rule.max_s))
            self.write(f"comparing candidate and {rule.reference}: a look every {window_s:g} s, a promotion after {earliest} "
                       f"at the earliest, a verdict after {latest} at the latest")  # fmt: skip

    def look(self, record: Record, missing: Sequence[str]) -> None:
        if self.quiet:
            return
        data = record.to_json()
        for why in missing:
            self.write(f"{data['elapsed_s']:7.0f} s  missing: {why}")
        for name, m in data["metrics"].items():
            self.write(f"{data['elapsed_s']:7.0f} s  {name:22} {evidence(m)}")
        reasons = ", ".join(dict.fromkeys(r["code"] for r in data["reasons"]))
        self.write(f"{data['elapsed_s']:7.0f} s  {data['decision']}: {reasons}")

    def waiting(self, waited_s: float, missing: Sequence[str]) -> None:
        if not self.quiet:
            for why in missing:
                self.write(f"{waited_s:7.0f} s  waiting for the candidate: {why}")

    def verdict(self, record: dict[str, Any]) -> None:
        self.write(f"{record['decision']} after {record['elapsed_s']:.0f} s, {record['windows']} windows")
        for reason in record["reasons"]:
            self.write(f"  {reason['code']} ({reason['about']}): {reason['words']}")
        for name, m in record["metrics"].items():
            self.write(f"  {name:22} {evidence(m)}")
        if record["flags"]:
            self.write(f"  flags: {', '.join(record['flags'])}")


def evidence(m: dict[str, Any]) -> str:
    """One metric in one line."""
    c, r, ratio = m["candidate"], m["reference"], m["ratio"]
    high = "" if ratio["high"] is None else f"{ratio['high']:.3g}"
    good = max(m["not_worse_e"], m["within_budget_e"] or 0.0)
    return (
        f"{c['bad']}/{c['requests']} against {r['bad']}/{r['requests']}, ratio {ratio['low']:.3g}..{high or '?'}, "
        f"worse {m['count_e']:.3g} and {m['sign_e']:.3g} of {m['rollback_at']:.4g}, good {good:.3g} of {m['promote_at']:g}"
    )


def watch(rollout: Rollout, source: Source, window_s: float, clock: Clock, show: JudgeOutput) -> Iterator[Record]:
    """Look every window_s; gives the record after each look. Raises CannotJudge when a reference does not answer at first."""
    start_s, first = _first(rollout, source, window_s, clock, show)
    rollout.observe(0.0, first.scrapes, tuple(first.missing), first.unread)
    looks = 0
    if first.missing:  # for the last time allowed
        waited_s = round(wait_s_max(rollout.rule), 3)
        rollout.observe(waited_s, first.scrapes, tuple(first.missing), first.unread)
        record = rollout.decision()
        show.look(record, tuple(first.missing.values()))
        yield record
        return
    while True:
        looks += 1
        clock.sleep(max(0.0, start_s + looks * window_s - clock.now_s()))
        at_s = round(clock.now_s() - start_s, 3)
        answers = source.look(at_s)
        rollout.observe(at_s, answers.scrapes, tuple(answers.missing), answers.unread)
        record = rollout.decision()
        show.look(record, tuple(answers.missing.values()))
        yield record


def wait_s_max(rule: Rule) -> float:
    """How long a candidate may take to answer at all."""
    return min(rule.ready_s_max, rule.max_s)


def _first(rollout: Rollout, source: Source, window_s: float, clock: Clock, show: JudgeOutput) -> tuple[float, Round]:
    """The first round, and when it was: one that all have answered, or, when the candidate had time enough to start, the last
    one without it."""
    began_s = start_s = clock.now_s()
    while True:
        answers = source.look(0.0)
        for key, why in answers.missing.items():
            if key.arm != Arm.CANDIDATE or key not in answers.unreachable:
                raise CannotJudge(why)
        if start_s == began_s:
            show.begins(rollout.rule, window_s)
        if not answers.missing or start_s - began_s >= wait_s_max(rollout.rule):
            return start_s, answers
        show.waiting(start_s - began_s, tuple(answers.missing.values()))
        clock.sleep(min(window_s, max(0.0, began_s + wait_s_max(rollout.rule) - clock.now_s())))
        start_s = clock.now_s()


def had_data(record: Record) -> bool:
    return any(arm["requests"] for arm in record.to_json()["signals"].values())


def run_live(args: argparse.Namespace, clock: Clock, show: JudgeOutput) -> tuple[dict[str, Any], Rollout]:
    if not args.candidate or not (args.baseline or args.production):
        raise CannotJudge("give --candidate and --baseline (or --production), or --replay")
    order = judge_options.order_of(args, time.strftime("rollout-%Y%m%dT%H%M%SZ", time.gmtime()))
    check_numbers(order)
    rollout = Rollout(order.rule(), order.split)
    source = source_of(args, order)
    record = rollout.decision()
    board = DecisionServer(record.to_json())
    try:
        with listening(args.listen, board) if args.listen else nullcontext() as address:
            if address and not show.quiet:
                show.write(f"listening on {address}")
            for record in watch(rollout, source, args.window_s, clock, show):
                board.record = record.to_json()
                # A controller that asks by itself may ask again at its next step, so the judge stays with it.
                if record.final or (record.verdict == RolloutVerdict.PROMOTE and not args.listen):
                    break
            while args.listen:
                clock.sleep(args.window_s)
    except KeyboardInterrupt:
        record = rollout.decision()
        if not had_data(record):
            raise
    if record.verdict == RolloutVerdict.HOLD and not had_data(record):
        raise CannotJudge(f"no instance served a single request in {record.to_json()['elapsed_s']:.0f} s")
    return record.to_json(), rollout


def run_replay(path: Path, show: JudgeOutput) -> replay.Replay:
    try:
        with path.open(encoding="utf-8") as lines:
            log_read = replay.read(lines)
    except (OSError, UnicodeDecodeError) as e:
        raise BadLog(f"{path}: {e.strerror if isinstance(e, OSError) else e}") from e
    except BadLog as e:
        raise BadLog(f"{path}: {e.message}") from e
    if log_read.recorded is not None and not log_read.agrees:
        raise BadLog(
            f"{path}: the recorded decision is {log_read.recorded.get('decision')!r}, but its windows do not give that record"
        )
    return log_read


def save(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise CannotJudge(f"cannot write {path}: {e.strerror}") from e


def judge(argv: Sequence[str], clock: Clock, write: Callable[[str], Any]) -> int:
    args = judge_options.parsed(argv)
    show = JudgeOutput(write, quiet=args.quiet or args.json)
    if args.only_check:
        check_numbers(judge_options.order_of(args, "check"))
        return 0
    if args.plan:
        write(judge_options.planned(args))
        return 0
    if args.replay:
        outcome = run_replay(Path(args.replay), show)
        record, rule, lines = outcome.decision, outcome.rule, outcome.lines
    else:
        record, rollout = run_live(args, clock, show)
        rule, lines = rollout.rule, replay.recompute(rollout.rule, tuple(rollout.windows)).lines
        log = Path(args.log or f"{rule.rollout}.jsonl")
        save(log, "\n".join(rollout.log()) + "\n")
    picture = Path(args.plot) if args.plot else None if args.replay else Path(f"{rule.rollout}.svg")
    if picture:
        save(picture, plot.svg(rule, lines, record["decision"], record["elapsed_s"]))
    if args.json:
        write(replay.line(record))
    else:
        show.verdict(record)
        if not args.replay:
            write(f"  replay log {log}, plot {picture}")
    return EXIT[RolloutVerdict(record["decision"])]


def main(argv: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ask for the verdict as it stands
    try:
        return judge(sys.argv[1:] if argv is None else argv, RealClock(), lambda line: print(line, flush=True))
    except CannotJudge as e:
        print(f"evenkeel judge: {e.message}", file=sys.stderr)
    except BrokenPipeError:  # nobody reads the evidence any more; Python would complain once more when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:  # once more, or before there was a verdict to give
        print("evenkeel judge: interrupted before there was a verdict", file=sys.stderr)
        return INTERRUPTED
    except Exception as e:  # a bug of ours must not look like a verdict; its words may be an instance's, so they are not shown
        place = traceback.extract_tb(e.__traceback__)[-1]
        print(f"evenkeel judge: an error of ours: {type(e).__name__} in {place.filename}:{place.lineno}", file=sys.stderr)
    return COULD_NOT_JUDGE


if __name__ == "__main__":
    sys.exit(main())
