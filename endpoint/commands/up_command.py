"""`evenkeel endpoint up`: the control plane and the router, in the foreground or apart."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from evenkeel.endpoint.commands import home_folder
from evenkeel.endpoint.commands.home_folder import HomeError, HomeNote

PORT = 4640  # the router's is the next
START_S = 60.0


def up(
    *,
    home: Annotated[str, Parameter(help="folder of everything; EVENKEEL_HOME, or ~/.evenkeel")] = "",
    port: Annotated[int, Parameter(help="port of the API; invocations go to the next; 0: any")] = PORT,
    speed: Annotated[float, Parameter(help="waits of deployments pass so many times faster")] = 1.0,
    payload_mb: Annotated[float, Parameter(help="largest body of an invocation in MiB; AWS names 6 and 25")] = 6.0,
    region: Annotated[str, Parameter(help="region in ARNs")] = "us-east-1",
    detach: Annotated[bool, Parameter(negative="", help="return once it is up")] = False,
    environ: Annotated[Mapping[str, str], Parameter(parse=False)],
) -> int:
    """Start a SageMaker endpoint on this machine: the API of boto3, with models as process trees behind it.

    Ctrl-C ends it with its instances; what there is stays in its home, and the next `up` goes on with it.

    Example:

        evenkeel endpoint up --detach
        eval "$(evenkeel endpoint env)"
    """
    if not (0 < speed <= 10_000 and 0 < payload_mb <= 100 and 0 <= port < 65535):
        raise HomeError("--speed is above 0 and at most 10000, --payload-mb above 0 and at most 100, --port below 65535")
    place = home_folder.home_of(home, environ)
    if detach:
        return _apart(place, sys.argv[1:], environ)
    from evenkeel.endpoint.control import control_process
    from evenkeel.endpoint.control.control_settings import ControlSettings
    from evenkeel.endpoint.wire.api_model import load_all

    load_all()  # where botocore is missing it is told now
    lock = home_folder.locked(place)
    if lock is None:
        raise HomeError(f"an endpoint is up in {place} already; see `evenkeel endpoint status`, or take another --home")
    listeners = (_listening(port), _listening(port and port + 1))
    ports = [listener.getsockname()[1] for listener in listeners]
    settings = ControlSettings(place, ports[0], ports[1], region, speed, payload_mb)
    note = HomeNote(os.getpid(), ports[0], ports[1], region)

    def ready() -> None:
        home_folder.write_note(place, note)
        print(f"the endpoint is up at http://127.0.0.1:{note.port}, home {place}", flush=True)
        print('in another shell: eval "$(evenkeel endpoint env)"', flush=True)

    asyncio.run(control_process.run(settings, listeners, environ.get("PATH", os.defpath), ready))
    (place / "up.json").unlink(missing_ok=True)
    os.close(lock)
    return 0


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as e:
        raise HomeError(f"port {port} of 127.0.0.1 cannot be had ({e.strerror}): take another --port") from e
    listener.listen(4096)
    return listener


def _apart(place: Path, words: list[str], environ: Mapping[str, str]) -> int:
    """The same again in a session of its own; its output goes to a file in its home."""
    if home_folder.is_up(place):
        raise HomeError(f"an endpoint is up in {place} already; see `evenkeel endpoint status`, or take another --home")
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    (place / "up.json").unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "evenkeel.endpoint", *(word for word in words if word != "--detach")]
    with (place / "output.log").open("ab") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=dict(environ)
        )
    end_s = time.monotonic() + START_S
    while not (place / "up.json").exists():
        if child.poll() is not None or time.monotonic() > end_s:
            last = (place / "output.log").read_text("utf-8", "replace").strip().splitlines()[-1:]
            raise HomeError(f"it did not start: {''.join(last) or 'no output'}")
        time.sleep(0.02)
    note = home_folder.note_of(place)
    print(f"the endpoint is up at http://127.0.0.1:{note.port}, home {place}")
    return 0
