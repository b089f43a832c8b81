"""What each path of the data port takes: a table, read before any framework is asked, so that a wrong path costs next to
nothing.

Pure. A test keeps it equal to the routes of the application in data_pages.py.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from evenkeel.serve.errors import BadRequest, MethodNotAllowed, NotFound
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
MODELS = b"/models"
# By the number of parts of a path, with the empty one before the first slash, and the last of four.
_MANY: dict[tuple[int, bytes], tuple[bytes, ...]] = {
    (2, b""): (b"GET", b"HEAD", b"POST"), (3, b""): (b"GET", b"HEAD", b"DELETE"), (4, b"invoke"): (b"POST",),
}  # fmt: skip
_HOT = {b"/invocations": Route.INVOKE, b"/ping": Route.PING}
_USUAL = {(b"POST", b"/invocations"): Route.INVOKE, (b"GET", b"/ping"): Route.PING}


def find(method: bytes, target: bytes, many: bool = False) -> Route | NotFound | MethodNotAllowed:
    """Where a request goes, or why nowhere: returned, since an error that is raised and kept holds its frames and costs more than
    the rest. `many`: where there are many models. Raises BadRequest for a target that is none."""
    usual = None if many else _USUAL.get((method, target))
    if usual is not None:
        return usual
    read = strict.read_target(target)
    if many and (read.raw_path == b"/invocations" or read.raw_path.startswith(MODELS)):
        return _of_many(method, read.raw_path)
    path = read.path
    allowed = METHODS.get(path) or (GET if MODEL_READY.fullmatch(path) else None)
    shown = path[:SHOWN_CHARS_MAX].decode("utf-8", "replace")
    if allowed is None:
        return NotFound(f"no such path: {shown}; there are {SHOWN}")
    return _HOT.get(path, Route.APPLICATION) if method in allowed else _not_allowed(method, shown, allowed)


def _of_many(method: bytes, raw_path: bytes) -> Route | NotFound | MethodNotAllowed:
    """By the path as it was sent: what is encoded in it is part of a name."""
    shown, parts = raw_path[:SHOWN_CHARS_MAX].decode("utf-8", "replace"), raw_path.split(b"/")
    allowed = _MANY.get((len(parts), parts[3] if len(parts) == 4 else b""))
    if parts[1] == b"invocations":
        return NotFound("this container serves many models: POST /models/{name}/invoke")
    if allowed is None or parts[1] != b"models" or (len(parts) > 2 and not parts[2]):
        return NotFound(f"no such path: {shown}; there are /models, /models/{{name}}, /models/{{name}}/invoke")
    if method not in allowed:
        return _not_allowed(method, shown, allowed)
    return Route.NAMED if len(parts) == 4 else Route.APPLICATION


def _not_allowed(method: bytes, shown: str, allowed: tuple[bytes, ...]) -> MethodNotAllowed:
    possible = b", ".join(allowed).decode()
    error = MethodNotAllowed(f"{method.decode()} is not possible on {shown}: use {possible}")
    error.allow = possible
    return error


def model_name(target: bytes) -> str:
    """That the path of /models/{name} and what is below names. Raises BadRequest for one that is no text."""
    name = unquote_to_bytes(strict.read_target(target).raw_path.split(b"/")[2])
    try:
        return name.decode()
    except UnicodeDecodeError as e:
        raise BadRequest("the model's name in the path is no UTF-8") from e
