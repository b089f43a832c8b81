"""The whole container stands still, as with docker pause, a freezer or a snapshot: nobody is blamed, nothing is cut."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.support.stream_model import ask_for, stream_folder
from tests.support.tree import Tree, serving
from tests.support.wire import request

PAUSE_S = 10.0  # longer than every patience below
HURRIED = {"EVENKEEL_FRONT_TIMEOUT_S": "6", "EVENKEEL_BODY_TIMEOUT_S": "6", "EVENKEEL_HEADER_TIMEOUT_S": "6"}


def pause(tree: Tree) -> None:
    """The supervisor stops first, so that it cannot let the others go on, and goes on last, so that they are on their own."""
    others = [pid for pid in tree.pids() if pid != tree.process.pid]
    for pid in (tree.process.pid, *others):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(PAUSE_S)
    for pid in (*others, tree.process.pid):
        os.kill(pid, signal.SIGCONT)


def test_after_a_pause_requests_a_stream_and_an_upload_go_on(tmp_path: Path) -> None:
    folder, _ = stream_folder(tmp_path)
    with serving(folder, **HURRIED) as tree:
        before = tree.pid_of("front"), tree.pid_of("engine"), tree.pid_of("sidecar")
        whole = request(b'{"whole": "' + b"x" * 200_000 + b'"}')
        with tree.wire() as kept, tree.wire() as stream, tree.wire() as upload, tree.wire() as head:
            stream.send(request(ask_for(10, s=0.1)))
            assert stream.begin()[0] == 200
            upload.send(whole[: len(whole) // 2])
            head.send(whole[:20])
            kept.send(request(b'{"whole": 2}'))
            pause(tree)
            time.sleep(1.5)  # a look at silent clients comes before they go on
            upload.send(whole[len(whole) // 2 :])
            head.send(whole[20:])
            assert [wire.read().status for wire in (kept, upload, head)] == [200] * 3
            parts = 0
            while stream.chunk():
                parts += 1
            assert parts >= 10
        assert (tree.pid_of("front"), tree.pid_of("engine"), tree.pid_of("sidecar")) == before
        assert not tree.events("restart") and not [e for e in tree.events("gunicorn") if "TIMEOUT" in e["message"]]
