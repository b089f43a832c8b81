"""`evenkeel drain`: ask a running container to finish what it has accepted and end, as SIGTERM does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from cyclopts import Parameter

from evenkeel.container import environment
from evenkeel.container.commands import container_choice
from evenkeel.container.commands.container_choice import HERE, ContainerChoice
from evenkeel.container.commands.sidecar_client import CommandFailed

PATH = "/drain"


def drain(*, choice: ContainerChoice = HERE, environ: Annotated[Mapping[str, str], Parameter(parse=False)]) -> int:
    """End a running container in good order: it answers what it has accepted first.

    Example:

        evenkeel drain --port 8080

    Exit codes: 0 it drains, 1 it was refused or nothing answered.
    """
    address = container_choice.address(choice, environment.read(environ))
    reply = address.call("POST", PATH)
    if reply.status != 202:
        raise CommandFailed(f"refused with {reply.status}: {reply.error}")
    said = "it was draining already" if reply.body.get("already") else "it finishes what it has accepted and ends"
    print(f"draining {address.where}: {said}")
    return 0
