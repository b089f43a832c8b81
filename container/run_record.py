"""What a running container says of itself in its run directory, for the commands that look for it.

The supervisor writes it, and again when somebody has removed the run directory. Nothing that serves reads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

RECORD = "container.json"
BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class RunRecord:
    pid: int
    port: int  # of requests
    page: str  # the sidecar's address, as a URL of this machine
    model_dir: str

    def write(self, run_dir: Path) -> None:
        """Where the disk takes no more nobody is told: the container serves, and its socket still answers."""
        with contextlib.suppress(OSError):
            (run_dir / RECORD).write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")


def read(run_dir: Path) -> RunRecord | None:
    """None where there is none, or none of ours."""
    try:
        with (run_dir / RECORD).open("rb") as file:
            told = json.loads(file.read(BYTES_MAX))
        return RunRecord(int(told["pid"]), int(told["port"]), str(told["page"]), str(told["model_dir"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
