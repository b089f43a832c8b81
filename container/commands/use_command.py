"""`evenkeel use VERSION`: ask a running container to serve another version of its model, and say what comes of it.

Over the Unix socket in the run directory, which needs no token; or with `--url` over HTTP with EVENKEEL_ADMIN_TOKEN.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from evenkeel.container import environment
from evenkeel.container.commands import sidecar_client
from evenkeel.container.commands.sidecar_client import NoAnswer, SidecarReply

LOOK_S = 0.25
WAIT_S_MAX = 1900.0  # a little longer than the supervisor waits for a version
Ask = Callable[[str, str, bytes], SidecarReply]  # method, path, body


def run(version: str, socket_path: Path | None, url: str | None, wait: bool, environ: Mapping[str, str]) -> int:
    """Returns 0 when the version serves, or with `wait` False is on its way."""
    env = environment.read(environ)
    token = env["EVENKEEL_ADMIN_TOKEN"]

    def over_http(method: str, path: str, body: bytes) -> SidecarReply:
        return sidecar_client.over_http(method, url or "", path, {"Authorization": f"Bearer {token}"} if token else {}, body)

    def over_socket(method: str, path: str, body: bytes) -> SidecarReply:
        return sidecar_client.over_socket(method, where, path, body)

    try:
        where = Path() if url else socket_path or sidecar_client.only_socket(env)
        return _use(version, over_http if url else over_socket, wait)
    except NoAnswer as e:
        print(f"evenkeel: {e}", file=sys.stderr)
        return 1


def _use(version: str, call: Ask, wait: bool) -> int:
    models = call("GET", "/models", b"").body.get("models") or [{}]
    path = f"/models/{quote(str(models[0].get('name', '')), safe='')}/versions"
    reply = call("POST", path, json.dumps({"version": version}).encode())
    if reply.status != 202:
        print(f"evenkeel: refused with {reply.status}: {reply.error}", file=sys.stderr)
        return 1
    print(f"{reply.body['how']}: {reply.body['why']}", flush=True)
    return _wait(version, lambda: call("GET", path, b"")) if wait else 0


def _wait(version: str, look: Callable[[], SidecarReply]) -> int:
    end_s = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < end_s:
        now = look().body
        if now["serving"] == version and now["phase"] == "steady":
            print(f"version {version} serves")
            return 0
        failures = now["failures"]
        if now["wanted"] != version:
            why = f"failed: {failures[0]['message']}" if failures and failures[0]["version"] == version else "is wanted no more"
            print(f"evenkeel: version {version} {why}; {now['serving']} goes on", file=sys.stderr)
            return 1
        time.sleep(LOOK_S)
    print(f"evenkeel: version {version} was not ready after {WAIT_S_MAX:g} s", file=sys.stderr)
    return 1
