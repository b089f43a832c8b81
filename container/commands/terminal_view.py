"""What `evenkeel serve` shows on a terminal: a process of its own that reads the log and draws it.

One live line while the model warms up, then the card. Before that only warnings, errors and what the model prints are shown;
after it every line is, since a request writes none. The supervisor knows nothing of this: it and its children write JSON lines
into a pipe, and the view may wait for the terminal, or fail, while they do not.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from evenkeel.container.commands import first_request, ready_card, sidecar_client, standard_streams
from evenkeel.container.commands.first_request import FirstAnswer, FirstRequest
from evenkeel.container.commands.ready_card import Serving
from evenkeel.container.commands.sidecar_client import CommandFailed
from evenkeel.serve.contract import logline
from evenkeel.sidecar.settings import ADMIN_SOCKET

TICK_S = 0.25
READ_BYTES = 1 << 16
ENDS = {"draining", "giving_up", "stopped"}
PRINTS = {"output", "user_log", "user_output"}  # the model's own
SAID = ENDS | PRINTS | {"sidecar_port"}  # during the start too
STYLES = {"warning": "yellow", "error": "red"}


class TerminalView:
    """Takes the log line by line. State: how far the start has come, and the live line while there is one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_s = time.monotonic()
        self._doing, self._drawn = "starting", ""
        self._serving = False  # or ending: nothing is drawn, and every line shown
        self._live: Live | None = None

    def take(self, raw: bytes) -> None:
        try:
            told = json.loads(raw)
            event, level = str(told["event"]), str(told["level"])
        except (ValueError, TypeError, KeyError):  # not from us: such as a last word of the interpreter
            self._print(logline.safe(raw.decode("utf-8", "replace")), "")
            return
        if event == "progress":
            self._doing = str(told.get("message"))
            self.draw()
        elif event == "serving":
            self.end()
            self._serving = True
            self._card(told)
        elif event in PRINTS and not str(told.get("message") or "").strip():
            pass  # the model printed an empty line
        elif self._serving or level != "info" or event in SAID:
            if event in ENDS:
                self.end()
                self._serving = True
            if event == "bad_model":  # nothing is done any more
                self._doing = ""
                self.end()
            self._print(line(told, event, level), STYLES.get(level, ""))

    def draw(self) -> None:
        """The live line, anew; where the terminal cannot move its cursor, each new thing once."""
        if self._serving or not self._doing or not self._console.is_terminal:
            return
        if self._console.is_dumb_terminal:
            stage = self._doing.partition(":")[0]
            if stage != self._drawn:
                self._print(stage, "")
            self._drawn = stage
            return
        text = Text(f"{self._doing} · {time.monotonic() - self._began_s:.0f} s", overflow="ellipsis", no_wrap=True)
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(text, refresh=True)

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)

    def _card(self, told: dict[str, Any]) -> None:
        serving = Serving(str(told.get("address")), str(told.get("page")), float(told.get("seconds", 0.0)))
        run_dir = Path(str(told.get("run_dir")))
        status = status_of(run_dir)
        rows = ready_card.lines(serving, status, asked(serving.address, status, Path(str(told.get("model_dir"))), run_dir))
        ascii_only = self._console.options.ascii_only
        for n, (label, text) in enumerate(rows):
            start = (f"  {label:6}", "bold") if n else ("ready: " if ascii_only else "✓ ", "green")
            shown = logline.safe(text).replace(" · ", ", " if ascii_only else " · ")
            self._console.print(Text.assemble(start, shown), soft_wrap=True)


def line(told: dict[str, Any], event: str, level: str) -> str:
    """One event for a person: when, how bad, who, what; tracebacks below it."""
    with contextlib.suppress(ValueError):
        told["time"] = datetime.fromisoformat(str(told.get("time"))).astimezone().strftime("%H:%M:%S")
    said = str(told.get("message") or event)
    long = "".join(f"\n{value}" for value in told.values() if isinstance(value, str) and "\n" in value and value != said)
    marked = "" if level == "info" else f"{level} "
    return logline.safe(f"{told.get('time')} {marked}{told.get('process')}: {said}{long.rstrip()}")


def status_of(run_dir: Path) -> dict[str, Any]:
    """What the sidecar tells; nothing where it does not answer."""
    try:
        return sidecar_client.over_socket("GET", run_dir / ADMIN_SOCKET, "/status?points_after_s=1e18").body
    except CommandFailed:
        return {}


def asked(address: str, status: dict[str, Any], model_dir: Path, run_dir: Path) -> tuple[FirstRequest, FirstAnswer] | None:
    """A request and its answer; None where no request is known."""
    inputs = next((replica.get("inputs") for replica in status.get("replicas") or ()), None)
    request = first_request.of_samples(model_dir)
    if request is None and isinstance(inputs, list):
        request = first_request.of_inputs([str(text) for text in inputs], run_dir)
    if request is None:
        return None
    try:
        return request, first_request.ask(address, request)
    except (OSError, http.client.HTTPException) as e:
        return request, FirstAnswer(0, "text/plain", str(e).encode())


def follow(fd: int, view: TerminalView) -> None:
    """Until the log ends."""
    rest = b""
    while True:
        if not select.select([fd], [], [], TICK_S)[0]:
            view.draw()
            continue
        data = os.read(fd, READ_BYTES)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        for raw in whole:
            view.take(raw)


def main() -> int:
    standard_streams.make_writable()
    view = TerminalView(Console(highlight=False))
    try:
        follow(0, view)
    except BrokenPipeError:
        return 1
    finally:
        with contextlib.suppress(OSError):
            view.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
