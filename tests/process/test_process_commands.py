"""The command channel of a real supervisor: whatever those do who reach it, it goes on, and requests are served meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from evenkeel.serve.contract.command_client import CommandClient
from evenkeel.serve.contract.commands import LINE_BYTES_MAX, Command, CommandError, Refusal, Verb, request_line
from evenkeel.sidecar.settings import SUPERVISOR_SOCKET
from tests.support.tree import Tree, eventually, serving


def supervisor_of(tree: Tree) -> str:
    return str(next((tree.tmp / "tmp").glob(f"evenkeel-*/{SUPERVISOR_SOCKET}")))


def connected(tree: Tree) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(supervisor_of(tree))
    return sock


def told(tree: Tree, line: bytes) -> dict[str, Any]:
    with connected(tree) as sock:
        sock.sendall(line)
        answer: dict[str, Any] = json.loads(sock.recv(LINE_BYTES_MAX).splitlines()[0])
        return answer


def request(verb: Verb, at_s: float, **arguments: Any) -> bytes:
    return request_line(Command(1, verb, at_s, arguments))


def serves_on(tree: Tree) -> bool:
    with tree.wire() as wire:
        assert wire.post(b'{"instances": [[1, 2]]}').status == 200
    assert tree.events("draining") == [] and tree.process.poll() is None
    return True


def test_what_is_no_command_is_answered_as_such_and_changes_nothing(echo: Tree) -> None:
    now_s = time.monotonic()
    for line, code in [
        (b"drain\n", "malformed"),
        (b"x" * (LINE_BYTES_MAX + 1), "too_long"),
        (request(Verb.DRAIN, now_s - 1), "late"),
        (request(Verb.DRAIN, now_s + 9, now=True), "malformed"),
        (request(Verb.DESCRIBE, now_s + 9), "unknown_verb"),
        (request(Verb.USE, now_s + 9, version="\ud800\0"), "refused"),
    ]:
        assert told(echo, line)["error"]["code"] == code
    assert serves_on(echo)


def test_those_that_flood_freeze_or_die_in_the_middle_keep_nobody_from_being_heard(echo: Tree) -> None:
    flood = request(Verb.USE, time.monotonic() + 50, version="9") * 200
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            frozen = stack.enter_context(connected(echo))  # half a line, and nothing more
            frozen.sendall(flood[:20])
        for _ in range(30):
            with connected(echo) as sock, contextlib.suppress(OSError):
                sock.setblocking(False)
                sock.send(flood)
        assert serves_on(echo)
        assert eventually(lambda: told(echo, b"{}\n")["error"]["code"] == "malformed", "others are answered")


def test_a_drain_that_the_supervisor_reads_too_late_is_not_done(tmp_path: Path) -> None:
    """It stood still, as a laptop that slept: who asked was told that nothing came of it."""
    with serving("echo") as tree:
        client = CommandClient(supervisor_of(tree))
        os.kill(tree.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(CommandError) as raised:
                client.ask(Verb.DRAIN, {}, 0.2)
        finally:
            os.kill(tree.process.pid, signal.SIGCONT)
        assert raised.value.refusal == Refusal.NO_ANSWER
        assert told(tree, b"{}\n")["error"]["code"] == "malformed", "it runs again, and has read what came before"
        assert serves_on(tree)
        assert client.ask(Verb.DRAIN, {}, 10.0) == {"already": False}
        assert tree.process.wait(60) == 0


def test_the_channel_is_there_though_somebody_has_removed_the_run_directory(tmp_path: Path) -> None:
    with serving("echo") as tree:
        Path(supervisor_of(tree)).unlink()
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as admin:
            admin.settimeout(20)
            admin.connect(str(next((tree.tmp / "tmp").glob("evenkeel-*/admin.sock"))))
            admin.sendall(b"POST /drain HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            assert admin.recv(4096).startswith(b"HTTP/1.1 202")
        assert tree.process.wait(60) == 0
