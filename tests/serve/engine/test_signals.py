"""Signals of an engine: its own stay its own, and a script's handlers raise only into the script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from evenkeel.serve.engine.script_guard import guarded
from evenkeel.serve.engine.signals import ScriptSignals, runs_script
from evenkeel.serve.errors import ModelFailed


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptSignals]:
    """Installed here, and taken out again with everything that it has set."""
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    kept = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR2)}
    functions = signal.signal, signal.getsignal
    made = ScriptSignals()
    made.install()
    yield made
    signal.signal, signal.getsignal = functions
    for signum, handler in kept.items():
        signal.signal(signum, handler)


def late(*_: Any) -> None:
    raise TimeoutError("too late")


def test_a_scripts_handler_of_our_signal_is_called_at_the_end_and_not_before(signals: ScriptSignals) -> None:
    seen: list[str] = []
    signals.own(signal.SIGTERM, lambda *_: seen.append("ours"))
    signal.signal(signal.SIGTERM, lambda signum, frame: seen.append("theirs"))
    signal.raise_signal(signal.SIGTERM)
    assert seen == ["ours"]
    signals.pass_on(signal.SIGTERM)
    assert seen == ["ours", "theirs"]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, lambda *_: sys.exit(3), late])
def test_whatever_a_script_sets_the_end_is_reached(signals: ScriptSignals, handler: Any) -> None:
    seen: list[str] = []
    signal.signal(signal.SIGTERM, handler)  # before ours, as a model_fn does
    signals.own(signal.SIGTERM, lambda *_: seen.append("ours"))
    signal.signal(signal.SIGTERM, handler)  # and after it
    signal.raise_signal(signal.SIGTERM)
    signals.pass_on(signal.SIGTERM)
    assert seen == ["ours"]


def test_a_script_gets_back_what_it_has_set(signals: ScriptSignals) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for signum in (signal.SIGTERM, signal.SIGUSR2):
        before = signal.getsignal(signum)
        assert signal.signal(signum, late) is before
        assert signal.getsignal(signum) is late
        assert signal.signal(signum, signal.SIG_DFL) is late
        assert signal.getsignal(signum) is signal.SIG_DFL


def test_a_thread_may_set_no_handler_as_always(signals: ScriptSignals) -> None:
    found: list[str] = []

    def attempt() -> None:
        for signum in (signal.SIGTERM, signal.SIGUSR2):
            try:
                signal.signal(signum, late)
            except ValueError as e:
                found.append(str(e))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert len(found) == 2 and "main thread" in found[0]


def test_an_alarm_ends_the_call_of_the_script_that_set_it(signals: ScriptSignals) -> None:
    signal.signal(signal.SIGALRM, late)

    def predict() -> None:
        signal.raise_signal(signal.SIGALRM)

    with pytest.raises(ModelFailed, match="predict_fn raised TimeoutError: too late"):
        guarded("predict_fn", predict)


def test_an_alarm_that_comes_after_the_call_hits_nobody(signals: ScriptSignals, capsys: pytest.CaptureFixture[str]) -> None:
    signal.signal(signal.SIGALRM, late)
    signal.raise_signal(signal.SIGALRM)  # this is the engine's own code


def test_an_interrupt_reaches_the_script_only(signals: ScriptSignals) -> None:
    def predict() -> None:
        signal.raise_signal(signal.SIGINT)

    signal.raise_signal(signal.SIGINT)
    with pytest.raises(ModelFailed, match="predict_fn raised KeyboardInterrupt"):
        guarded("predict_fn", predict)


def test_what_runs_is_told_by_the_stack() -> None:
    assert guarded("f", lambda: runs_script(sys._getframe()))
    assert not runs_script(sys._getframe())


FORKED = """
import os, signal, sys
from evenkeel.serve.engine.signals import ScriptSignals
signals = ScriptSignals()
signals.install()
signals.own(signal.SIGTERM, lambda *_: None)
child = os.fork()
if child == 0:
    signal.raise_signal(signal.SIGTERM)
    os._exit(9)
_, status = os.waitpid(child, 0)
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, status
"""


def test_a_child_that_the_script_forks_ends_on_its_signal() -> None:
    """A pool of processes ends its workers so."""
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)
