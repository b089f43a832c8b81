"""The front process: gunicorn as the parent of N workers, each a uvicorn server with our protocol.

Started by the supervisor, whose pid and settings for us are the arguments. Everything is imported before the fork: a replaced
worker serves within milliseconds, and the pages are shared.
"""

from __future__ import annotations

import sys

from evenkeel.serve.contract import logline
from evenkeel.serve.contract.library_lines import capture
from evenkeel.serve.contract.logline import setup
from evenkeel.serve.contract.process_setup import begin_role, give_back_large_memory
from evenkeel.serve.contract.status_page import Main
from evenkeel.serve.settings import FrontSettings, parse


def main() -> None:
    settings = parse(FrontSettings, begin_role())
    give_back_large_memory()
    setup("front", text=settings.log_text, fd=settings.log_fd)
    capture()
    from evenkeel.serve.front.arbiter import Application  # it takes a second, and the supervisor may end meanwhile

    sys.argv = ["evenkeel-front"]
    application = Application(settings)
    logline.sink().count_in(application.places.page.main.count, Main.WORKERS_LINES_LOST)
    application.run()


if __name__ == "__main__":
    main()
