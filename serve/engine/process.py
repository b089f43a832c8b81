"""The engine process: how it begins and how it ends. Owner of its block of the status page, but for PID and EPOCH.

Started by the supervisor as `python -m evenkeel.serve.engine.process '<EngineSettings as JSON>'`, with the listening socket
and the status page inherited, and told by command which model to load. What it does then is in engine_run.py, and how
it ends on an error in engine_exit.py.
"""

from __future__ import annotations

import faulthandler
import signal
import sys

from evenkeel.serve.contract import logline
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.log_stream import LogStream
from evenkeel.serve.contract.logline import setup
from evenkeel.serve.contract.process_setup import DUMP_SIGNAL, begin_role
from evenkeel.serve.contract.status_page import Engine
from evenkeel.serve.engine.engine_exit import end_on_bad_model, end_on_bug, end_on_lost_device
from evenkeel.serve.engine.failures import DeviceLost
from evenkeel.serve.engine.leaving import Leaving
from evenkeel.serve.engine.signals import ScriptSignals
from evenkeel.serve.engine.start import Start
from evenkeel.serve.errors import BadModel
from evenkeel.serve.settings import EngineSettings, parse


def main() -> None:
    settings = parse(EngineSettings, begin_role())
    setup(f"engine-{settings.place}", text=settings.log_text, fd=settings.log_fd)
    sys.stdout, sys.stderr = LogStream("stdout"), LogStream("stderr")
    leaving, signals = Leaving(), ScriptSignals()
    signals.install()
    faulthandler.enable(2)  # the stacks of a crash in native code, below our log: the supervisor reads it
    faulthandler.register(DUMP_SIGNAL, 2)
    start = Start.of(settings, signals)
    life = start.life
    logline.sink().count_in(life.block.count, Engine.LINES_LOST)
    if not settings.many:
        start.commands.start()
    try:
        order = None if settings.many else start.first.wait()
        life.become(ReplicaState.LOADING)
        from evenkeel.serve.engine.engine_run import run, run_many  # NumPy comes with it, so only from here on

        if order is None:
            run_many(start)
        else:
            run(start, order)
    except BadModel as e:
        end_on_bad_model(e, start)
    except DeviceLost as e:
        end_on_lost_device(e)
    except BaseException as e:
        end_on_bug(e)
    leaving.begin(first=lambda: signals.pass_on(signal.SIGTERM))


if __name__ == "__main__":
    main()
