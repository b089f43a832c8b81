"""Small services under the judge's `--small`: what share of rollouts has a verdict within the day, and which.

By the rule over arrays, without its look at outages, which joins windows until they have five requests and has tests of its own.

python -m benchmarks.judge_small --runs 400
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from benchmarks import judge_rule
from benchmarks.judge_rule import Counts, Outcome
from benchmarks.judge_traffic import Scenario, simulate
from evenkeel.sidecar.rollout import detector, stability
from evenkeel.sidecar.rollout.judge_options import SMALL
from evenkeel.sidecar.rollout.rule import ERRORS, Arm, Rule

# Requests a second, the candidate's share, the reference's error rate, times the errors.
CELLS = (
    (2.0, 0.5, 0.0, 1.0), (2.0, 0.5, 0.001, 1.0), (2.0, 0.5, 0.01, 1.0),
    (2.0, 0.05, 0.0, 1.0), (2.0, 0.05, 0.001, 1.0), (2.0, 0.05, 0.01, 1.0),
    (0.2, 0.5, 0.001, 1.0), (2.0, 0.05, 0.001, 30.0), (2.0, 0.5, 0.01, 3.0), (2.0, 0.05, 0.01, 10.0),
)  # fmt: skip


def rule() -> Rule:
    return replace(
        Rule("small", reference=Arm.PRODUCTION, margin=1.25, latency=False), block_s=float(SMALL["block_s"]),
        max_s=float(SMALL["max_minutes"]) * 60, requests_min=int(SMALL["min_requests"]), budget=float(SMALL["budget"]),
    )  # fmt: skip


def judged(windows: Counts, small: Rule) -> Outcome:
    """As judge_rule.judge, of errors alone."""
    size = round(small.block_s / judge_rule.WINDOW_S)
    blocks = windows.apply(lambda x: x[:, : x.shape[1] // size * size].reshape(len(x), -1, size).sum(axis=2))
    rates = blocks.b / np.maximum(1, blocks.n_r)
    typical = np.stack([np.median(rates[:, : i + 1], axis=1) for i in range(rates.shape[1])], axis=1)
    kept = judge_rule.is_stable(blocks, rates, typical, ERRORS)
    counted = kept | (blocks.c * blocks.n_r < stability.SHARED * blocks.b * blocks.n_c)
    stable = blocks.apply(lambda x: np.where(counted, x, 0))
    back = np.min([judge_rule.convicted(stable, small, tier, ERRORS) for tier in detector.tiers(small)], axis=0)
    return Outcome(back, judge_rule.proven(blocks, rates, kept, small, ERRORS))


def row(cell: tuple[float, float, float, float], runs: int, seed: int) -> str:
    rps, share, base, ratio = cell
    minutes = int(SMALL["max_minutes"])
    scenario = Scenario(rps=rps, share=share, base=base, ratio=ratio, minutes=minutes)
    found = judged(simulate(scenario, runs, np.random.default_rng(seed)), rule())
    on, back = found.promote_s[found.promoted], found.rollback_s[found.rolled_back]
    times = [f"{np.median(t) / 3600:.1f} h" if len(t) else "" for t in (on, back)]
    parts = [f"{len(on) / runs:.3f}", times[0], f"{len(back) / runs:.3f}", times[1]]
    return f"| {rps:g} | {share:g} | {base:g} | {ratio:g} | {' | '.join(parts)} |"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--runs", type=int, default=400)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    print("| requests a second | candidate's share | errors | times | promoted | median | rolled back | median |")
    print("|---|---|---|---|---|---|---|---|")
    for cell in CELLS:
        print(row(cell, args.runs, args.seed), flush=True)


if __name__ == "__main__":
    main()
