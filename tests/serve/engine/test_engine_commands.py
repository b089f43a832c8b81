"""The engine's end of the command channel, in a thread of this process."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from evenkeel.serve.contract.commands import LINE_BYTES_MAX, Command, Result, Verb, request_line
from evenkeel.serve.engine.engine_commands import EngineCommands

MODEL = {"name": "told", "version": "2", "revision": 7, "sha256": None}


class Models:
    def describe(self) -> list[Result]:
        return [MODEL]


@pytest.fixture
def supervisor() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    EngineCommands(theirs.detach()).start(Models())
    with ours:
        ours.settimeout(10)
        yield ours


def asked(sock: socket.socket, verb: Verb, **arguments: Any) -> dict[str, Any]:
    sock.sendall(request_line(Command(1, verb, time.monotonic() + 20, arguments)))
    answer: dict[str, Any] = json.loads(sock.recv(LINE_BYTES_MAX))
    return answer


def test_it_says_what_is_loaded(supervisor: socket.socket) -> None:
    assert asked(supervisor, Verb.DESCRIBE)["ok"] == {"models": [MODEL]}


def test_a_drain_is_answered_and_then_the_main_thread_is_told_as_by_sigterm(
    supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled, told = threading.Event(), list[tuple[int, int]]()

    def kill(thread: int, signum: int) -> None:
        told.append((thread, signum))
        signalled.set()

    monkeypatch.setattr(signal, "pthread_kill", kill)
    assert asked(supervisor, Verb.DRAIN)["ok"] == {}
    assert signalled.wait(10) and told == [(threading.main_thread().ident, signal.SIGTERM)]


def test_what_it_does_not_know_changes_nothing(supervisor: socket.socket) -> None:
    assert asked(supervisor, Verb.USE, version="2")["error"]["code"] == "unknown_verb"
    supervisor.sendall(b"drain\n")
    assert json.loads(supervisor.recv(LINE_BYTES_MAX))["error"]["code"] == "malformed"
    assert asked(supervisor, Verb.DESCRIBE)["ok"] == {"models": [MODEL]}


def test_a_supervisor_that_has_gone_ends_the_thread() -> None:
    ours, theirs = socket.socketpair()
    before = set(threading.enumerate())
    EngineCommands(theirs.detach()).start(Models())
    (thread,) = set(threading.enumerate()) - before
    ours.close()
    thread.join(10)
    assert not thread.is_alive()
