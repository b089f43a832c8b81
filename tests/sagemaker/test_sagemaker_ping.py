"""The health check, as the platform asks it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from evenkeel.container import environment
from tests.conftest import Start
from tests.sagemaker.box import Box, ping, wire
from tests.sagemaker.platform import Pinging, ask
from tests.support.handler_model import asking, handler_folder
from tests.support.tree import eventually
from tests.support.wire import request


@pytest.mark.contract("12.3")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_ping_is_200_with_an_empty_body(digits_box: Box, method: str) -> None:
    with wire(digits_box) as w:
        reply = w.ask(request(None if method == "GET" else b"", None, method=method, path="/ping"))
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.contract("12.2", "12.3", "12.40")
def test_no_ping_fails_while_every_engine_is_busy_and_bodies_arrive(start: Start, tmp_path: Path) -> None:
    """Engines held by a handler, 25 MiB bodies coming in, new connections all the time."""
    box = start(handler_folder(tmp_path / "model"))
    large = asking(1, pad="x" * (25 << 20))
    with Pinging(box, every_s=0.1) as pings:
        held = [ask(box, asking(n, "wait", s=1.5)) for n in range(3)]
        threads = [threading.Thread(target=lambda: ask(box, large).close()) for _ in range(3)]
        for thread in threads:
            thread.start()
        replies = [w.read() for w in held]
        for thread in threads:
            thread.join()
    assert [r.status for r in replies] == [200] * 3
    assert pings.failed == []
    assert pings.answered >= 10


@pytest.mark.contract("12.3", "12.4")
def test_ping_is_503_with_a_reason_until_the_model_is_loaded_and_says_how_long_it_took(start: Start, tmp_path: Path) -> None:
    folder = handler_folder(tmp_path / "model")
    slow = folder / "code/inference.py"
    wait = "import os\n    while not os.path.exists(os.path.join(model_dir, 'go')):\n        time.sleep(0.01)"
    slow.write_text(slow.read_text().replace("def model_fn(model_dir):", f"def model_fn(model_dir):\n    {wait}"))
    box = start(folder, ready=False)
    seen: list[int] = []

    def says(wanted: int) -> bool:
        seen.append(ping(box))
        return seen[-1] == wanted

    eventually(lambda: says(503), "it says that it loads", 60.0)
    (folder / "go").touch()
    eventually(lambda: says(200), "ready", 60.0)
    assert set(seen) <= {0, 200, 503}
    eventually(lambda: any("ready" in str(r) for r in box.log()), "the log tells that it is ready")


@pytest.mark.contract("12.2")
def test_idle_connections_are_kept_for_longer_than_the_platform_reuses_them() -> None:
    assert environment.read({}).settings.keep_alive_s >= 60
