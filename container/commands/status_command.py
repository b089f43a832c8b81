"""`evenkeel status`: what the sidecar knows, for a person at a terminal; `--json` for programs, `--watch` to stay."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Annotated

from cyclopts import Parameter

from evenkeel.container import environment
from evenkeel.container.commands import container_choice
from evenkeel.container.commands.container_choice import HERE, ContainerChoice
from evenkeel.container.commands.sidecar_client import NoAnswer
from evenkeel.container.commands.status_picture import Paint, picture
from evenkeel.container.environment import Environment

WATCH_EVERY_S = 1.0
CLEAR = "\x1b[H\x1b[2J"
NO_ANSWER, NOT_READY = 1, 2


def status(
    *,
    json: Annotated[bool, Parameter(negative="", help="everything, as the sidecar's /status")] = False,
    watch: Annotated[bool, Parameter(negative="", help="again every second, until Ctrl-C")] = False,
    choice: ContainerChoice = HERE,
    environ: Annotated[Mapping[str, str], Parameter(parse=False)],
) -> int:
    """Say what a running container is doing: ready or why not, its model, its load, what went wrong.

    Examples:

        evenkeel status
        evenkeel status --port 8080 --watch

    Exit codes: 0 ready, 2 it answered and is not ready, 1 no answer.
    """
    env = environment.read(environ)
    is_terminal = sys.stdout.isatty()
    paint = Paint(environment.colours(environ, is_terminal))
    before = CLEAR if watch and is_terminal and not json else ""
    code = NO_ANSWER
    try:
        while True:
            try:
                code = _once(choice, env, json, paint, before)
            except NoAnswer as e:
                print(f"{before}evenkeel: {e}", file=sys.stderr)
                code = NO_ANSWER
            if not watch:
                return code
            time.sleep(WATCH_EVERY_S)
    except KeyboardInterrupt:
        return code


def _once(choice: ContainerChoice, env: Environment, as_json: bool, paint: Paint, before: str) -> int:
    address = container_choice.address_to_look_at(choice, env)
    # JSON has everything, the picture needs no history: the moment of its points is beyond every clock.
    reply = address.call("GET", "/status" if as_json else "/status?points_after_s=1e18")
    if reply.status != 200 or "ready" not in reply.body:
        raise NoAnswer(f"what answers at {address.where} is no evenkeel sidecar: {reply.error}")
    shown = json.dumps(reply.body) if as_json else f"{before}{picture(reply.body, paint)}\n\n{address.where}"
    print(shown, flush=True)
    return 0 if reply.body["ready"] else NOT_READY
