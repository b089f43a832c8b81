"""What each path of the data port takes: a table, read before any framework is asked, so that a wrong path costs next to nothing.

Pure. A test keeps it equal to the routes of the application in data_pages.py.
"""

from __future__ import annotations

import re

from evenkeel.serve.errors import MethodNotAllowed, NotFound
from evenkeel.serve.front.http.request_head import Route
from evenkeel.serve.http import strict

GET = (b"GET", b"HEAD")
METHODS: dict[bytes, tuple[bytes, ...]] = {
    b"/invocations": (b"POST",),
    b"/ping": (b"GET", b"POST", b"HEAD"),
    b"/metrics": GET,
    b"/execution-parameters": GET,
    b"/openapi.json": GET,
    b"/v2/health/live": GET,
    b"/v2/health/ready": GET,
}
MODEL_READY = re.compile(rb"/v2/models/[^/]+(?:/versions/[^/]+)?/ready")  # also GET
SHOWN = "/invocations, /ping, /metrics, /execution-parameters, /openapi.json, /v2/health/live, /v2/health/ready, \
/v2/models/{name}/ready, /v2/models/{name}/versions/{version}/ready"
SHOWN_CHARS_MAX = 200  # of a path, in a message
_HOT = {b"/invocations": Route.INVOKE, b"/ping": Route.PING}
_USUAL = {(b"POST", b"/invocations"): Route.INVOKE, (b"GET", b"/ping"): Route.PING}


def find(method: bytes, target: bytes) -> Route | NotFound | MethodNotAllowed:
    """Where a request goes, or why nowhere: returned, since an error that is raised and kept holds its frames and costs more than
    the rest. Raises BadRequest for a target that is none."""
    usual = _USUAL.get((method, target))
    if usual is not None:
        return usual
    path = strict.read_target(target).path
    allowed = METHODS.get(path) or (GET if MODEL_READY.fullmatch(path) else None)
    shown = path[:SHOWN_CHARS_MAX].decode("utf-8", "replace")
    if allowed is None:
        return NotFound(f"no such path: {shown}; there are {SHOWN}")
    if method not in allowed:
        possible = b", ".join(allowed).decode()
        error = MethodNotAllowed(f"{method.decode()} is not possible on {shown}: use {possible}")
        error.allow = possible
        return error
    return _HOT.get(path, Route.APPLICATION)
