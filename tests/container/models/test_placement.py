"""Which models are loaded where: engines are played by the test, at the other end of their sockets."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from evenkeel.container.models.placed_model import NEXT, PlacedState, step
from evenkeel.container.models.placement import LOAD_S, Placement
from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.command_link import CommandLink
from evenkeel.serve.contract.commands import LINE_BYTES_MAX, Answer, CommandError, Later, Refusal, answer_line
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.model_table import LoadedNames, ModelTable
from evenkeel.serve.contract.status_page import Engine, StatusPage


class PlayedEngine:
    """An engine that answers what the test says, and the child that the supervisor has of it."""

    def __init__(self, page: StatusPage, place: int) -> None:
        self.page = page
        self.child = Child("engine", place, lambda epoch: [], ())
        self.begin()

    def begin(self) -> None:
        ours, self.socket = socket.socketpair()
        self.socket.setblocking(False)
        self.child.process = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
        self.child.link, self.child.epoch = CommandLink(ours), self.child.epoch + 1
        count = self.page.engine(self.child.place).count
        count[Engine.EPOCH], count[Engine.STATE] = self.child.epoch, ReplicaState.READY

    def end(self) -> None:
        assert self.child.process is not None and self.child.link is not None
        self.child.process.kill()
        self.child.process.wait()
        self.child.link.close()
        self.socket.close()
        self.child.process = self.child.link = None
        self.page.engine(self.child.place).count[Engine.STATE] = ReplicaState.NEW

    def asked(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in self.socket.recv(LINE_BYTES_MAX).splitlines()]
        except BlockingIOError:
            return []

    def answer(self, command: dict[str, Any], error: CommandError | None = None) -> None:
        self.socket.send(answer_line(Answer(command["id"], {}, error)))


class Placed:
    def __init__(self, engines: int = 1) -> None:
        self.page, self.table, self.now_s = StatusPage.create(), ModelTable.create(), 1.0
        self.engines = [PlayedEngine(self.page, place) for place in range(engines)]
        self.models = Placement(self.page, self.table, [engine.child for engine in self.engines])
        self.names = LoadedNames(self.table)

    def add(self, name: str) -> Later:
        return self.models.add(name, f"/models/{name}", f"/real/{name}")

    def turn(self, seconds: float = 0.1) -> None:
        self.now_s += seconds
        for engine in self.engines:
            if engine.child.link is not None:
                engine.child.link.turn(True, self.now_s)
        self.models.tick(self.now_s)

    def loaded(self, *names: str) -> None:
        """Until all of them are."""
        laters = [self.add(name) for name in names]
        for _ in names:
            self.turn()
            for engine in self.engines:
                for command in engine.asked():
                    engine.answer(command)
            self.turn()
        assert all(isinstance(later.outcome, dict) for later in laters)

    def listed(self) -> list[str]:
        return [row.name for row in self.names.page(0, 1000)[0]]


@pytest.fixture
def placed() -> Iterator[Placed]:
    made = Placed()
    yield made
    for engine in made.engines:
        if engine.child.process is not None:
            engine.end()
    os.close(made.table.fd)


def refusal(later: Later) -> str:
    assert isinstance(later.outcome, CommandError)
    return later.outcome.refusal


def test_a_model_is_listed_from_when_its_engine_takes_requests_for_it_until_it_is_to_go(placed: Placed) -> None:
    later = placed.add("a")
    placed.turn()
    (command,) = placed.engines[0].asked()
    assert (command["verb"], command["arguments"]["folder"], command["arguments"]["name"]) == ("load", "/real/a", "a")
    assert placed.listed() == [] and later.outcome is None
    placed.engines[0].answer(command)
    placed.turn()
    assert placed.listed() == ["a"] and later.outcome == {}
    row = placed.names.find("a")
    assert row is not None and row.ref == command["arguments"]["generation"] << 32 | command["arguments"]["number"]
    gone = placed.models.remove("a")
    assert placed.listed() == [] and gone.outcome is None, "nobody is to send anything there any more"
    placed.turn()
    (command,) = placed.engines[0].asked()
    assert command["verb"] == "unload" and gone.outcome is None
    placed.engines[0].answer(command)
    placed.turn()
    assert gone.outcome == {}


def test_what_is_loaded_is_not_loaded_again_and_what_is_not_cannot_be_unloaded(placed: Placed) -> None:
    placed.loaded("a")
    with pytest.raises(CommandError, match="'a' is loaded already") as raised:
        placed.add("a")
    assert raised.value.refusal == Refusal.LOADED
    with pytest.raises(CommandError, match="no model 'b' is loaded") as raised:
        placed.models.remove("b")
    assert raised.value.refusal == Refusal.NOT_LOADED
    placed.models.remove("a")
    with pytest.raises(CommandError) as raised:
        placed.models.remove("a")
    assert raised.value.refusal == Refusal.NOT_LOADED
    with pytest.raises(CommandError) as raised:
        placed.add("a")
    assert raised.value.refusal == Refusal.BUSY and raised.value.retry_after_s


def test_ten_who_want_one_model_cause_one_load(placed: Placed) -> None:
    laters = [placed.add("a") for _ in range(10)]
    placed.turn()
    (command,) = placed.engines[0].asked()
    placed.engines[0].answer(command)
    placed.turn()
    assert laters[0].outcome == {} and [refusal(later) for later in laters[1:]] == [Refusal.LOADED] * 9


def test_a_load_that_fails_is_told_to_all_who_waited_and_leaves_nothing(placed: Placed) -> None:
    laters = [placed.add("a"), placed.add("a")]
    placed.turn()
    (command,) = placed.engines[0].asked()
    placed.engines[0].answer(command, CommandError(Refusal.NO_MEMORY, "too large"))
    placed.turn()
    assert [refusal(later) for later in laters] == [Refusal.NO_MEMORY] * 2 and placed.listed() == []
    placed.loaded("a")


def test_an_engine_loads_one_at_a_time_and_engines_share_the_models(placed: Placed) -> None:
    for name in "abc":
        placed.add(name)
    placed.turn()
    assert [c["arguments"]["name"] for c in placed.engines[0].asked()] == ["a"]
    both = Placed(engines=2)
    for name in "abcd":
        both.add(name)
    both.turn()
    assert [[c["arguments"]["name"] for c in engine.asked()] for engine in both.engines] == [["a"], ["b"]]
    for engine in both.engines:
        engine.end()


def test_after_the_end_of_its_engine_a_model_stays_listed_and_is_loaded_again_under_another_generation(placed: Placed) -> None:
    placed.loaded("a", "b")
    before = placed.names.find("a")
    placed.engines[0].end()
    placed.turn()
    assert placed.listed() == ["a", "b"]
    placed.engines[0].begin()
    for name in "ab":
        placed.turn()
        (command,) = placed.engines[0].asked()
        assert command["arguments"]["name"] == name
        placed.engines[0].answer(command)
        placed.turn()
    after = placed.names.find("a")
    assert before is not None and after is not None and after.ref > before.ref and placed.listed() == ["a", "b"]


def test_what_was_being_loaded_when_its_engine_ended_is_refused_and_not_tried_again(placed: Placed) -> None:
    placed.loaded("good")
    bad = placed.add("bad")
    placed.turn()
    placed.engines[0].asked()
    placed.engines[0].end()
    placed.turn()
    assert refusal(bad) == Refusal.FAILED and placed.listed() == ["good"]
    placed.engines[0].begin()
    placed.turn()
    assert [c["arguments"]["name"] for c in placed.engines[0].asked()] == ["good"]
    placed.engines[0].end()
    placed.turn()
    assert placed.listed() == [], "it may be what ended it this time"


def test_what_is_to_go_while_its_engine_has_ended_or_loads_it_again_goes(placed: Placed) -> None:
    placed.loaded("a", "b")
    placed.engines[0].end()
    placed.turn()
    gone = placed.models.remove("a")
    placed.turn()
    assert gone.outcome == {} and placed.listed() == ["b"]
    placed.engines[0].begin()
    placed.turn()
    (command,) = placed.engines[0].asked()
    gone = placed.models.remove("b")
    placed.engines[0].answer(command)
    placed.turn()
    placed.turn()
    (command,) = placed.engines[0].asked()
    assert command["verb"] == "unload" and placed.listed() == [] and gone.outcome is None
    placed.engines[0].answer(command)
    placed.turn()
    assert gone.outcome == {}


def test_an_engine_whose_load_never_ends_is_started_anew(placed: Placed) -> None:
    later = placed.add("a")
    placed.turn()
    placed.turn(LOAD_S)
    child = placed.engines[0].child
    assert refusal(later) == Refusal.FAILED and child.ending == "stuck" and child.process is not None and child.process.wait(10)


@pytest.mark.parametrize(("state", "target"), list(itertools.product(PlacedState, PlacedState)))
def test_only_the_steps_of_the_table_are_possible(state: PlacedState, target: PlacedState) -> None:
    if target in NEXT[state]:
        assert step(state, target) is target
    else:
        with pytest.raises(ValueError, match="illegal transition"):
            step(state, target)
