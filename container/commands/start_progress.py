"""Tells a person at a terminal what the start is doing, and at its end how to ask the first question."""

from __future__ import annotations

import shlex
from pathlib import Path

from evenkeel.serve.contract import manifest
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import log, say, sink
from evenkeel.serve.contract.status_page import Main, StatusPage, places, read_engine
from evenkeel.serve.errors import BadModel

INLINE_BYTES_MAX = 1500  # a sample up to this size is pasted into the line, a larger one named by its path


class StartProgress:
    """Looks at the page now and then; says each new thing once."""

    def __init__(self, page: StatusPage, port: int, model_dir: Path, text: bool) -> None:
        self._page, self._port, self._model_dir, self._text = page, port, model_dir, text
        self._said = ""
        self._done = False

    def look(self) -> None:
        if self._done or self._page.main.count[Main.LEAVING]:
            return
        if self._page.verdict().ready:
            self._done = True
            log("serving", f"ready on port {self._port}")
            if self._text:
                say(f"\nTry it:\n  {curl_line(self._model_dir, self._port)}\n", sink().fd)
            return
        engines = [read_engine(self._page, i) for i in places(self._page)]
        slowest = min(engines, key=lambda e: (e.state, e.warm_done))
        now = (
            "loading the model"
            if slowest.state < ReplicaState.WARMING
            else f"warming {slowest.warm_done} of {slowest.warm_total}"
        )
        if self._text and now != self._said:
            self._said = now
            log("progress", now)


def curl_line(model_dir: Path, port: int) -> str:
    """A request that this model answers, ready to paste."""
    url = f"localhost:{port}/invocations"
    try:
        samples = manifest.load(model_dir).samples
    except BadModel:
        samples = ()
    if not samples:
        return f"curl -s {url} -H 'Content-Type: application/json' -d '{{\"instances\": [...]}}'"
    sample = min(samples, key=lambda s: (s.content_type != "application/json", s.input.stat().st_size))
    body = sample.input.read_bytes()
    if len(body) <= INLINE_BYTES_MAX and body.isascii() and body.strip().decode().isprintable() and b"'" not in body:
        data = f"-d {shlex.quote(body.decode().strip())}"
    else:
        data = f"--data-binary @{shlex.quote(str(sample.input))}"
    return f"curl -s {url} -H 'Content-Type: {sample.content_type}' {data}"
