"""The supervisor asks an engine, which answers, or is killed, frozen, or says what is no answer."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.command_link import ASKED_MAX, REST_S, CommandLink
from evenkeel.container.supervise.engine_leave import ANSWER_S, ask_to_leave, insist
from evenkeel.serve.contract.command_peer import CommandPeer
from evenkeel.serve.contract.commands import Command, Refusal, Result, Verb, unknown_here


class Engine:
    def handle(self, command: Command, now_s: float) -> Result:
        if command.verb is Verb.DESCRIBE:
            return {"models": []}
        raise unknown_here(command.verb)


class Linked:
    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.link, self.engine = CommandLink(ours), CommandPeer(self.theirs)

    def turn(self, now_s: float) -> None:
        readable, writable, _ = select.select([self.link], [self.link], [], 0)
        self.link.turn(bool(readable or writable), now_s)


@pytest.fixture
def linked() -> Iterator[Linked]:
    linked = Linked()
    yield linked
    linked.link.close()
    linked.theirs.close()


def test_the_engines_answer_is_that_of_what_was_asked(linked: Linked) -> None:
    asked = linked.link.ask(Verb.DESCRIBE, 1.0, 2.0)
    other = linked.link.ask(Verb.DRAIN, 1.0, 2.0)
    assert linked.engine.obey(Engine(), 1.5) == 2
    linked.turn(1.6)
    assert asked.answer is not None and asked.answer.unwrapped() == {"models": []} and not asked.failed
    assert other.answer is not None and other.failed and not linked.link.asks


def test_a_frozen_engine_is_no_answer_when_the_time_is_over_and_what_it_says_later_counts_for_nothing(linked: Linked) -> None:
    asked = linked.link.ask(Verb.DESCRIBE, 1.0, 2.0)
    linked.turn(2.9)
    assert asked.answer is None
    linked.turn(3.0)
    assert asked.answer is not None and asked.answer.error is not None and asked.answer.error.refusal == Refusal.NO_ANSWER
    first = asked.answer
    assert linked.engine.obey(Engine(), 2.5) == 1, "it answers in a time of its own"
    later = linked.link.ask(Verb.DESCRIBE, 4.0, 2.0)
    linked.turn(4.1)
    assert asked.answer is first and later.answer is None


def test_an_engine_that_is_killed_has_given_no_answer_and_is_asked_nothing_more(linked: Linked) -> None:
    asked = linked.link.ask(Verb.DESCRIBE, 1.0, 60.0)
    linked.theirs.close()
    linked.turn(1.1)
    assert asked.failed and linked.link.ask(Verb.DESCRIBE, 1.2, 60.0).failed and not linked.link.asks


@pytest.mark.parametrize("words", [b"hello\n", b"{}\n", b"x" * 100_000])
def test_an_engine_that_says_what_is_no_answer_is_asked_nothing_more(linked: Linked, words: bytes) -> None:
    asked = linked.link.ask(Verb.DESCRIBE, 1.0, 60.0)
    linked.theirs.send(words)
    for n in range(8):
        if linked.link.asks:
            linked.turn(1.1 + n * REST_S)
    assert asked.failed and linked.link.ask(Verb.DESCRIBE, 2.0, 60.0).failed


def test_what_is_asked_at_once_has_a_bound(linked: Linked) -> None:
    asked = [linked.link.ask(Verb.DESCRIBE, 1.0, 60.0) for _ in range(ASKED_MAX + 1)]
    assert [a.failed for a in asked] == [False] * ASKED_MAX + [True]


def test_after_something_came_the_link_rests(linked: Linked) -> None:
    linked.link.ask(Verb.DESCRIBE, 1.0, 60.0)
    linked.link.ask(Verb.DESCRIBE, 1.0, 60.0)
    linked.engine.obey(Engine(), 1.0)
    linked.turn(1.1)
    assert linked.link.rests_for(1.1) > 0 and linked.link.rests_for(1.1 + REST_S) == 0


@pytest.fixture
def asleep() -> Iterator[Child]:
    child = Child("engine", 0, lambda epoch: [], ())
    with subprocess.Popen(["/bin/sleep", "60"]) as child.process:
        yield child
        child.process.kill()


def test_an_engine_that_hears_no_commands_is_told_to_leave_by_signal(asleep: Child) -> None:
    ask_to_leave(asleep, 1.0)
    assert asleep.process is not None and asleep.process.wait(10) == -signal.SIGTERM


def test_an_engine_that_does_not_answer_in_time_is_told_to_leave_by_signal(asleep: Child, linked: Linked) -> None:
    asleep.link = linked.link
    ask_to_leave(asleep, 1.0)
    insist([asleep])
    assert asleep.process is not None and asleep.process.poll() is None and asleep.leave_asked is not None
    linked.turn(1.0 + ANSWER_S)
    insist([asleep])
    assert asleep.process.wait(10) == -signal.SIGTERM and asleep.leave_asked is None


def test_an_engine_that_has_answered_is_not_signalled(asleep: Child, linked: Linked) -> None:
    class Draining:
        def handle(self, command: Command, now_s: float) -> Result:
            return {}

    asleep.link = linked.link
    ask_to_leave(asleep, 1.0)
    linked.engine.obey(Draining(), 1.1)
    linked.turn(1.2)
    insist([asleep])
    assert asleep.leave_asked is None and asleep.process is not None
    with pytest.raises(subprocess.TimeoutExpired):
        asleep.process.wait(0.2)
