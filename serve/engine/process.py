"""The engine process: how it begins and how it ends. Owner of its block of the status page, but for PID and EPOCH.

Started by the supervisor as `python -m evenkeel.serve.engine.process '<EngineSettings as JSON>'`, with the listening socket
and the status page inherited, and told by command which model to load. What it does then is in engine_run.py. Exits with
EXIT_BAD_MODEL when starting it again could not help.
"""

from __future__ import annotations

import faulthandler
import signal
import sys

from evenkeel.serve.contract import logline
from evenkeel.serve.contract.commands import CommandError, Refusal
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.log_stream import LogStream
from evenkeel.serve.contract.logline import log, setup
from evenkeel.serve.contract.process_setup import DUMP_SIGNAL, EXIT_BAD_MODEL, EXIT_DEVICE, begin_role
from evenkeel.serve.contract.status_page import Engine
from evenkeel.serve.engine.failures import DeviceLost
from evenkeel.serve.engine.foreign import trace_of
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
        life.become(ReplicaState.FAILED)
        log("bad_model", e.message)
        if not settings.many:
            start.first.done(CommandError(Refusal.FAILED, e.message))
            start.commands.flush()
        logline.leave(EXIT_BAD_MODEL)
    except DeviceLost as e:
        log("device_lost", f"the device is in a state that only a new process can leave: {e}")
        logline.leave(EXIT_DEVICE)
    except BaseException as e:
        log("engine_failed", "the engine ends on a bug of ours; the supervisor starts another", trace=trace_of(e))
        logline.leave(1)
    leaving.begin(first=lambda: signals.pass_on(signal.SIGTERM))


if __name__ == "__main__":
    main()
