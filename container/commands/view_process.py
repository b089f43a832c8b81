"""The process that draws the log on a terminal, as the supervisor sees it: a pipe to write lines into, and an end to wait for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping

END_S = 3.0  # for what is left to draw
COMMAND = (sys.executable, "-P", "-m", "evenkeel.container.commands.terminal_view")


class ViewProcess:
    """Owner of the pipe. The process has a session of its own, so that Ctrl-C reaches the supervisor alone."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        read_end, self.fd = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = subprocess.Popen(COMMAND, stdin=read_end, env=dict(environ), start_new_session=True)
        finally:
            os.close(read_end)

    def end(self) -> None:
        """Nobody writes any more: it draws what it has and ends."""
        os.close(self.fd)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:  # a stopped terminal, or a process of the model's that still has the pipe
            self._process.kill()


def show_card(environ: Mapping[str, str], told: Mapping[str, object]) -> None:
    """Once, on stdout, beside a log of text lines. Nobody waits for it: the supervisor reaps it as it does orphans. It is left
    out where no process can be had."""
    try:
        view = ViewProcess(environ)
    except OSError:
        return
    line = json.dumps({"event": "serving", "level": "info", **told})
    try:
        os.write(view.fd, line.encode() + b"\n")  # less than a pipe holds
    finally:
        os.close(view.fd)
