"""What the sidecar is told at start."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    listen_fd: int
    status_fd: int
    log_text: bool
    shape_log: str = ""  # file to keep the shapes in use in; empty: none


def dump(settings: SidecarSettings) -> str:
    return json.dumps(dataclasses.asdict(settings))


def parse(text: str) -> SidecarSettings:
    return SidecarSettings(**json.loads(text))
