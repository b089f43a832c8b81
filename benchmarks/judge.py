"""How often the judge errs and how fast it is, by simulation: false rollbacks, false promotions, time to detection.

Many rollouts are run side by side as arrays (judge_rule.py, which a test holds to the product); what concerns single instances
runs through the product's own code (judge_fleet.py). A piece of the table is measured at a time, so that no command takes long:

    .venv/bin/python -m benchmarks.judge --piece rollback [--runs 5000] [--out benchmarks/results/judge.jsonl]
    .venv/bin/python -m benchmarks.judge --page benchmarks/results/judge.jsonl    # the table of all pieces
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks import judge_fleet, judge_others
from benchmarks.judge_report import Target, page
from benchmarks.judge_rule import Array, Counts, Outcome, judge
from benchmarks.judge_traffic import QUIET, Scenario, Trouble, simulate
from evenkeel.sidecar.rollout.rule import ERRORS, Rule
from evenkeel.sidecar.rollout.spec import UNANSWERED_SHARE

RULE = Rule("simulation", unanswered_share=UNANSWERED_SHARE)  # as shipped: errors beside two edges and unanswered requests
NO_BASELINE = replace(RULE, margin=1.25)
CHUNK = 2500  # runs at a time
EDGE = "slower_than_1ms"  # any name but that of the errors

BURSTS = {
    "bursts of one arm, 30 s x 30 every 10 min, base 0.1 %": (0.001, Trouble(burst_every_s=600, burst_s=30, burst_times=30)),
    "bursts of one arm, 30 s x 10 every 10 min, base 1 %": (0.01, Trouble(burst_every_s=600, burst_s=30, burst_times=10)),
    "bursts of one arm, 30 s x 5 every 10 min, base 5 %": (0.05, Trouble(burst_every_s=600, burst_s=30, burst_times=5)),
    "bursts of one arm, 3 min x 20 every 30 min, base 0.1 %": (0.001, Trouble(burst_every_s=1800, burst_s=180, burst_times=20)),
    "bursts of one arm, 3 min x 10 every 30 min, base 1 %": (0.01, Trouble(burst_every_s=1800, burst_s=180, burst_times=10)),
}
HEAVY = {
    "heavy noise (cv 1, rho 0.8), base 0.1 %": (0.001, Trouble(cv=1.0)),
    "heavy noise (cv 1, rho 0.8), base 1 %": (0.01, Trouble(cv=1.0)),
    "heavy noise (cv 1, rho 0.8), base 5 %": (0.05, Trouble(cv=1.0)),
}
# Bursts of other lengths and heights, and noise that lasts longer: they have no bar of their own.
MORE = {
    "bursts of one arm, 30 s x 50 every 10 min, base 1 %": (0.01, Trouble(burst_every_s=600, burst_s=30, burst_times=50)),
    "bursts of one arm, 30 s x 30 every 5 min, base 0.1 %": (0.001, Trouble(burst_every_s=300, burst_s=30, burst_times=30)),
    "bursts of one arm, 1 min x 20 every 10 min, base 0.1 %": (0.001, Trouble(burst_every_s=600, burst_s=60, burst_times=20)),
    "bursts of one arm, 2 min x 20 every 20 min, base 0.1 %": (0.001, Trouble(burst_every_s=1200, burst_s=120, burst_times=20)),
    "bursts of one arm, 3 min x 50 every 30 min, base 0.1 %": (0.001, Trouble(burst_every_s=1800, burst_s=180, burst_times=50)),
    "bursts of one arm, 3 min x 20 every 20 min, base 0.1 %": (0.001, Trouble(burst_every_s=1200, burst_s=180, burst_times=20)),
    "bursts of one arm, 4 min x 20 every 30 min, base 0.1 %": (0.001, Trouble(burst_every_s=1800, burst_s=240, burst_times=20)),
    "noise that lasts longer (cv 1, rho 0.9), base 1 %": (0.01, Trouble(cv=1.0, rho=0.9)),
    "milder noise that lasts for minutes (cv 0.5, rho 0.95), base 1 %": (0.01, Trouble(cv=0.5, rho=0.95)),
    "instance offset x 1.3 and noise (cv 0.5, rho 0.8), base 1 %": (0.01, Trouble(offset=1.3, cv=0.5)),
}
OUTAGES = {
    "both fail 5 %, 30 s": Trouble(outage_at_s=100, outage_s=30, outage_share=0.05),
    "both fail 20 %, 10 s": Trouble(outage_at_s=100, outage_s=10, outage_share=0.2),
    "both fail 50 %, 30 s": Trouble(outage_at_s=100, outage_s=30, outage_share=0.5),
    "both fail 100 %, 60 s": Trouble(outage_at_s=100, outage_s=60, outage_share=1.0),
}

Hit = Callable[[Counts, Outcome], tuple[Array, Array]]  # which runs count, and which of them hit


def rolled_back(_: Counts, o: Outcome) -> tuple[Array, Array]:
    return np.ones(len(o.rollback_s), bool), o.rolled_back


def promoted(_: Counts, o: Outcome) -> tuple[Array, Array]:
    return np.ones(len(o.rollback_s), bool), o.promoted


def promoted_though_worse(least: float) -> Hit:
    """Among the runs in which the half hour's own ratio was at least that."""

    def hit(k: Counts, o: Outcome) -> tuple[Array, Array]:
        return (k.c.sum(axis=1) / k.n_c.sum(axis=1)) >= least * (k.b.sum(axis=1) / k.n_r.sum(axis=1)), o.promoted

    return hit


def found_by(seconds: float, onset_s: float = 0.0) -> Hit:
    def hit(_: Counts, o: Outcome) -> tuple[Array, Array]:
        return np.ones(len(o.rollback_s), bool), o.rolled_back & (o.rollback_s - onset_s <= seconds)

    return hit


def measured(
    words: str, s: Scenario, hit: Hit, runs: int, seed: int, rule: Rule = RULE, metric: str = ERRORS, **bar: float
) -> Target:
    rng, count, whole = np.random.default_rng(seed), 0, 0
    for at in range(0, runs, CHUNK):
        counts = simulate(s, min(CHUNK, runs - at), rng)
        counted, good = hit(counts, judge(counts, replace(rule, max_s=s.minutes * 60.0), metric))
        count, whole = count + int((counted & good).sum()), whole + int(counted.sum())
    return Target(words, count, whole, **bar)


def false_rollbacks(runs: int, seed: int) -> Iterator[Target]:
    for base in (0.0001, 0.001, 0.01, 0.05):
        for share in (0.5, 0.1):
            words = f"false rollback, quiet, base {base:.4g}, share {share:g}"
            yield measured(words, Scenario(base=base, share=share), rolled_back, runs, seed, most=0.01)
    for ratio in (1.2, 1.3):
        for base in (0.001, 0.01):
            s = Scenario(base=base, trouble=Trouble(offset=ratio))
            yield measured(f"false rollback, instance offset x {ratio}, base {base:g}", s, rolled_back, runs, seed, most=0.05)
    for words, (base, trouble) in BURSTS.items():
        s = Scenario(base=base, trouble=trouble)
        yield measured(f"false rollback, {words}", s, rolled_back, runs, seed, most=_bar(words))
    for words, (base, trouble) in HEAVY.items():
        for share in (0.5, 0.1):
            s = Scenario(base=base, share=share, trouble=trouble)
            yield measured(f"false rollback, {words}, share {share:g}", s, rolled_back, runs, seed, most=0.05)
    for words, (base, trouble) in MORE.items():
        yield measured(f"false rollback, {words}", Scenario(base=base, trouble=trouble), rolled_back, runs, seed)
    for words in BURSTS:
        s = Scenario(base=BURSTS[words][0], share=0.1, trouble=BURSTS[words][1])
        yield measured(f"false rollback, {words}, share 0.1", s, rolled_back, runs, seed, most=_bar(words))
    for words, trouble in {**OUTAGES, "diurnal swing of 80 %": Trouble(diurnal=0.8)}.items():
        yield measured(f"false rollback, {words}", Scenario(trouble=trouble), rolled_back, runs, seed, most=0.01)


def _bar(bursts: str) -> float:
    return 0.01 if "30 s x 10" in bursts else 0.05 if "3 min" in bursts else 0.03


def false_promotions(runs: int, seed: int) -> Iterator[Target]:
    bad = promoted_though_worse(2.0)
    for share, base in ((0.5, 0.001), (0.1, 0.001), (0.5, 0.01)):
        s = Scenario(share=share, base=base, ratio=2.0)
        yield measured(f"false promotion of x 2, quiet, base {base:g}, share {share:g}", s, promoted, runs, seed, most=0.05)
    for words, (base, trouble) in (BURSTS | HEAVY).items():
        s = Scenario(base=base, ratio=2.0, trouble=trouble)
        yield measured(f"false promotion of x 2 where the run's own ratio is 2 or more, {words}", s, bad, runs, seed, most=0.05)
    offset = Scenario(base=0.01, ratio=2.0, trouble=Trouble(offset=1.3))
    yield measured("false promotion of x 2, instance offset x 1.3, base 1 %", offset, promoted, runs, seed, most=0.05)
    for words, trouble in OUTAGES.items():
        for share in (0.5, 0.1):
            for ratio, bar in ((2.0, 0.05), (10.0, 0.01)):
                s = Scenario(share=share, ratio=ratio, trouble=trouble)
                yield measured(f"false promotion of x {ratio:g}, {words}, share {share:g}", s, promoted, runs, seed, most=bar)


def detections(runs: int, seed: int) -> Iterator[Target]:
    three = Scenario(ratio=3.0)
    yield measured("x 3 errors in 15 min, half", three, found_by(900), runs, seed, least=0.95)
    yield measured("x 3 errors in 15 min, 10 %", replace(three, share=0.1), found_by(900), runs, seed, least=0.9)
    words = "x 3 errors in 30 min, no baseline, 5 %"
    yield measured(words, replace(three, share=0.05), found_by(1800), runs, seed, NO_BASELINE, least=0.9)
    for share in (0.5, 0.1):
        yield measured(
            f"x 10 errors in 5 min, share {share:g}", Scenario(ratio=10.0, share=share), found_by(300), runs, seed, least=0.99
        )
    for share in (0.5, 0.1, 0.05):
        s = Scenario(base=0.0, share=share, trouble=QUIET, minutes=5)
        yield measured(f"outage (100 % errors) in 30 s, share {share:g}", s, _outage_found, runs, seed, least=0.99)
    for edge, base, ratio in (("p99", 0.01, 2.49), ("p90", 0.1, 1.8)):
        s = Scenario(base=base, ratio=ratio)
        yield measured(f"latency x 1.2 in 10 min, by the {edge} edge", s, found_by(590), runs, seed, metric=EDGE, least=0.95)
    for onset in (0, 300, 600, 1500, 2700):
        for ratio in (3.0, 5.0, 10.0):
            s = Scenario(ratio=ratio, onset_s=onset, minutes=75)
            bar = {3.0: 900.0, 5.0: 600.0, 10.0: 300.0 if onset == 0 else 405.0}[ratio]
            yield measured(
                f"x {ratio:g} from {onset} s on, within {bar:g} s (followed)",
                s,
                _follow(bar, onset),
                max(1, runs // 5),
                seed,
                least=0.95,
            )
    s = Scenario(ratio=5.0, ramp_s=1800, minutes=60)
    yield measured(
        "x 1 to x 5 in 30 min: found within the hour (followed)", s, _follow(3600, 0), max(1, runs // 5), seed, least=0.95
    )


def _outage_found(k: Counts, _: Outcome) -> tuple[Array, Array]:
    """Everything fails in the candidate from the first request on."""
    o = judge(Counts(k.n_c, k.n_r, k.n_c, k.b), RULE)
    return np.ones(len(k.c), bool), o.rollback_s <= 30


def _follow(seconds: float, onset_s: float) -> Hit:
    """A judge that goes on after it has said promote."""

    def hit(_: Counts, o: Outcome) -> tuple[Array, Array]:
        return np.ones(len(o.rollback_s), bool), (o.rollback_s >= onset_s) & (o.rollback_s - onset_s <= seconds)

    return hit


def promotions(runs: int, seed: int) -> Iterator[Target]:
    yield measured("healthy promoted in 30 min, half", Scenario(), promoted, runs, seed, least=0.97)
    yield measured("healthy promoted in 30 min, base 1 %", Scenario(base=0.01), promoted, runs, seed, least=0.97)
    yield measured("healthy promoted in 30 min, 10 %", Scenario(share=0.1), promoted, runs, seed)
    for words, trouble in OUTAGES.items():
        yield measured(f"healthy promoted in 30 min, {words}", Scenario(trouble=trouble), promoted, runs, seed, least=0.9)
    for words, (base, trouble) in (BURSTS | HEAVY).items():
        yield measured(f"healthy promoted in 30 min, {words}", Scenario(base=base, trouble=trouble), promoted, runs, seed)
    for rps, minutes in ((20.0, 60), (2.0, 60)):
        s = Scenario(rps=rps, base=0.01, minutes=minutes)
        yield measured(f"healthy promoted in {minutes} min, {rps:g} requests a second, base 1 %", s, promoted, runs, seed)


OTHERS: dict[str, Callable[[Counts], Array]] = {
    "the judge": lambda k: judge(k, RULE).rolled_back,
    "Mann-Whitney at the end": lambda k: judge_others.mann_whitney(k, peeking=False),
    "Mann-Whitney, peeking": lambda k: judge_others.mann_whitney(k, peeking=True),
    "z at the end": lambda k: judge_others.z_test(k, peeking=False),
    "z, peeking": lambda k: judge_others.z_test(k, peeking=True),
    "threshold 1 %, 5 minutes": judge_others.threshold,
}


def others(runs: int, seed: int) -> Iterator[Target]:
    traffic = {f"r = {ratio:g}, base 0.1 %": Scenario(ratio=ratio) for ratio in (1.0, 2.0, 3.0)}
    traffic["r = 1, base 1 %"] = Scenario(base=0.01)
    for words, (base, trouble) in (BURSTS | HEAVY).items():
        traffic[f"r = 1, {words}"] = Scenario(base=base, trouble=trouble)
    for words, s in traffic.items():
        counts = simulate(s, min(runs, CHUNK), np.random.default_rng(seed))
        for name, rule in OTHERS.items():
            yield Target(f"rolled back | {words} | {name}", int(rule(counts).sum()), len(counts.c))


PIECES: dict[str, Callable[[int, int], Iterator[Target]]] = {
    "rollback": false_rollbacks, "promotion": false_promotions, "detection": detections, "healthy": promotions, "others": others,
    "fleet": judge_fleet.targets,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--piece", choices=PIECES, help="what to measure")
    parser.add_argument("--runs", type=int, default=5000, help="runs a cell")
    parser.add_argument("--seed", type=int, default=1, help="another seed adds runs to the same cells of a file")

    parser.add_argument("--out", type=Path, help="append what was measured to this file, a line a cell")
    parser.add_argument("--page", type=Path, metavar="FILE", help="print such a file as a table")
    args = parser.parse_args(argv)
    if args.page:
        rows = [json.loads(line) for line in args.page.read_text().splitlines()]
        print(page({piece: [Target(**row["target"]) for row in rows if row["piece"] == piece] for piece in PIECES}))
        return 0
    began_s = time.monotonic()
    for target in PIECES[args.piece](args.runs, args.seed):
        print(f"{time.monotonic() - began_s:5.0f} s {target.row()}", flush=True)
        if args.out:
            with args.out.open("a") as out:
                out.write(json.dumps({"piece": args.piece, "target": asdict(target)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
