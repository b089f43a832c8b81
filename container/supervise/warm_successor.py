"""A warm standby: the successor of a replica that is to go, made ready beside it. What it is started with, and whether
there is room for it. The supervisor starts it and lets it take over;
serve/engine/models/succession.py is its own side of this."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from evenkeel.serve import settings as serve_settings
from evenkeel.serve.contract.status_page import ENGINES_MAX
from evenkeel.serve.settings import EngineSettings

SPARE = ENGINES_MAX - 1  # the block of the status page where a standby says how far it is; one at a time
MARGIN = 1.2  # of what its predecessor took when it was new: what a replica takes varies with its start


def command(argv: Sequence[str]) -> list[str]:
    """The command line of an engine, as that of one that stands by."""
    settings = serve_settings.parse(EngineSettings, argv[-1])
    return [*argv[:-1], serve_settings.dump(dataclasses.replace(settings, successor_of=SPARE))]


def why_not(engines: int, needs_bytes: float, left_bytes: float) -> str:
    """Why no standby can be made beside the others, for the log; "" when there is room."""
    if engines >= ENGINES_MAX:
        return f"all {ENGINES_MAX} places are taken"
    if needs_bytes * MARGIN > left_bytes:
        needs, left = needs_bytes * MARGIN / 2**20, left_bytes / 2**20
        return f"another replica needs about {needs:.0f} MiB, and {left:.0f} MiB are left"
    return ""
