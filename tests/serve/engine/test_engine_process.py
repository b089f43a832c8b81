"""A real engine process, told over its command channel what to load, as its supervisor does it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evenkeel.serve import settings as serve_settings
from evenkeel.serve.contract.commands import LINE_BYTES_MAX, Command, Verb, request_line
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.process_setup import EXIT_BAD_MODEL, role_command
from evenkeel.serve.contract.status_page import Engine, StatusPage
from evenkeel.serve.settings import EngineSettings

pytestmark = pytest.mark.slow


class EngineProcess:
    def __init__(self, folder: Path) -> None:
        self.folder, self.page = folder, StatusPage.create()
        (folder / "good").mkdir()
        (folder / "good" / "model.toml").write_text('backend = "echo"\n')
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(folder / "e"))
        listener.listen(8)
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(60)
        self.page.engine(0).count[Engine.EPOCH] = 1
        settings = EngineSettings(0, 1, listener.fileno(), self.page.fd, 1, True, 1, command_fd=theirs.fileno())
        self.process = subprocess.Popen(
            role_command("evenkeel.serve.engine.process", serve_settings.dump(settings)),
            pass_fds=(listener.fileno(), self.page.fd, theirs.fileno()), stdin=subprocess.DEVNULL)  # fmt: skip
        listener.close()
        theirs.close()

    def ask(self, id: int, verb: Verb, late_s: float = -60.0, **arguments: Any) -> None:
        self.socket.sendall(request_line(Command(id, verb, time.monotonic() - late_s, arguments)))

    def load(self, id: int, name: str, number: int = 0, generation: int = 1, late_s: float = -60.0) -> None:
        folder = str(self.folder / name)
        self.ask(id, Verb.LOAD, late_s, folder=folder, number=number, generation=generation, name=name, version="1")

    def answer(self) -> dict[str, Any]:
        line = b""
        while not line.endswith(b"\n"):
            data = self.socket.recv(LINE_BYTES_MAX)
            assert data, "the engine has closed the channel"
            line += data
        answer: dict[str, Any] = json.loads(line)
        return answer

    @property
    def state(self) -> ReplicaState:
        return ReplicaState(self.page.engine(0).count[Engine.STATE])


@pytest.fixture
def engine(short_path: Path) -> Iterator[EngineProcess]:
    made = EngineProcess(short_path)
    yield made
    made.socket.close()
    made.process.kill()
    made.process.wait()


def test_a_model_that_cannot_be_loaded_at_the_start_is_answered_and_ends_the_engine_for_good(engine: EngineProcess) -> None:
    engine.load(1, "missing")
    answer = engine.answer()
    assert answer["id"] == 1 and answer["error"]["code"] == "failed" and "missing" in answer["error"]["message"]
    assert engine.process.wait(60) == EXIT_BAD_MODEL and engine.state is ReplicaState.FAILED


def test_an_engine_waits_for_its_model_and_a_command_that_came_too_late_is_none(engine: EngineProcess) -> None:
    engine.load(1, "good", late_s=1.0)
    assert engine.answer()["error"]["code"] == "late"
    engine.ask(2, Verb.UNLOAD, number=0, generation=1)
    assert engine.answer()["error"]["code"] == "refused" and engine.state is ReplicaState.NEW
    engine.load(3, "good")
    assert engine.answer() == {"id": 3, "ok": {"number": 0, "revision": 1}} and engine.state is ReplicaState.READY


def test_models_come_and_go_in_an_engine_that_serves(engine: EngineProcess) -> None:
    engine.load(1, "good")
    engine.load(2, "missing", number=5)  # while the first is loaded, or behind it
    answers = {answer["id"]: answer for answer in (engine.answer(), engine.answer())}
    assert answers[1]["ok"] and answers[2]["error"]["code"] in ("busy", "failed")
    engine.load(3, "good", number=5, generation=2)
    assert engine.answer() == {"id": 3, "ok": {"name": "good", "version": "1", "number": 5, "revision": 2}}
    engine.load(4, "good", number=5, generation=3)
    assert engine.answer()["error"]["code"] == "refused"
    engine.ask(5, Verb.DESCRIBE)
    assert [(model["name"], model["revision"]) for model in engine.answer()["ok"]["models"]] == [("good", 1), ("good", 2)]
    engine.ask(6, Verb.UNLOAD, number=5, generation=2)
    assert engine.answer() == {"id": 6, "ok": {"number": 5}} and engine.state is ReplicaState.READY
    engine.ask(7, Verb.DRAIN)
    assert engine.answer() == {"id": 7, "ok": {}} and engine.process.wait(60) == 0
