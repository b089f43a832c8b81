"""The supervisor's command socket against peers that are killed, frozen, flood it or say nothing: it goes on for the others."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evenkeel.container.supervise.command_server import CONNECTIONS_MAX, IDLE_S_MAX, REST_S, CommandServer
from evenkeel.container.supervise.run_dir import RunDir
from evenkeel.serve.contract.command_client import CommandClient
from evenkeel.serve.contract.command_peer import PART_S_MAX
from evenkeel.serve.contract.commands import Command, CommandError, Refusal, Result, Verb, request_line, unknown_here


class Counting:
    """Knows one verb."""

    def __init__(self) -> None:
        self.obeyed = 0

    def handle(self, command: Command, now_s: float) -> Result:
        if command.verb is not Verb.DRAIN:
            raise unknown_here(command.verb)
        self.obeyed += 1
        return {"times": self.obeyed}


class Served:
    """A server whose loop the test turns, at moments that the test names."""

    def __init__(self, path: Path) -> None:
        self.handler, self.run_dir = Counting(), RunDir(str(path))
        self.listener = self.run_dir.listen("commands.sock")
        self.sock = socket.socket(fileno=self.listener.fd)
        self.server = CommandServer(self.sock, self.handler)
        self.now_s = time.monotonic()

    def turns(self, times: int = 1, pass_s: float = REST_S) -> None:
        for _ in range(times):
            self.now_s += pass_s
            readable, writable, _ = select.select(self.server.readers, self.server.writers, [], 0)
            self.server.turn({*readable, *writable}, self.now_s)

    def connected(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(5)
        sock.connect(self.listener.address)
        return sock

    def drain(self) -> bytes:
        return request_line(Command(1, Verb.DRAIN, self.now_s + 30, {}))

    def answers_others(self) -> bool:
        with self.connected() as sock:
            sock.sendall(self.drain())
            self.turns(2)
            return "ok" in json.loads(sock.recv(4096))


@pytest.fixture
def served(short_path: Path) -> Iterator[Served]:
    served = Served(short_path)
    yield served
    served.sock.close()
    served.run_dir.remove()


def test_a_client_asks_and_has_its_answer(served: Served) -> None:
    client, found = CommandClient(served.listener.address), list[Result]()
    asking = threading.Thread(target=lambda: found.append(client.ask(Verb.DRAIN, {}, 20.0)))
    asking.start()
    while asking.is_alive():
        served.now_s = time.monotonic()
        served.turns(pass_s=0)
    assert found == [{"times": 1}]


def test_a_verb_of_others_is_refused_and_changes_nothing(served: Served) -> None:
    with served.connected() as sock:
        sock.sendall(request_line(Command(5, Verb.DESCRIBE, served.now_s + 30, {})))
        served.turns(2)
        answer = json.loads(sock.recv(4096))
    assert answer["id"] == 5 and answer["error"]["code"] == "unknown_verb" and served.handler.obeyed == 0


def test_a_command_that_waited_beyond_its_deadline_is_not_obeyed(served: Served) -> None:
    """As when the supervisor was stopped for a while: the one who asked has given up, and was told so."""
    with served.connected() as sock:
        sock.sendall(served.drain())
        served.now_s += 31
        served.turns(2)
        assert json.loads(sock.recv(4096))["error"]["code"] == "late"
    assert served.handler.obeyed == 0


def test_one_that_is_killed_in_the_middle_of_a_line_is_forgotten(served: Served) -> None:
    sock = served.connected()
    sock.sendall(served.drain()[:10])
    served.turns(2)
    sock.close()
    served.turns(2)
    assert served.handler.obeyed == 0 and len(served.server.readers) == 1 and served.answers_others()


@pytest.mark.parametrize(("sent", "after_s"), [(b"", IDLE_S_MAX), (b'{"id"', PART_S_MAX)])
def test_one_that_says_nothing_more_loses_its_place(served: Served, sent: bytes, after_s: float) -> None:
    with served.connected() as sock:
        sock.sendall(sent)
        served.turns(2)
        assert len(served.server.readers) == 2 and served.answers_others()
        served.turns(2, pass_s=after_s)
        assert sock.recv(1) == b""
    assert len(served.server.readers) == 1


def test_one_that_floods_without_reading_is_dropped_and_others_are_served(served: Served) -> None:
    with served.connected() as sock:
        sock.setblocking(False)
        obeyed = 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(1000):
                try:
                    sock.send(served.drain() * 50)
                except BlockingIOError:
                    served.turns()
        obeyed = served.handler.obeyed
    assert 0 < obeyed < 50 and served.answers_others()


def test_a_flood_has_the_loop_rest(served: Served) -> None:
    with served.connected() as sock:
        sock.sendall(served.drain())
        served.turns()
        assert served.server.rests_for(served.now_s) == pytest.approx(REST_S)
        assert served.server.rests_for(served.now_s + 2 * REST_S) == 0


def test_more_connections_than_there_may_be_are_refused_with_a_hint(served: Served) -> None:
    held = [served.connected() for _ in range(CONNECTIONS_MAX)]
    served.turns(CONNECTIONS_MAX)
    with served.connected() as beyond:
        served.turns()
        answer = json.loads(beyond.recv(4096))
    assert answer["id"] is None and answer["error"]["code"] == "busy" and answer["error"]["retry_after_s"] > 0
    for sock in held:
        sock.close()
    served.turns(2)
    assert served.answers_others()


def test_a_supervisor_that_stands_still_is_no_answer_in_time(served: Served) -> None:
    with pytest.raises(CommandError) as raised:
        CommandClient(served.listener.address).ask(Verb.DRAIN, {}, 0.05)
    assert raised.value.refusal == Refusal.NO_ANSWER and raised.value.retry_after_s
    served.now_s = time.monotonic() + 1
    served.turns(3)
    assert served.handler.obeyed == 0


def test_nobody_but_our_own_user_can_open_it(served: Served) -> None:
    assert (served.run_dir.path / "commands.sock").stat().st_mode & 0o777 == 0o600
    assert served.run_dir.path.stat().st_mode & 0o777 == 0o700


def test_one_of_another_user_who_has_come_by_a_descriptor_is_not_answered(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evenkeel.container.supervise.command_server._user_of", lambda sock: 12345)
    with served.connected() as sock:
        sock.sendall(served.drain())
        served.turns(2)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert served.handler.obeyed == 0
