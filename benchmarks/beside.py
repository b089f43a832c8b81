"""CPU a request of this tree beside another checkout's, in turn: the bar that no change may raise it by more than 5 %.

Both serve a workload of the table from one machine. Each pair runs one, then the other, the order changing. CPU is what all
processes of the tree took, sidecar and supervisor included. Prints the ratio's median and its 95 % interval by resampling.

usage: python -m benchmarks.beside OTHER_CHECKOUT [--workload json-64] [--pairs 11] [--seconds 3] [--fixed-heads]
OTHER_CHECKOUT has a .venv of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from benchmarks import models
from benchmarks.table import handlers
from benchmarks.table.bodies import samples
from benchmarks.table.contenders import ServerContender
from benchmarks.table.ratios import ratio, row
from benchmarks.table.running import RunningServer, stop_all
from benchmarks.table.servers import Evenkeel
from benchmarks.table.turns import rotated
from benchmarks.table.windows import FIXED, OWN, Window
from benchmarks.table.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parents[1]
THIS, OTHER = "this", "other"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--workload", default="json-64", choices=WORKLOADS, metavar="NAME")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--fixed-heads", action="store_true", help="the same request again and again")
    options = parser.parse_args()
    found = measured(options)
    for name, windows in found.items():
        rate = median(w.rps for w in windows)
        print(f"{name}: {median(w.cpu_us for w in windows):.1f} us of CPU a request, {rate:.0f} requests/s")
    told = ratio(row(found[THIS]), row(found[OTHER]), lambda w: w.cpu_us)
    assert told is not None, "every round has both"
    print(f"ratio of CPU a request: {told.median:.3f} ({told.low:.3f} to {told.high:.3f}, 95 %, {told.pairs} pairs)")


def measured(options: argparse.Namespace) -> dict[str, list[Window]]:
    workload, folder = WORKLOADS[options.workload], models.ensure()
    handlers.ensure(folder)
    model = folder / workload.model
    sent, running = samples(workload, model), []
    try:
        for name, checkout in ((THIS, ROOT), (OTHER, options.other.resolve())):
            server = Evenkeel(checkout / ".venv" / "bin" / "evenkeel", name)
            running.append(RunningServer.start(server, workload.model, model, wire=workload.wire, pinned=workload.pinned))
        heads = FIXED if options.fixed_heads else OWN
        sides = {r.name: ServerContender(r, sent, heads) for r in running}
        for side in sides.values():
            side.prepare(workload, 1.0)
        found: dict[str, list[Window]] = {name: [] for name in sides}
        for pair in range(options.pairs):
            for name in rotated(list(sides), pair):
                found[name].append(sides[name].window(workload, pair, options.seconds))
            this, other = found[THIS][-1].cpu_us, found[OTHER][-1].cpu_us
            print(f"pair {pair + 1}: {this:.1f} and {other:.1f} us a request, ratio {this / other:.3f}", flush=True)
        return found
    finally:
        stop_all(running)


if __name__ == "__main__":
    main()
