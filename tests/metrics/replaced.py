"""The real Supervisor replaces an engine as often as it is told; each life counts as an engine does. One JSON line at the end.

The engines' processes only sleep: what they would count, this process counts through a mapping of its own for each life.
"""

from __future__ import annotations

import json
import os
import sys

from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.departure import Departure
from evenkeel.container.supervise.ended_processes import EndedProcesses
from evenkeel.container.supervise.process_watch import ProcessWatch, WatchLimits
from evenkeel.container.supervise.restart import BACKOFF_S
from evenkeel.container.supervise.starting import start_due
from evenkeel.serve.contract import logline
from evenkeel.serve.contract.status_page import Engine, Main, StatusPage, row_bucket, time_bucket
from evenkeel.serve.exposition import PageCollector


def live(fd: int) -> None:
    """One life of an engine: one batch of three rows."""
    block = StatusPage(fd).engine(0)
    block.count[Engine.BATCHES] += 1
    block.count[Engine.ROWS] += 3
    block.count[Engine.BATCH_ROWS + row_bucket(3)] += 1
    block.count[Engine.RUN_TIME + time_bucket(0.5)] += 1
    block.count[Engine.QUEUE_TIME + time_bucket(0.1)] += 1
    block.value[Engine.RUN_SUM_S] += 0.5
    block.count[Engine.QUEUE_ROWS] = 7


def main() -> None:
    restarts = int(sys.argv[1])
    logline.setup("supervisor", text=False, fd=2)
    page = StatusPage.create()
    page.main.count[Main.ENGINES] = 1
    child = Child("engine", 0, lambda epoch: ["/bin/sleep", "600"], ())
    children = [child]
    watch = ProcessWatch(page, children, WatchLimits(), None)
    ended = EndedProcesses(page, children, restarts + 1, Departure(page, children, 5.0, 0.0), watch, None)
    now_s = 1.0
    start_due(page, children, now_s)
    for _ in range(restarts):
        live(page.fd)
        assert child.process is not None, "one lives"
        child.process.kill()
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        ended.reap(now_s)
        now_s += max(BACKOFF_S)
        start_due(page, children, now_s)
    child.process.kill()
    print(json.dumps({"lives": child.epoch - 1, "metrics": PageCollector(page).text().decode()}))


if __name__ == "__main__":
    main()
