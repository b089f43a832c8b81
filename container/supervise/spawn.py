"""Start the process of a child: its command line, its descriptors, its block of the status page. Decides nothing."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from collections.abc import Sequence

from evenkeel.container.supervise import life_records
from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.child_output import ChildOutput
from evenkeel.container.watch import memory_kills
from evenkeel.serve import settings as serve_settings
from evenkeel.serve.contract.status_page import Engine, StatusBlock, StatusPage
from evenkeel.serve.settings import EngineSettings


def spawn(page: StatusPage, child: Child) -> None:
    """Its next life. Raises OSError when the system has no process, descriptor or memory for it."""
    child.epoch += 1
    child.due_s, child.started_s, child.condemned_s = None, time.monotonic(), 0.0
    child.began = life_records.mark(page, child.started_s)
    block = clear(page, child.place) if child.role == "engine" else None
    if block is not None:
        block.count[Engine.EPOCH] = child.epoch
    read_end, write_end = os.pipe2(os.O_CLOEXEC) if child.captured else (-1, None)
    try:
        # A session of its own: Ctrl-C at a terminal reaches only the supervisor, which then stops the others in order.
        child.process = subprocess.Popen(
            command(child), pass_fds=child.fds, stdin=subprocess.DEVNULL, start_new_session=True,
            env=child.environ, stdout=write_end, stderr=write_end)  # fmt: skip
    except OSError:
        if write_end is not None:
            os.close(read_end)
        raise
    finally:
        if write_end is not None:
            os.close(write_end)
    if write_end is not None:
        child.output = ChildOutput(read_end, child.label)
    if block is not None:
        memory_kills.prefer_as_victim(child.process.pid, memory_kills.ENGINE_SCORE)
        block.count[Engine.PID] = child.process.pid


def command(child: Child) -> list[str]:
    argv = child.command(child.epoch)
    return bounded(argv, child.history.rows_max) if child.history.rows_max else argv


def bounded(argv: Sequence[str], rows_max: int) -> list[str]:
    """The command line of an engine, as that of one whose batches are no larger."""
    settings = serve_settings.parse(EngineSettings, argv[-1])
    return [*argv[:-1], serve_settings.dump(dataclasses.replace(settings, rows_max=rows_max))]


def clear(page: StatusPage, place: int) -> StatusBlock:
    """What the last engine there said of itself holds no more; its counters stay."""
    block = page.engine(place)
    for cell in (Engine.STATE, Engine.QUEUE_ROWS, Engine.QUEUE_LARGE, Engine.QUEUE_BEYOND, Engine.WARM_DONE,
                 Engine.WARM_TOTAL, Engine.STUCK, Engine.LEAVING_EPOCH):  # fmt: skip
        block.count[cell] = 0
    block.value[Engine.RUN_STARTED_S] = block.value[Engine.BEAT_S] = block.value[Engine.AWAITS_S] = 0.0
    return block
