"""`evenkeel endpoint env`: the exports that send an unmodified script here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated

from cyclopts import Parameter

from evenkeel.endpoint.commands import home_folder


def env(
    *,
    home: Annotated[str, Parameter(help="folder that `up` was given")] = "",
    environ: Annotated[Mapping[str, str], Parameter(parse=False)],
) -> int:
    """Print lines for a shell, after which boto3 and others call the endpoint on this machine and never AWS.

    Example:

        eval "$(evenkeel endpoint env)"
    """
    note = home_folder.note_of(home_folder.home_of(home, environ))
    for name, value in home_folder.exports(note).items():
        print(f"export {name}={shlex.quote(value)}")
    print("unset AWS_PROFILE AWS_SESSION_TOKEN")
    return 0
