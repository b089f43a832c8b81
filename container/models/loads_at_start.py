"""The models with which a container of many begins, where nobody is to name them one by one: those in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from evenkeel.container.models.placement import Placement
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.model_table import URL_BYTES_MAX


def load_all(models: Placement, folder: Path) -> None:
    """Each folder there under its name. One that is no model is told of in the log, and harms nobody."""
    for each in sorted(path for path in folder.resolve().iterdir() if path.is_dir() and not path.name.startswith(".")):
        if len(os.fsencode(each)) <= URL_BYTES_MAX:
            models.add(each.name, str(each), str(each))
        else:
            log("model_not_loaded", f"the path of {each} is longer than {URL_BYTES_MAX} bytes", level="warning")
