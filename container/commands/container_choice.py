"""Which container a command speaks to: the options for it, the same for every command, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from evenkeel.container.commands import running_containers, sidecar_client
from evenkeel.container.commands.sidecar_client import NoAnswer, SidecarAddress
from evenkeel.container.environment import Environment

WHICH = Group("Which container", help="Without any of these it is the one that runs here.", sort_key=1)


@Parameter(name="*", group=WHICH)
@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerChoice:
    port: Annotated[int | None, Parameter(help="where several run here: the one that serves on this port")] = None
    socket: Annotated[Path | None, Parameter(help="admin.sock in its run directory, which needs no token")] = None
    url: Annotated[str | None, Parameter(help="its page, PORT or http://HOST:9090; changing calls send EVENKEEL_ADMIN_TOKEN")] = (
        None
    )


HERE = ContainerChoice()


def address(choice: ContainerChoice, env: Environment) -> SidecarAddress:
    """Raises NoAnswer where the choice leads to none, or to more than one."""
    if choice.url is not None:
        url = f"127.0.0.1:{choice.url}" if choice.url.isdigit() else choice.url
        return SidecarAddress(url, token=env.settings.admin_token)
    if choice.socket is not None:
        return SidecarAddress(str(choice.socket), choice.socket)
    chosen = running_containers.only(running_containers.find(env), wanted_port(choice, env), env)
    return SidecarAddress(chosen.name, chosen.socket)


def wanted_port(choice: ContainerChoice, env: Environment) -> int | None:
    """The port that was asked for; else that of the settings, where it was set by hand."""
    if choice.port is not None:
        return choice.port
    return env.settings.port or None if env.is_set("SAGEMAKER_BIND_TO_PORT") else None


def address_to_look_at(choice: ContainerChoice, env: Environment) -> SidecarAddress:
    """As `address`, for commands that change nothing: where no run directory leads anywhere, such as to a container of another
    machine whose page was published, the sidecar's address in the settings is asked."""
    by_hand = env.is_set("EVENKEEL_SIDECAR_ADDRESS")
    if by_hand and choice == HERE:
        return SidecarAddress(sidecar_client.sidecar_url(env))
    try:
        return address(choice, env)
    except NoAnswer:
        published = SidecarAddress(sidecar_client.sidecar_url(env))
        if choice != HERE or running_containers.find(env) or not published.answers():
            raise
        return published
