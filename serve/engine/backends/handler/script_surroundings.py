"""What a script finds around it as it begins: the working directory, arguments and logging that AWS's worker gives it.

multi-model-server and TorchServe start a worker in the model's folder and call `logging.basicConfig(stream=sys.stdout,
format="%(message)s", level=INFO)` before they load a script. So `open("weights.txt")` finds a file of the model, and
`logger.info` is seen. All three belong to the whole process: this is for one that holds no other model.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from evenkeel.serve.contract.library_lines import LibraryHandler
from evenkeel.serve.contract.line_budget import LINES_PER_S
from evenkeel.serve.contract.log_stream import LogStream

EVENT = "user_log"  # what it prints is user_output


def prepare(file: Path, folder: Path) -> None:
    """For the script `file` of the model in `folder`. Raises OSError when the folder cannot be entered."""
    os.chdir(folder)
    sys.argv[:] = [str(file)]  # a script that is its own training program may parse them at import
    root = logging.getLogger()
    if not root.handlers:  # as basicConfig has it; one that the script sets up later does nothing, as at AWS
        root.addHandler(_handler())
        root.setLevel(logging.INFO)


def _handler() -> logging.Handler:
    if isinstance(sys.stdout, LogStream):  # an engine: each record keeps its level in our log
        return LibraryHandler(EVENT, LINES_PER_S)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler
