"""What the supervisor can be told: to serve another version, and to drain. Who may ask is the socket's matter."""

from __future__ import annotations

import socket

from evenkeel.container.supervise.command_server import CommandServer
from evenkeel.container.supervise.departure import Departure
from evenkeel.container.versions.deployer import Deployer
from evenkeel.serve.contract.commands import Command, CommandError, Refusal, Result, Verb, unknown_here
from evenkeel.serve.contract.logline import log


def serve(sock: socket.socket | None, departure: Departure, versions: Deployer | None) -> CommandServer | None:
    """None: nobody can tell this supervisor anything."""
    return None if sock is None else CommandServer(sock, SupervisorCommands(departure, versions))


class SupervisorCommands:
    def __init__(self, departure: Departure, versions: Deployer | None) -> None:
        self._departure, self._versions = departure, versions

    def handle(self, command: Command, now_s: float) -> Result:
        match command.verb:
            case Verb.DRAIN:
                return self._drain()
            case Verb.USE:
                return self._use(command.arguments["version"])
            case _:
                raise unknown_here(command.verb)

    def _drain(self) -> Result:
        """Not a signal to ourselves: the platform's own SIGTERM often follows a drain, and must not count as a second one."""
        already = self._departure.begun
        self._departure.begin(0, "asked to drain: finishing what has been accepted")
        return {"already": already}

    def _use(self, version: str) -> Result:
        if self._departure.begun:
            raise CommandError(Refusal.REFUSED, "the container is stopping")
        if self._versions is None:
            raise CommandError(Refusal.REFUSED, "there are no versions here")
        try:
            return self._versions.use(version)
        except CommandError as e:
            log("swap_asked", e.message, version=version, how="refused")
            raise
