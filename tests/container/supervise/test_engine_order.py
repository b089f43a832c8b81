"""An engine is told which model to load until it has heard that, and ended where it cannot be told."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.command_link import CommandLink
from evenkeel.container.supervise.engine_order import HEARD_S, ask_to_load, insist
from evenkeel.serve.contract.commands import LINE_BYTES_MAX, Answer, CommandError, Refusal, answer_line
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.model_order import ModelOrder
from evenkeel.serve.contract.status_page import Engine, StatusPage


@dataclass
class Told:
    """The supervisor's view of one engine, and the engine's end of the socket."""

    page: StatusPage
    child: Child
    engine: socket.socket

    def heard(self) -> dict[str, Any] | None:
        """What the engine was asked since it last looked."""
        try:
            data = self.engine.recv(LINE_BYTES_MAX)
        except BlockingIOError:
            return None
        command: dict[str, Any] = json.loads(data)
        return command

    def answer(self, id: int, refusal: Refusal | None, now_s: float) -> None:
        error = None if refusal is None else CommandError(refusal, "why")
        self.engine.send(answer_line(Answer(id, {}, error)))
        self.turn(now_s)

    def turn(self, now_s: float) -> None:
        assert self.child.link is not None
        self.child.link.turn(True, now_s)
        insist(self.page, [self.child], now_s)


@pytest.fixture
def told() -> Iterator[Told]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    child = Child("engine", 0, lambda epoch: [], (), order=lambda: ModelOrder("/m", 0, 3), link=CommandLink(ours))
    with subprocess.Popen(["/bin/sleep", "60"], start_new_session=True) as child.process, theirs:
        yield Told(StatusPage.create(), child, theirs)
        child.process.kill()


def test_one_that_found_the_command_too_late_is_told_again(told: Told) -> None:
    ask_to_load(told.child, 1.0)
    first = told.heard()
    assert first is not None and first["verb"] == "load" and first["deadline_s"] == 1.0 + HEARD_S
    told.answer(first["id"], Refusal.LATE, 70.0)
    again = told.heard()
    assert again is not None and again["arguments"] == first["arguments"] and again["deadline_s"] == 70.0 + HEARD_S
    told.answer(again["id"], None, 71.0)
    assert told.heard() is None and told.child.load_asked is None and not told.child.ending


def test_one_that_does_not_answer_is_told_again_only_while_it_has_not_begun(told: Told) -> None:
    ask_to_load(told.child, 1.0)
    assert told.heard() is not None
    told.turn(1.0 + HEARD_S)
    assert told.heard() is not None, "it may not have been there to hear"
    told.page.engine(0).count[Engine.STATE] = ReplicaState.LOADING
    told.turn(1.0 + 2 * HEARD_S)
    assert told.heard() is None and told.child.load_asked is None and not told.child.ending, "it takes its time"


def test_one_whose_load_failed_says_by_its_end_what_follows(told: Told) -> None:
    ask_to_load(told.child, 1.0)
    first = told.heard()
    assert first is not None
    told.page.engine(0).count[Engine.STATE] = ReplicaState.FAILED
    told.answer(first["id"], Refusal.FAILED, 2.0)
    assert told.heard() is None and not told.child.ending


def test_one_that_hears_nothing_any_more_before_it_knew_its_model_is_ended(told: Told) -> None:
    ask_to_load(told.child, 1.0)
    told.engine.close()
    told.turn(2.0)
    assert told.child.process is not None and told.child.process.wait(10) == -signal.SIGKILL and told.child.ending == "stuck"


def test_an_order_that_no_line_can_carry_ends_the_engine_and_not_the_supervisor(told: Told) -> None:
    told.child.order = lambda: ModelOrder("/" + "m" * LINE_BYTES_MAX, 0, 3)
    ask_to_load(told.child, 1.0)
    told.turn(1.0)
    assert told.child.ending == "stuck" and told.heard() is None
