"""`evenkeel use VERSION`: ask a running container to serve another version of its model, and say what comes of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Annotated
from urllib.parse import quote

from cyclopts import Parameter

from evenkeel.container import environment
from evenkeel.container.commands import container_choice
from evenkeel.container.commands.container_choice import HERE, ContainerChoice
from evenkeel.container.commands.sidecar_client import CommandFailed, SidecarAddress, SidecarReply

LOOK_S = 0.25
WAIT_S_MAX = 1900.0  # a little longer than the supervisor waits for a version


def use(
    version: Annotated[str, Parameter(help="as its folder is called, NAME/VERSION/")],
    /,
    *,
    no_wait: Annotated[bool, Parameter(negative="", help="return as soon as it is known what will be done")] = False,
    choice: ContainerChoice = HERE,
    environ: Annotated[Mapping[str, str], Parameter(parse=False)],
) -> int:
    """Go over to another version of the model that a container serves; the one before stays warm for a while.

    Example:

        evenkeel use 2

    Exit codes: 0 the version serves (with --no-wait: it is on its way), 1 it does not, and why.
    """
    address = container_choice.address(choice, environment.read(environ))
    models = address.call("GET", "/models").body.get("models") or [{}]
    path = f"/models/{quote(str(models[0].get('name', '')), safe='')}/versions"
    reply = address.call("POST", path, json.dumps({"version": version}).encode())
    if reply.status != 202:
        raise CommandFailed(f"refused with {reply.status}: {reply.error}")
    print(f"{reply.body['how']}: {reply.body['why']}", flush=True)
    return 0 if no_wait else _wait(version, lambda: _look(address, path))


def _look(address: SidecarAddress, path: str) -> SidecarReply:
    return address.call("GET", path)


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
            raise CommandFailed(f"version {version} {why}; {now['serving']} goes on")
        time.sleep(LOOK_S)
    raise CommandFailed(f"version {version} was not ready after {WAIT_S_MAX:g} s")
