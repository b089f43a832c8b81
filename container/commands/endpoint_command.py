"""`evenkeel endpoint`: another part's command, started like every role by command and never by import."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Annotated

from cyclopts import Parameter

from evenkeel.container.commands.sidecar_client import CommandFailed

MODULE = "evenkeel.endpoint"


def endpoint(*words: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """A SageMaker endpoint on this machine, for unmodified boto3: up, env, status, down.

    Example:

        evenkeel endpoint up --detach
    """
    if importlib.util.find_spec(MODULE) is None:  # the image of a container leaves it out
        raise CommandFailed("the endpoint is not part of this installation: pip install 'evenkeel[endpoint]'")
    os.execv(sys.executable, [sys.executable, "-P", "-m", MODULE, *words])
