"""A first request that a model answers: from its samples, else made of zeros by its inputs. Asked once before it is shown."""

from __future__ import annotations

import http.client
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel.serve.contract import manifest
from evenkeel.serve.errors import BadModel

INLINE_BYTES_MAX = 600  # a body up to this size is pasted into the line, a larger one named by its file
ANSWER_CHARS_MAX = 200
ANSWER_BYTES_MAX = 1 << 20
ASK_S = 30.0
ELEMENTS_MAX = 1 << 22  # of an input made of zeros
SPEC = re.compile(r"(?P<name>.+): (?P<dtype>[a-z]+)\d*\[(?P<dims>.*)\]")


@dataclass(frozen=True, slots=True)
class FirstRequest:
    content_type: str
    body: bytes
    file: Path | None  # that holds the same bytes

    @property
    def is_pasted(self) -> bool:
        """Whether the shell takes the body as it is, and a person can read it."""
        text = self.body.decode("ascii", "replace")
        return len(self.body) <= INLINE_BYTES_MAX and text.isprintable() and "'" not in text and "\ufffd" not in text


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    status: int
    content_type: str
    body: bytes

    @property
    def is_text(self) -> bool:
        kind = self.content_type
        return kind.startswith("text/") or "json" in kind

    @property
    def shown(self) -> str:
        """Shortened."""
        if not self.is_text:
            return f"{len(self.body)} bytes of {self.content_type or 'no type'}"
        text = " ".join(self.body.decode("utf-8", "replace").split())
        return text if len(text) <= ANSWER_CHARS_MAX else text[:ANSWER_CHARS_MAX] + "…"


def of_samples(model_dir: Path) -> FirstRequest | None:
    """The smallest sample, one of JSON before others."""
    try:
        samples = manifest.load(model_dir).samples
        sample = min(samples, key=lambda s: (s.content_type != "application/json", s.input.stat().st_size), default=None)
        if sample is None:
            return None
        pasted = FirstRequest(sample.content_type, sample.input.read_bytes().strip(), None)
        return pasted if pasted.is_pasted else FirstRequest(sample.content_type, sample.input.read_bytes(), sample.input)
    except (BadModel, OSError):
        return None


def of_inputs(inputs: Sequence[str], folder: Path) -> FirstRequest | None:
    """Of one row of zeros, by inputs as /status describes them. A large one lies in a file in `folder`."""
    specs = [SPEC.fullmatch(text) for text in inputs]
    if not specs or None in specs:
        return None
    zeros = {spec["name"]: (spec["dtype"], [d.strip() for d in spec["dims"].split(",") if d.strip()]) for spec in specs if spec}
    rows = all(dims[:1] == ["rows"] for _, dims in zeros.values())
    values = {name: _zeros(dtype, dims[1:] if rows else dims) for name, (dtype, dims) in zeros.items()}
    if any(value is None for value in values.values()):
        return None
    row = next(iter(values.values())) if len(values) == 1 else values
    body = json.dumps({"instances": [row]} if rows else {"inputs": values}, separators=(",", ":")).encode()
    pasted = FirstRequest("application/json", body, None)
    if pasted.is_pasted:
        return pasted
    file = folder / "first-request.json"
    try:
        file.write_bytes(body)
    except OSError:
        return None
    return FirstRequest("application/json", body, file)


def _zeros(dtype: str, dims: Sequence[str]) -> Any:
    """An axis of any length has 1. None: there would be too many."""
    value: Any = {"bool": False, "str": "", "string": "", "bytes": ""}.get(dtype, 0)
    elements = 1
    for dim in reversed(dims):
        length = int(dim) if dim.isdigit() else 1
        elements *= max(1, length)
        if elements > ELEMENTS_MAX:
            return None
        value = [value] * length
    return value


def ask(address: str, request: FirstRequest) -> FirstAnswer:
    """Raises OSError and http.client.HTTPException."""
    connection = http.client.HTTPConnection(address, timeout=ASK_S)
    try:
        connection.request("POST", "/invocations", request.body, {"Content-Type": request.content_type})
        answer = connection.getresponse()
        return FirstAnswer(answer.status, answer.headers.get("Content-Type", ""), answer.read(ANSWER_BYTES_MAX))
    finally:
        connection.close()


def curl(address: str, request: FirstRequest, answer: FirstAnswer) -> str:
    """The same for a shell."""
    data = (
        f"-d {shlex.quote(request.body.decode())}" if request.file is None else f"--data-binary {shlex.quote(f'@{request.file}')}"
    )
    output = "" if answer.is_text else " -o answer"  # which curl would not write to a terminal
    return f"curl -s {address}/invocations -H {shlex.quote('Content-Type: ' + request.content_type)} {data}{output}"
