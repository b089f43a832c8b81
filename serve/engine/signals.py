"""Signals of a process that also runs user code: ours stay ours, and a script's own handlers raise only into the script.

How it works. Handlers are set with `signal.signal`, so `ScriptSignals` takes its place. Of a signal that is ours (SIGTERM) the
script's handler is only remembered, and called at the end, when everything is answered: one that calls sys.exit() would else
end the engine in the middle of a request. Any other handler runs when its signal comes, but what it raises goes on only when
the script is at work (a call in script_guard.py is on the stack): an alarm that comes too late must not hit our own code.
A child that the script forks has no part in this. Libraries in C that call sigaction themselves are beyond it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

from evenkeel.serve.contract.logline import log
from evenkeel.serve.engine.foreign import said
from evenkeel.serve.engine.script_guard import blamed, guarded, judged

Handler = Any  # a function of (signum, frame), SIG_DFL, SIG_IGN or None


class ScriptSignals:
    """`_ours`: who owns which signal, None while it has no handler yet. `_theirs`: what the script set for one of those."""

    def __init__(self) -> None:
        self._set, self._get = signal.signal, signal.getsignal
        self._ours: dict[int, Callable[[int, FrameType | None], None] | None] = {signal.SIGTERM: None}
        self._theirs: dict[int, Handler] = {}

    def install(self) -> None:
        """From now on the script sets its handlers here."""
        self.set(signal.SIGINT, signal.default_int_handler)  # a library may raise it by _thread.interrupt_main()
        signal.signal, signal.getsignal = self.set, self.get
        os.register_at_fork(after_in_child=self._leave_child_alone)

    def own(self, signum: int, handler: Callable[[int, FrameType | None], None]) -> None:
        """Ours from now on, whatever the script has set or will."""
        self._ours[signum] = handler
        self._set(signum, handler)

    def set(self, signalnum: int, handler: Handler) -> Handler:
        """`signal.signal` as the script sees it."""
        if not callable(handler) and handler not in (signal.SIG_DFL, signal.SIG_IGN):  # None is not taken either
            return self._set(signalnum, handler)  # which says so
        if signalnum in self._ours:
            before = self.get(signalnum)
            self._set(signalnum, self._ours[signalnum] or signal.SIG_DFL)  # raises as Python does outside the main thread
            self._theirs[signalnum] = handler
            return before
        return _their_own(self._set(signalnum, partial(_held, handler) if callable(handler) else handler))

    def get(self, signalnum: int) -> Handler:
        """`signal.getsignal` as the script sees it."""
        return self._theirs.get(signalnum, signal.SIG_DFL) if signalnum in self._ours else _their_own(self._get(signalnum))

    def pass_on(self, signum: int) -> None:
        """Now that nothing can be disturbed any more: what the script wanted to do on this signal."""
        handler = self._theirs.get(signum)
        if callable(handler):
            with suppress(SystemExit):
                _held(handler, signum, None)

    def _leave_child_alone(self) -> None:
        signal.signal, signal.getsignal = self._set, self._get
        with suppress(ValueError):  # forked outside of the main thread
            for signum in self._ours:
                self._set(signum, self._theirs.get(signum, signal.SIG_DFL))


def _held(handler: Callable[..., Any], signum: int, frame: FrameType | None) -> Any:
    try:
        return handler(signum, frame)
    except BaseException as e:
        if runs_script(frame):
            raise
        if type(e) is not SystemExit:
            log("signal_handler_failed", f"the script's handler of signal {signum} raised outside of the script: {said(e)}")
        return None


def _their_own(handler: Handler) -> Handler:
    """As the script has given it."""
    return handler.args[0] if isinstance(handler, partial) and handler.func is _held else handler


def runs_script(frame: FrameType | None) -> bool:
    """Whether a call of the script is under way there, and not what `guarded` does before and after it."""
    called: FrameType | None = None
    while frame is not None:
        if frame.f_code is guarded.__code__ or frame.f_code is judged.__code__:
            return called is not None and called.f_code is not blamed.__code__
        called, frame = frame, frame.f_back
    return False
