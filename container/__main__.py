"""The command line `evenkeel`. What a container runs, `serve` and nothing else, begins before anything heavy is imported."""

from __future__ import annotations

import os
import signal
import sys

# The kernel keeps from the first process of a container every signal that it has no handler for, so a stop that comes while it
# still imports would be lost, and the platform would wait 30 s. Before there is anything to finish, a stop ends it.
if os.getpid() == 1:
    for _early in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_early, lambda signum, frame: os._exit(128 + signum))

from evenkeel.serve.contract.process_setup import begin_anywhere, keep_standard_descriptors


def main(argv: list[str] | None = None) -> int:
    begin_anywhere()
    keep_standard_descriptors()
    words = sys.argv[1:] if argv is None else argv
    try:
        if words == ["serve"]:  # as SageMaker starts it: all that it is told are variables
            from evenkeel.container.commands import serve_command

            return serve_command.main(os.environ)
        from evenkeel.container.commands import command_line

        return command_line.main(words, os.environ)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
