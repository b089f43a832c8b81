"""`make fuzz`: odd bytes for every codec and parser, for as long as it is told to; prints what it found, and how to see it again.

Round by round each target gets a few hundred examples from a seed of its own. The seed and the smallest input of a finding
are printed; `--seed` begins there again. Exit code 1: something was found.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Target, mutated

EXAMPLES = 200  # of one target in one round
PHASES = (Phase.generate, Phase.shrink)


@dataclass(frozen=True)
class Finding:
    data: bytes  # the smallest input that shows it
    error: Exception

    def __str__(self) -> str:
        return f"{self.data!r}\n" + "".join(traceback.format_exception(self.error))


def find(target: Target, number: int, examples: int = EXAMPLES) -> Finding | None:
    """What one round of one target finds."""
    last = b""  # Hypothesis ends with the smallest

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, phases=PHASES, suppress_health_check=list(HealthCheck))
    @given(st.one_of(mutated(target), st.binary(max_size=200)))
    def check(data: bytes) -> None:
        nonlocal last
        last = data
        target.check(data)

    try:
        check()
    except Exception as e:
        return Finding(last, e)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="of the first round; a new one unless told")
    parser.add_argument("--only", choices=list(TARGETS), help="one target")
    args = parser.parse_args(argv)
    number = random.SystemRandom().randrange(1 << 32) if args.seed is None else args.seed
    names = [args.only] if args.only else list(TARGETS)
    print(f"seed {number}, {len(names)} targets, {args.minutes:g} min", flush=True)
    end_s, rounds, found = time.monotonic() + args.minutes * 60, 0, 0
    while rounds == 0 or time.monotonic() < end_s:
        for name in names:
            if rounds and time.monotonic() >= end_s:
                break
            finding = find(TARGETS[name], number + rounds)
            if finding is not None:
                found += 1
                print(f"\n{name}: found; again with --only {name} --seed {number + rounds}", flush=True)
                print(finding, flush=True)
        rounds += 1
    print(f"{rounds} rounds of {EXAMPLES} inputs a target, {found} findings", flush=True)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
