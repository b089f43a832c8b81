"""`evenkeel drain`: ask a running container to finish what it has accepted and end, as SIGTERM does.

Over the Unix socket in the run directory, which needs no token; or with `--url` over HTTP with EVENKEEL_ADMIN_TOKEN.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from evenkeel.container import environment
from evenkeel.container.commands import sidecar_client
from evenkeel.container.commands.sidecar_client import NoAnswer, SidecarReply
from evenkeel.container.environment import Environment

PATH = "/drain"


def run(socket_path: Path | None, url: str | None, environ: Mapping[str, str]) -> int:
    """Returns 0 when the container drains."""
    env = environment.read(environ)
    try:
        where = url or socket_path or sidecar_client.only_socket(env)
        reply = _over_http(env, where) if isinstance(where, str) else sidecar_client.over_socket("POST", where, PATH)
    except NoAnswer as e:
        print(f"evenkeel: {e}", file=sys.stderr)
        return 1
    if reply.status != 202:
        print(f"evenkeel: refused with {reply.status}: {reply.error}", file=sys.stderr)
        return 1
    said = "it was draining already" if reply.body.get("already") else "it finishes what it has accepted and ends"
    print(f"draining {where}: {said}")
    return 0


def _over_http(env: Environment, url: str) -> SidecarReply:
    token = env["EVENKEEL_ADMIN_TOKEN"]
    return sidecar_client.over_http("POST", url, PATH, {"Authorization": f"Bearer {token}"} if token else {})
