"""The end of the data port, on real sockets: nobody new, and nobody lost who was in."""

from __future__ import annotations

import errno
import json
import socket

import pytest

from evenkeel.container.supervise import listener_drain
from evenkeel.container.supervise.listener_drain import ListenerDrain, refuse_new, shut, waiting
from tests.support.log_read import logged

ADDRESSES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")]


def listening(family: socket.AddressFamily, host: str) -> socket.socket:
    sock = socket.socket(family)
    try:
        sock.bind((host, 0))
    except OSError as e:
        pytest.skip(f"this machine has no {host}: {e}")
    sock.listen(16)
    return sock


def connect(listener: socket.socket, family: socket.AddressFamily | None = None) -> socket.socket:
    family = family or listener.family
    client = socket.socket(family)
    client.settimeout(5.0)
    client.connect(("127.0.0.1" if family == socket.AF_INET else "::1", listener.getsockname()[1]))
    return client


@pytest.mark.parametrize(("family", "host"), ADDRESSES)
def test_whoever_is_in_the_queue_is_served_and_whoever_comes_later_is_refused_at_once(
    family: socket.AddressFamily, host: str
) -> None:
    with listening(family, host) as listener, connect(listener) as early:
        early.sendall(b"asked before")
        assert shut(listener) and waiting(listener) == 1
        with pytest.raises(ConnectionRefusedError):
            connect(listener)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(100) == b"asked before"
            accepted.sendall(b"answered after")
            assert early.recv(100) == b"answered after"


def test_a_listener_of_both_families_refuses_both() -> None:
    with listening(socket.AF_INET6, "::") as listener:
        listener.settimeout(5.0)
        with connect(listener, socket.AF_INET):
            shut(listener)
            for family in (socket.AF_INET, socket.AF_INET6):
                with pytest.raises(ConnectionRefusedError):
                    connect(listener, family)
            listener.accept()[0].close()


def test_what_is_set_on_one_copy_holds_for_those_of_all_fronts() -> None:
    with listening(*ADDRESSES[0]) as listener, listener.dup() as of_a_front:
        refuse_new(listener)
        with pytest.raises(ConnectionRefusedError):
            connect(of_a_front)


def test_the_port_is_closed_when_the_queue_is_empty_and_not_before() -> None:
    with listening(*ADDRESSES[0]) as listener, listener.dup() as of_a_front, connect(listener):
        closing = ListenerDrain(listener)
        assert not closing.closed(1.0, True) and not closing.closed(1.0 + listener_drain.SETTLE_S + 0.1, True), "somebody waits"
        of_a_front.accept()[0].close()
        assert closing.closed(1.0 + listener_drain.SETTLE_S + 0.2, True)


def test_where_there_is_no_way_it_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    def forbidden(listener: socket.socket) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    with listening(*ADDRESSES[0]) as listener:
        assert not shut(listener, (forbidden, forbidden))
        assert shut(listener, (forbidden, refuse_new)), "the next way is tried"
    (line,) = logged(capfd).splitlines()
    assert json.loads(line)["event"] == "no_door" and "Operation not permitted" in line
