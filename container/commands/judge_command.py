"""`evenkeel judge`: another part's command, started like every role by command and never by import.

What is added here: without a baseline, the container that runs on this machine is the one that serves now.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

from cyclopts import Parameter

from evenkeel.container import environment
from evenkeel.container.commands import container_choice, running_containers
from evenkeel.container.commands.container_choice import ContainerChoice
from evenkeel.container.commands.sidecar_client import CommandFailed
from evenkeel.container.environment import Environment

JUDGE = (sys.executable, "-P", "-m", "evenkeel.sidecar.rollout.judge")
COULD_NOT_JUDGE = 3
NAMED = "--production HOST:PORT"
COMPLETE = ("--baseline", "--production", "--prometheus", "--replay", "--help", "-h")  # with one of these nothing is added


def judge(
    *words: Annotated[str, Parameter(allow_leading_hyphen=True)],
    environ: Annotated[Mapping[str, str], Parameter(parse=False)],
) -> int:
    """Compare a candidate with a baseline by their counters: promote, hold or roll back.

    Example:

        evenkeel judge --candidate localhost:8081
    """
    try:
        complete = completed(words, environment.read(environ))
    except CommandFailed as e:
        wrong = subprocess.run([*JUDGE, *words, "--only-check"], check=False).returncode
        if wrong:  # told by the judge itself: a wrong word goes before a container that is not there
            return wrong
        print(f"evenkeel judge: {e}", file=sys.stderr)
        return COULD_NOT_JUDGE
    os.execv(sys.executable, [*JUDGE, *complete])


def completed(words: Sequence[str], env: Environment) -> list[str]:
    """The words for the judge. Raises CommandFailed where it cannot be told which container serves now."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--port=") else [word])]
    if "--port" in words:
        at = words.index("--port")
        named = words[at + 1] if at + 1 < len(words) else ""
        if not named.isdigit():
            raise CommandFailed(f"--port {named} must be the data port of a container that runs here")
        return [*words[:at], *words[at + 2 :], "--production", _production(words, env, int(named))]
    if any(word.partition("=")[0] in COMPLETE for word in words) or "--candidate" not in words:
        return list(words)
    return [*words, "--production", _production(words, env, None)]


def _production(words: Sequence[str], env: Environment, port: int | None) -> str:
    """The data port of the container that serves now: any that runs here and is no candidate."""
    wanted = container_choice.wanted_port(ContainerChoice(port=port), env)
    others = [c for c in running_containers.find(env) if port is not None or not any(w.endswith(f":{c.port}") for w in words)]
    chosen = running_containers.only(others, wanted, env, NAMED, NAMED)
    if chosen.port is None:
        raise CommandFailed(f"the container at {chosen.socket} does not say its port: name it with --production HOST:PORT")
    return f"127.0.0.1:{chosen.port}"
