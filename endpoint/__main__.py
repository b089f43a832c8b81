"""The command line `evenkeel endpoint …`: started by the container's by command, so that neither imports the other."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping, Sequence

from cyclopts import App, CycloptsError

from evenkeel.endpoint.commands import down_command, endpoints_command, env_command, up_command
from evenkeel.endpoint.commands.home_folder import HomeError
from evenkeel.endpoint.wire.api_model import NoBotocore
from evenkeel.serve.contract import logline
from evenkeel.serve.contract.process_setup import begin_anywhere, keep_standard_descriptors

FAILED, WRONG_USE = 1, 2
VERBS = {"up": up_command.up, "env": env_command.env, "status": endpoints_command.status, "down": down_command.down}
HELP = "A SageMaker endpoint on this machine, for unmodified boto3."


def build() -> App:
    app = App(name="evenkeel endpoint", version_flags=(), result_action="return_value", help_format="plaintext", help=HELP)
    for verb, function in VERBS.items():
        app.command(function, name=verb, help=inspect.getdoc(function))
    return app


def main(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """The exit code. What a person did wrong is told in a line."""
    app = build()
    if not words:
        app.help_print([])
        return WRONG_USE
    try:
        command, bound, ignored = app.parse_args(list(words), exit_on_error=False, print_error=False)
        if "environ" in ignored:
            bound.arguments["environ"] = environ
        return command(*bound.args, **bound.kwargs) or 0
    except CycloptsError as e:
        print(logline.safe(f"evenkeel endpoint: {str(e).rstrip('.')}; see evenkeel endpoint --help"), file=sys.stderr)
        return WRONG_USE
    except (HomeError, NoBotocore, OSError) as e:
        print(logline.safe(f"evenkeel endpoint: {e}"), file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    begin_anywhere()
    keep_standard_descriptors()
    sys.exit(main(sys.argv[1:], os.environ))
