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

from evenkeel.serve.contract.commands import LINE_BYTES_MAX, Command, CommandError, Refusal, Result, Verb, request_line
from evenkeel.serve.contract.model_order import ModelOrder
from evenkeel.serve.engine.engine_commands import EngineCommands, Finish

MODEL = {"name": "told", "version": "2", "revision": 7, "sha256": None}


class Models:
    """Remembers what it was told, and who is to be told what came of it."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.finish: list[Finish] = []

    def load(self, order: ModelOrder, finish: Finish) -> None:
        if order.number == 13:
            raise CommandError(Refusal.REFUSED, "not that one")
        self.told.append(order)
        self.finish.append(finish)

    def unload(self, number: int, generation: int, finish: Finish) -> None:
        self.told.append((number, generation))
        self.finish.append(finish)

    def describe(self) -> Result:
        return {"models": [MODEL]}


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def supervisor(models: Models) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    EngineCommands(theirs.detach(), models).start()
    with ours:
        ours.settimeout(10)
        yield ours


def tell(sock: socket.socket, verb: Verb, id: int = 1, **arguments: Any) -> None:
    sock.sendall(request_line(Command(id, verb, time.monotonic() + 20, arguments)))


def heard(sock: socket.socket) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(sock.recv(LINE_BYTES_MAX))
    return answer


def asked(sock: socket.socket, verb: Verb, **arguments: Any) -> dict[str, Any]:
    tell(sock, verb, **arguments)
    return heard(sock)


def test_it_says_what_is_loaded(supervisor: socket.socket) -> None:
    assert asked(supervisor, Verb.DESCRIBE)["ok"] == {"models": [MODEL]}


def test_a_load_is_answered_when_it_is_done_and_others_are_heard_meanwhile(supervisor: socket.socket, models: Models) -> None:
    tell(supervisor, Verb.LOAD, id=5, folder="/m", number=3, generation=8, name="iris")
    assert asked(supervisor, Verb.DESCRIBE)["id"] == 1
    assert models.told == [ModelOrder("/m", 3, 8, name="iris")]
    models.finish[0]({"number": 3})
    assert heard(supervisor) == {"id": 5, "ok": {"number": 3}}


def test_a_load_that_fails_and_one_that_cannot_begin_are_errors(supervisor: socket.socket, models: Models) -> None:
    tell(supervisor, Verb.LOAD, id=6, folder="/m", number=3, generation=8)
    tell(supervisor, Verb.LOAD, id=7, folder="/m", number=13, generation=8)
    assert heard(supervisor) == {"id": 7, "error": {"code": "refused", "message": "not that one"}}
    models.finish[0](CommandError(Refusal.FAILED, "no such file"))
    assert heard(supervisor) == {"id": 6, "error": {"code": "failed", "message": "no such file"}}


def test_an_unload_names_number_and_generation(supervisor: socket.socket, models: Models) -> None:
    tell(supervisor, Verb.UNLOAD, id=9, number=3, generation=8)
    assert asked(supervisor, Verb.DESCRIBE)["id"] == 1
    assert models.told == [(3, 8)]
    models.finish[0]({})
    assert heard(supervisor) == {"id": 9, "ok": {}}


@pytest.mark.parametrize("arguments", [
    {"folder": "/m", "number": 1}, {"folder": "", "number": 1, "generation": 1}, {"folder": "/m", "number": -1, "generation": 1},
    {"folder": "/m", "number": 1 << 32, "generation": 1}, {"folder": "/m", "number": True, "generation": 1},
    {"folder": "/m", "number": 1, "generation": 1, "name": ""}, {"folder": "/m", "number": 1, "generation": 1, "more": 1},
])  # fmt: skip
def test_a_load_with_arguments_that_it_does_not_have_changes_nothing(
    supervisor: socket.socket, models: Models, arguments: dict[str, Any]
) -> None:
    error = asked(supervisor, Verb.LOAD, **arguments)["error"]
    assert error["code"] == "malformed" and "folder (str, not empty)" in error["message"] and models.told == []


def test_a_load_that_comes_late_changes_nothing(supervisor: socket.socket, models: Models) -> None:
    arguments = {"folder": "/m", "number": 1, "generation": 1}
    supervisor.sendall(request_line(Command(1, Verb.LOAD, time.monotonic() - 1, arguments)))
    assert heard(supervisor)["error"]["code"] == "late" and models.told == []


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
    EngineCommands(theirs.detach(), Models()).start()
    (thread,) = set(threading.enumerate()) - before
    ours.close()
    thread.join(10)
    assert not thread.is_alive()
