"""Ready means that a request goes through: large samples, a way that is cut, and one that swallows what is sent."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path

import pytest

from tests.support.tree import eventually, serving

SECONDS = 90.0  # on a busy machine; by itself the longest wait here is 30

LENGTH = """
    def model_fn(d): return 1
    def input_fn(b, ct): return b
    def predict_fn(x, m): return len(x)
    def output_fn(p, a): return str(p)
"""

# Half a second after it was asked to, the engine reads from other sockets than those that the fronts write to.
SWALLOWS = """
    import os, socket, threading
    FLAG, KEPT = __file__ + ".swallowed", []
    def model_fn(d): return 1
    def input_fn(b, ct): return b
    def output_fn(p, a): return str(p)
    def predict_fn(x, m):
        if x == b"swallow" and not os.path.exists(FLAG):
            open(FLAG, "w").close()
            threading.Timer(0.5, swallow).start()
        return len(x)
    def swallow():
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                held = socket.socket(fileno=os.dup(fd))
            except OSError:
                continue
            KEPT.append(held)
            if held.family == socket.AF_UNIX and "engine-" in held.getsockname() and not listens(held):
                KEPT.append(socket.socketpair())
                KEPT[-1][0].setblocking(False)
                os.dup2(KEPT[-1][0].fileno(), fd)
    def listens(s):
        return s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
"""


def model(folder: Path, code: str, *samples: bytes) -> Path:
    (folder / "code").mkdir(parents=True)
    (folder / "code/inference.py").write_text(textwrap.dedent(code))
    lines = []
    for i, sample in enumerate(samples):
        (folder / f"sample{i}").write_bytes(sample)
        lines.append(f'[[samples]]\ninput = "sample{i}"\ncontent_type = "image/{i}"\n')
    (folder / "model.toml").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("more", [{}, {"EVENKEEL_FRONTS": "2", "EVENKEEL_REPLICAS": "2"}], ids=["one", "two of each"])
def test_a_model_with_large_samples_answers_as_soon_as_it_is_ready(tmp_path: Path, more: dict[str, str]) -> None:
    folder = model(tmp_path / "m", LENGTH, *(os.urandom(60_000) for _ in range(8)))
    with serving(folder, **more) as tree:
        for _ in range(4):
            with tree.wire(5.0) as wire:
                answer = wire.post(b"abc", "image/0")
                assert (answer.status, answer.body) == (200, b"3")
        fronts, engines = tree.status()["fronts"], list(range(len(more) or 1))
        assert all(f["engines"] == f["rehearsed_with"] == engines for f in fronts)


def test_an_engine_that_no_front_can_reach_is_never_called_ready(short_path: Path) -> None:
    folder = model(short_path / "m", LENGTH, b"abc")
    with serving(folder, EVENKEEL_RUN_DIR=str(short_path), EVENKEEL_REQUEST_TIMEOUT_S="3") as tree:
        for path in short_path.glob("evenkeel-*/engine-*.sock"):
            path.unlink()
        os.kill(tree.pid_of("engine"), signal.SIGKILL)
        eventually(lambda: tree.ping() == 503, "the verdict falls", SECONDS)
        # Either the way is made anew, and requests go through; or it is not, and nobody is told that they do.
        eventually(lambda: tree.ping() == 200 or tree.status()["reason"] == "not_connected", "the truth is told", SECONDS)
        if tree.ping() == 200:
            with tree.wire(10.0) as wire:
                assert wire.post(b"abc", "image/0").status == 200


def test_a_container_that_answers_nothing_notices_by_itself_and_mends_it(tmp_path: Path) -> None:
    with serving(model(tmp_path / "m", SWALLOWS, b"abc"), EVENKEEL_SELF_CHECK_S="2") as tree:
        with tree.wire(5.0) as wire:
            assert wire.post(b"swallow", "image/0").status == 200
        eventually(lambda: tree.ping() == 503, "the container notices", SECONDS)
        eventually(lambda: tree.ping() == 200, "it is mended", SECONDS)
        assert tree.events("unanswered") and tree.events("unreachable"), tree.story()
        assert tree.status()["restart_reasons"] == {"engine/unreachable": 1}
        with tree.wire(5.0) as wire:
            assert wire.post(b"abcd", "image/0").body == b"4"
