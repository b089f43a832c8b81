"""A version takes traffic only when its engines themselves say that it is what they have loaded."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.command_link import CommandLink
from evenkeel.container.versions.engine_readiness import ASK_EVERY_S, SHA256_S, EngineReadiness
from evenkeel.serve.contract import reach_cells
from evenkeel.serve.contract.command_peer import CommandPeer
from evenkeel.serve.contract.commands import Command, Result
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import Engine, StatusPage

REVISION = 3


class ReadyEngine:
    """READY on the page and reached by every front. It answers when the test lets it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        ours, theirs = socket.socketpair()
        self.page, self.peer = StatusPage.create(), CommandPeer(theirs)
        self.child = Child("engine", 0, lambda epoch: [], (), process=process, epoch=1, link=CommandLink(ours))
        block = self.page.engine(0)
        block.count[Engine.STATE], block.count[Engine.EPOCH] = ReplicaState.READY, 1
        block.value[Engine.STATE_SINCE_S] = 1.0
        self.readiness = EngineReadiness(self.page)
        self.model: Result = {"revision": REVISION, "sha256": "abc"}

    def handle(self, command: Command, now_s: float) -> Result:
        return {"models": [self.model]}

    def may(self, now_s: float) -> bool:
        return self.readiness.may_take_traffic(self.child, REVISION, now_s)

    def answers(self, now_s: float) -> None:
        self.peer.obey(self, now_s)
        assert self.child.link is not None
        self.child.link.turn(True, now_s)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReadyEngine]:
    monkeypatch.setattr(reach_cells, "reached_by_all", lambda page, place, now_s: True)
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        yield ReadyEngine(process)
        process.kill()


def test_an_engine_is_asked_and_takes_traffic_when_it_has_said_what_it_has(engine: ReadyEngine) -> None:
    assert not engine.may(2.0)
    engine.answers(2.1)
    assert engine.may(2.2) and engine.may(99.0), "it was asked once"


def test_one_that_is_ready_on_the_page_and_does_not_answer_takes_none(engine: ReadyEngine) -> None:
    for n in range(20):
        assert not engine.may(2.0 + n)
        assert engine.child.link is not None
        engine.child.link.turn(False, 2.5 + n)


def test_one_that_has_another_revision_loaded_takes_none(engine: ReadyEngine) -> None:
    engine.model = {"revision": REVISION - 1, "sha256": "abc"}
    engine.may(2.0)
    engine.answers(2.1)
    assert not engine.may(2.2)


def test_one_that_does_not_know_the_sum_of_its_files_yet_is_asked_again_for_a_while(engine: ReadyEngine) -> None:
    engine.model = {"revision": REVISION, "sha256": None}
    engine.may(2.0)
    engine.answers(2.1)
    assert not engine.may(2.0 + ASK_EVERY_S)
    engine.model = {"revision": REVISION, "sha256": "abc"}
    engine.answers(2.5)
    assert engine.may(2.6)


def test_a_sum_that_takes_too_long_keeps_nobody_from_the_traffic(engine: ReadyEngine) -> None:
    engine.model = {"revision": REVISION, "sha256": None}
    engine.may(2.0)
    engine.answers(2.1)
    assert not engine.may(2.2) and engine.may(1.1 + SHA256_S)


def test_the_next_life_of_an_engine_is_asked_anew(engine: ReadyEngine) -> None:
    engine.may(2.0)
    engine.answers(2.1)
    assert engine.may(2.2)
    engine.child.epoch = 2
    engine.page.engine(0).count[Engine.EPOCH] = 2
    assert not engine.may(2.3)
