"""The engine process: load, warm, then the cycle. Owner of its block of the status page, but for PID and EPOCH.

Started by the supervisor as `python -m serve.engine.process '<EngineSettings as JSON>'`, with the listening socket and
the status page inherited. Exits with EXIT_BAD_MODEL when starting it again could not help.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from serve.contract.lifecycle import State, step
from serve.contract.logline import LogStream, log, setup
from serve.contract.process import EXIT_BAD_MODEL, die_with_parent
from serve.contract.status import Block, Engine, StatusPage
from serve.errors import BadModel
from serve.settings import EngineSettings, parse


class Life:
    """Writes the replica's state where the others read it; only legal steps."""

    def __init__(self, block: Block) -> None:
        self.block, self.state = block, State.NEW

    def become(self, target: State) -> None:
        self.state = step(self.state, target)
        self.block.value[Engine.STATE_SINCE_S] = time.monotonic()
        self.block.count[Engine.STATE] = int(target)
        if target is State.READY:
            self.block.count[Engine.WAS_READY] = 1


def main() -> None:
    settings = parse(EngineSettings, sys.argv[1])
    die_with_parent(os.getppid())
    setup(f"engine-{settings.place}", text=settings.log_text, fd=settings.log_fd)
    sys.stdout, sys.stderr = LogStream("stdout"), LogStream("stderr")
    page = StatusPage(settings.status_fd)
    life = Life(page.engine(settings.place))
    try:
        run(settings, page, life)
    except BadModel as e:
        life.become(State.FAILED)
        log("bad_model", e.message)
        os._exit(EXIT_BAD_MODEL)
    except Exception:
        log("engine_failed", "the engine ends on a bug of ours; the supervisor starts another", trace=traceback.format_exc())
        os._exit(1)


def run(settings: EngineSettings, page: StatusPage, life: Life) -> None:
    started_s = time.monotonic()
    life.become(State.LOADING)
    from serve.engine import replica as replicas  # the framework comes with the backend, so only from here on
    from serve.engine.cycle import Cycle

    imported_s = time.monotonic()
    replica = replicas.load(Path(settings.model_dir), settings.threads)
    loaded_s = time.monotonic()
    life.become(State.WARMING)
    log("loaded", f"{replica.manifest.name} loaded, warming", **_facts(replica), seconds=round(loaded_s - started_s, 3))
    block = life.block

    def progress(done: int, total: int, what: str) -> None:
        block.count[Engine.WARM_TOTAL] = total
        block.count[Engine.WARM_DONE] = done

    replicas.warm(replica, progress)
    if settings.faults:
        from serve.engine import faults

        faults.apply(replica, settings.faults)
    ready_s = time.monotonic()
    block.value[Engine.ROW_COST_S] = replica.cost.default.cheapest_row()
    listener = socket.socket(fileno=os.dup(settings.listen_fd))
    cycle = Cycle(replica, listener, block, settings.epoch)

    def close(signum: int, frame: FrameType | None) -> None:
        cycle.closing = True

    signal.signal(signal.SIGTERM, close)
    explain(page, settings.place, replica)
    settle()
    life.become(State.READY)
    log("ready", f"{replica.manifest.name} is warm and proven", import_s=round(imported_s - started_s, 3),
        load_s=round(loaded_s - imported_s, 3), warm_s=round(ready_s - loaded_s, 3))  # fmt: skip
    cycle.serve()
    life.become(State.DRAINING)
    life.become(State.CLOSED)


def settle() -> None:
    """For the long run: no looking at garbage that cannot be, and no pushing fronts aside."""
    gc.collect()
    gc.freeze()  # models and frameworks live for ever; batches make no cycles
    gc.set_threshold(50_000, 20, 100)
    # On a CPU shared with a front, a woken engine waits until the front has passed on all that it has: larger batches,
    # and 1.2 times the requests a second. Where each has a CPU of its own it changes nothing. See sched(7).
    with contextlib.suppress(OSError):  # a sandbox may forbid it; then batches are a little smaller
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _facts(replica: Any) -> dict[str, Any]:
    return {"version": replica.manifest.version, "backend": replica.manifest.backend, **replica.backend.describe()}


def explain(page: StatusPage, place: int, replica: Any) -> None:
    """Publish what this replica is and how it batches, for /status."""
    from serve.batching.cost import best_rows

    manifest, curve = replica.manifest, replica.cost.default
    chosen = best_rows(curve, replica.rows_max, manifest.slo_s or float("inf"))
    signature = replica.signature
    page.write_text(place, {
        "model": {"name": manifest.name, "version": manifest.version, "backend": manifest.backend},
        "facts": replica.backend.describe(),
        "inputs": [s.describe(signature.rows_axis) for s in signature.inputs] if signature else "raw body",
        "outputs": [s.describe(signature.rows_axis) for s in signature.outputs] if signature else "raw body",
        "batching": {
            "rows_max": replica.rows_max, "slo_s": manifest.slo_s, "chosen_rows": chosen,
            "why": why(curve, chosen), "learned": [
                {"rows": n, "seconds": s, "rows_per_s": round(n / s, 1)}
                for n, s in zip(curve.sizes, curve.seconds, strict=True)]},
    })  # fmt: skip


def why(curve: Any, chosen: int) -> str:
    """One sentence on the batch size in force."""
    one, many = 1 / curve.predict(1), chosen / curve.predict(chosen)
    if chosen == 1:
        return f"batching does not help this model here: one row at a time already gives {one:.0f} rows/s"
    return f"{chosen} rows together give {many:.0f} rows/s, {many / one:.1f} times one at a time; fewer run when fewer wait"


if __name__ == "__main__":
    main()
