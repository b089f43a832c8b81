"""How an engine ends on an error: what it says of it, and the exit code by which the supervisor knows whether starting it again
could help.
"""

from __future__ import annotations

from typing import NoReturn

from evenkeel.serve.contract.commands import CommandError, Refusal
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import leave, log
from evenkeel.serve.contract.process_setup import EXIT_BAD_MODEL, EXIT_DEVICE
from evenkeel.serve.engine.failures import DeviceLost
from evenkeel.serve.engine.foreign import trace_of
from evenkeel.serve.engine.start import Start
from evenkeel.serve.errors import BadModel


def end_on_bad_model(error: BadModel, start: Start) -> NoReturn:
    """The supervisor, which has ordered it, hears why before the process goes."""
    start.life.become(ReplicaState.FAILED)
    log("bad_model", error.message)
    if not start.settings.many:
        start.first.done(CommandError(Refusal.FAILED, error.message))
        start.commands.flush()
    leave(EXIT_BAD_MODEL)


def end_on_lost_device(error: DeviceLost) -> NoReturn:
    log("device_lost", f"the device is in a state that only a new process can leave: {error}")
    leave(EXIT_DEVICE)


def end_on_bug(error: BaseException) -> NoReturn:
    log("engine_failed", "the engine ends on a bug of ours; the supervisor starts another", trace=trace_of(error))
    leave(1)
