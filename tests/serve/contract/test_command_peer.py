"""One end of a command connection: whatever the other end does, nothing waits and nothing grows."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from evenkeel.serve.contract.command_peer import IN_FLIGHT_MAX, PART_S_MAX, UNSENT_BYTES_MAX, CommandPeer, PeerClosed
from evenkeel.serve.contract.commands import LINE_BYTES_MAX, Command, Result, Verb, request_line


class Echo:
    def __init__(self, result: Result | None = None) -> None:
        self.obeyed = 0
        self._result = result or {}

    def handle(self, command: Command, now_s: float) -> Result:
        self.obeyed += 1
        return self._result


@pytest.fixture
def ends() -> Iterator[tuple[CommandPeer, socket.socket]]:
    ours, theirs = socket.socketpair()
    with contextlib.closing(CommandPeer(ours)) as peer, theirs:
        yield peer, theirs


def drain(id: int = 1) -> bytes:
    return request_line(Command(id, Verb.DRAIN, 10.0, {}))


def answers(sock: socket.socket) -> list[dict[str, object]]:
    sock.settimeout(5)
    return [json.loads(line) for line in sock.recv(1 << 20).splitlines()]


def test_a_command_that_comes_byte_by_byte_is_obeyed_once(ends: tuple[CommandPeer, socket.socket]) -> None:
    peer, theirs = ends
    handler = Echo()
    for byte in drain():
        assert handler.obeyed == 0
        theirs.send(bytes([byte]))
        peer.obey(handler, 1.0)
    assert handler.obeyed == 1 and answers(theirs) == [{"id": 1, "ok": {}}]


def test_nothing_to_read_is_no_command_and_no_wait(ends: tuple[CommandPeer, socket.socket]) -> None:
    assert ends[0].obey(Echo(), 1.0) == 0 and ends[0].idle


def test_half_a_line_is_overdue_after_its_time_however_slowly_the_rest_drips(ends: tuple[CommandPeer, socket.socket]) -> None:
    peer, theirs = ends
    for at_s in range(int(PART_S_MAX) + 1):
        assert not peer.overdue(1.0 + at_s)
        theirs.send(b"{")
        peer.read(1.0 + at_s)
    assert peer.overdue(1.1 + PART_S_MAX)


def test_a_line_that_is_too_long_is_told_so_and_ends_the_connection(ends: tuple[CommandPeer, socket.socket]) -> None:
    peer, theirs = ends
    handler = Echo()
    theirs.sendall(b"x" * (LINE_BYTES_MAX + 1))
    with pytest.raises(PeerClosed):
        peer.obey(handler, 1.0)
    (answer,) = answers(theirs)
    assert answer["id"] is None and answer["error"]["code"] == "too_long"  # type: ignore[index]
    assert handler.obeyed == 0


def test_of_too_many_at_once_a_few_are_obeyed_and_then_the_connection_ends(ends: tuple[CommandPeer, socket.socket]) -> None:
    peer, theirs = ends
    handler = Echo()
    theirs.sendall(b"".join(drain(id) for id in range(100)))
    with pytest.raises(PeerClosed):
        peer.obey(handler, 1.0)
    told = answers(theirs)
    assert handler.obeyed == IN_FLIGHT_MAX == len(told) - 1
    assert told[-1]["id"] == IN_FLIGHT_MAX and told[-1]["error"]["code"] == "busy"  # type: ignore[index]
    assert told[-1]["error"]["retry_after_s"] > 0  # type: ignore[index]


def test_one_that_takes_no_answer_is_read_no_more_and_is_soon_overdue(ends: tuple[CommandPeer, socket.socket]) -> None:
    peer, theirs = ends
    handler, sent = Echo({"text": "x" * 16000}), 0
    while peer.wants_to_read:
        theirs.send(drain())
        sent += peer.obey(handler, 1.0)
    assert handler.obeyed == sent and peer.wants_to_write and not peer.idle
    assert not peer.overdue(1.0 + PART_S_MAX) and peer.overdue(1.1 + PART_S_MAX)


def test_what_waits_to_be_sent_has_a_bound(ends: tuple[CommandPeer, socket.socket]) -> None:
    peer, _ = ends
    with pytest.raises(PeerClosed):
        for _ in range(1000):
            peer.send(b"x" * LINE_BYTES_MAX, 1.0)
    assert len(peer._unsent) <= UNSENT_BYTES_MAX


@pytest.mark.parametrize("how", ["closed", "closed with answers unread"])
def test_one_that_has_gone_is_noticed_and_harms_nobody(ends: tuple[CommandPeer, socket.socket], how: str) -> None:
    peer, theirs = ends
    if how == "closed with answers unread":
        theirs.send(drain())
        peer.obey(Echo(), 1.0)
    theirs.close()
    with pytest.raises(PeerClosed):
        peer.read(1.0)
    with pytest.raises(PeerClosed):
        peer.send(b"{}\n", 1.0)
