"""Start the process of a child: its command line, its descriptors, its block of the status page. Decides nothing."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import time

from evenkeel.container.supervise import life_records
from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.child_output import ChildOutput
from evenkeel.container.supervise.command_link import CommandLink
from evenkeel.container.supervise.engine_order import ask_to_load
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
    ours, theirs = socket.socketpair() if child.commanded else (None, None)
    read_end, write_end = os.pipe2(os.O_CLOEXEC) if child.captured else (None, None)
    try:
        child.process = _start(child, theirs, write_end)
    except OSError:
        if read_end is not None:
            os.close(read_end)
        raise  # and the sockets close with the last that knows them
    finally:
        if write_end is not None:
            os.close(write_end)
        if theirs is not None:
            theirs.close()
    child.output = None if read_end is None else ChildOutput(read_end, child.label)
    child.link, child.leave_asked, child.load_asked = None if ours is None else CommandLink(ours), None, None
    ask_to_load(child, child.started_s)
    if block is not None:
        memory_kills.prefer_as_victim(child.process.pid, memory_kills.ENGINE_SCORE)
        block.count[Engine.PID] = child.process.pid


def _start(child: Child, commands: socket.socket | None, write_end: int | None) -> subprocess.Popen[bytes]:
    """`write_end`: of the pipe that takes what it prints."""
    # A session of its own: Ctrl-C at a terminal reaches only the supervisor, which then stops the others in order.
    fds = child.fds if commands is None else (*child.fds, commands.fileno())
    return subprocess.Popen(
        command(child, commands), pass_fds=fds, stdin=subprocess.DEVNULL, start_new_session=True, env=child.environ,
        stdout=write_end, stderr=write_end)  # fmt: skip


def command(child: Child, commands: socket.socket | None) -> list[str]:
    """For an engine with where it hears commands in this life."""
    argv = child.command(child.epoch)
    if commands is None:
        return argv
    settings = serve_settings.parse(EngineSettings, argv[-1])
    return [*argv[:-1], serve_settings.dump(dataclasses.replace(settings, command_fd=commands.fileno()))]


def clear(page: StatusPage, place: int) -> StatusBlock:
    """What the last engine there said of itself holds no more; its counters stay."""
    block = page.engine(place)
    for cell in (Engine.STATE, Engine.QUEUE_ROWS, Engine.QUEUE_LARGE, Engine.QUEUE_BEYOND, Engine.WARM_DONE,
                 Engine.WARM_TOTAL, Engine.STUCK, Engine.LEAVING_EPOCH):  # fmt: skip
        block.count[cell] = 0
    block.value[Engine.RUN_STARTED_S] = block.value[Engine.BEAT_S] = block.value[Engine.AWAITS_S] = 0.0
    return block
