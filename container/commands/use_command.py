"""`evenkeel use VERSION`: ask a running container to serve another version of its model, and say what comes of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any
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
    models = _taken(address.call("GET", "/models"), 200).get("models") or [{}]
    path = f"/models/{quote(str(models[0].get('name', '')), safe='')}/versions"
    answer = _taken(address.call("POST", path, json.dumps({"version": version}).encode()), 202)
    print(f"{answer['how']}: {answer['why']}", flush=True)
    return 0 if no_wait else wait(version, lambda: _look(address, path))


def _taken(reply: SidecarReply, status: int) -> dict[str, Any]:
    if reply.status != status:
        raise CommandFailed(f"refused with {reply.status}: {reply.error}")
    return reply.body


def _look(address: SidecarAddress, path: str) -> SidecarReply:
    return address.call("GET", path)


def wait(version: str, look: Callable[[], SidecarReply]) -> int:
    """Raises CommandFailed. A look that is refused, as where too many ask at once, says nothing of the version."""
    end_s = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < end_s:
        reply = look()
        if reply.status == 200 and _serves(version, reply.body):
            print(f"version {version} serves")
            return 0
        time.sleep(LOOK_S)
    raise CommandFailed(f"version {version} was not ready after {WAIT_S_MAX:g} s")


def _serves(version: str, now: Mapping[str, Any]) -> bool:
    """Raises CommandFailed where it will not."""
    if now["serving"] == version and now["phase"] == "steady":
        return True
    failures = now["failures"]
    if now["wanted"] != version:
        why = f"failed: {failures[0]['message']}" if failures and failures[0]["version"] == version else "is wanted no more"
        raise CommandFailed(f"version {version} {why}; {now['serving']} goes on")
    return False
