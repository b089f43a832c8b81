"""The front process: gunicorn as the parent of N workers, each a uvicorn server with our protocol.

Started by the supervisor as `python -m serve.front.process '<FrontSettings as JSON>'`. Everything is imported before the fork: a
replaced worker serves within milliseconds, and the pages are shared.
"""

from __future__ import annotations

import os
import signal
import sys

from serve.contract.logline import setup
from serve.contract.process import die_with_parent
from serve.front.arbiter import Application
from serve.settings import FrontSettings, parse


def main() -> None:
    settings = parse(FrontSettings, sys.argv[1])
    die_with_parent(os.getppid(), signal.SIGTERM)
    setup("front", text=settings.log_text)
    sys.argv = ["evenkeel-front"]
    Application(settings).run()


if __name__ == "__main__":
    main()
