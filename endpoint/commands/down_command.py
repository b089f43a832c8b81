"""`evenkeel endpoint down`: everything ends, and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Mapping
from typing import Annotated

from cyclopts import Parameter

from evenkeel.endpoint.commands import home_folder
from evenkeel.endpoint.commands.home_folder import HomeError

WAIT_S = 60.0  # instances have 30 s to drain


def down(
    *,
    home: Annotated[str, Parameter(help="folder that `up` was given")] = "",
    keep: Annotated[bool, Parameter(negative="", help="leave what there is in the home, for the next `up`")] = False,
    environ: Annotated[Mapping[str, str], Parameter(parse=False)],
) -> int:
    """End the endpoint on this machine: its processes, and without --keep the files of its home too.

    Example:

        evenkeel endpoint down
    """
    place = home_folder.home_of(home, environ)
    if home_folder.is_up(place):
        note = home_folder.note_of(place)
        os.kill(note.pid, signal.SIGTERM)
        end_s = time.monotonic() + WAIT_S
        while home_folder.is_up(place):
            if time.monotonic() > end_s:
                raise HomeError(f"process {note.pid} does not end")
            time.sleep(0.02)
    elif not place.exists():
        raise HomeError(f"nothing is up in {place}")
    else:
        _end_left_instances(place)
    if not keep:
        shutil.rmtree(place)
        with contextlib.suppress(OSError):  # where nothing else is in it
            place.parent.rmdir()
    print(f"down: {place}{' (kept)' if keep else ''}")
    return 0


def _end_left_instances(place: os.PathLike[str]) -> None:
    """Of a process that was killed: they run on until somebody takes them over or ends them."""
    from pathlib import Path

    from evenkeel.endpoint.control.journal_store import JournalStore
    from evenkeel.endpoint.fleet import instance_process
    from evenkeel.endpoint.fleet.instance_process import RunningProcess

    store = JournalStore(Path(place) / "journal.jsonl")
    running = [RunningProcess(**row["running"]) for row in store.rows("instances").values() if row["running"]]
    store.close()
    for each in running:
        instance_process.ask_to_end(each)
    end_s = time.monotonic() + WAIT_S / 2
    while any(map(instance_process.lives, running)) and time.monotonic() < end_s:
        time.sleep(0.05)
    for each in running:
        instance_process.kill(each)
