"""What the supervisor can be told: to serve another version, to load and unload one of many models, and to drain. Who may ask
is the socket's matter."""

from __future__ import annotations

import socket

from evenkeel.container.models.placement import Placement
from evenkeel.container.supervise.command_server import CommandServer
from evenkeel.container.supervise.departure import Departure
from evenkeel.container.versions.deployer import Deployer
from evenkeel.serve.contract.commands import Command, CommandError, Later, Refusal, Result, Verb, unknown_here
from evenkeel.serve.contract.logline import log


def serve(
    sock: socket.socket | None, departure: Departure, versions: Deployer | None, models: Placement | None
) -> CommandServer | None:
    """None: nobody can tell this supervisor anything."""
    return None if sock is None else CommandServer(sock, SupervisorCommands(departure, versions, models))


class SupervisorCommands:
    """`versions`: of the one model, where there is one. `models`: where there are many."""

    def __init__(self, departure: Departure, versions: Deployer | None, models: Placement | None = None) -> None:
        self._departure, self._versions, self._models = departure, versions, models

    def handle(self, command: Command, now_s: float) -> Result | Later:
        match command.verb:
            case Verb.DRAIN:
                return self._drain()
            case Verb.USE:
                return self._use(command.arguments["version"])
            case Verb.ADD_MODEL if self._models is not None:
                self._refuse_while_leaving()
                return self._models.add(**command.arguments)
            case Verb.REMOVE_MODEL if self._models is not None:
                self._refuse_while_leaving()
                return self._models.remove(**command.arguments)
            case _:
                raise unknown_here(command.verb)

    def _drain(self) -> Result:
        """Not a signal to ourselves: the platform's own SIGTERM often follows a drain, and must not count as a second one."""
        already = self._departure.begun
        self._departure.begin(0, "asked to drain: finishing what has been accepted")
        return {"already": already}

    def _refuse_while_leaving(self) -> None:
        if self._departure.begun:
            raise CommandError(Refusal.REFUSED, "the container is stopping")

    def _use(self, version: str) -> Result:
        self._refuse_while_leaving()
        if self._versions is None:
            raise CommandError(Refusal.REFUSED, "there are no versions here")
        try:
            return self._versions.use(version)
        except CommandError as e:
            log("swap_asked", e.message, version=version, how="refused")
            raise
