"""Starts, stops, kills: as the platform does them, and without asking."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Start
from tests.sagemaker.box import GRACE_S, ping, wait_ready, wire
from tests.sagemaker.image_box import ImageBox, docker
from tests.sagemaker.platform import ask
from tests.support import digits_model as model
from tests.support.handler_model import asking, handler_folder
from tests.support.tree import eventually
from tests.support.wire import Closed

DRAINED_S = 25.0  # of the platform's 30


@pytest.mark.contract("12.12")
def test_a_stop_in_the_middle_of_requests_cuts_none_of_them(start: Start, tmp_path: Path) -> None:
    box = start(handler_folder(tmp_path / "model"))
    held = [ask(box, asking(n, "wait", s=0.4)) for n in range(8)]
    eventually(lambda: any("begun" in str(r) for r in box.log()), "the first has begun")
    codes: list[int] = []
    begun_s = time.monotonic()
    stopping = threading.Thread(target=lambda: codes.append(box.stop()))
    stopping.start()
    replies = [w.read() for w in held]
    stopping.join()
    assert [(r.status, r.json()["x"]) for r in replies] == [(200, 2 * n) for n in range(8)]
    assert codes == [0]
    assert time.monotonic() - begun_s < DRAINED_S


@pytest.mark.contract("12.12")
def test_ping_says_503_first_while_requests_are_still_served(start: Start) -> None:
    box = start("echo", EVENKEEL_QUIET_S="10")
    stopping = threading.Thread(target=box.stop)
    stopping.start()
    eventually(lambda: ping(box) == 503, "503")
    with wire(box) as w:  # a new one: the answer that said 503 may have been its connection's last
        assert w.post(b'{"instances": [[1.0, 2.0]]}').status == 200
    stopping.join()
    assert box.exit_code() == 0


@pytest.mark.contract("12.12")
def test_killed_and_started_again_it_serves_as_before(start: Start) -> None:
    box = start("digits")
    box.kill()
    assert box.exit_code() == 128 + signal.SIGKILL
    box.again()
    wait_ready(box)
    rows = model.some_rows(np.random.default_rng(7), 2)
    with wire(box) as w:
        reply = w.post(model.to_json(rows))
    assert model.close(model.decode("application/json", reply.body), model.answers(rows))
    assert box.stop() == 0


@pytest.mark.contract("12.5")
def test_a_model_that_cannot_be_loaded_ends_the_container_with_one_clear_line(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"not a model")
    box = start(folder, ready=False)
    eventually(lambda: box.exit_code() is not None, "it ends", 60.0)
    assert box.exit_code() not in (None, 0)
    assert [r for r in box.log() if "model.onnx" in str(r.get("message", r))]


@pytest.mark.contract("12.14")
def test_an_engine_that_dies_is_replaced_and_one_that_never_answers_ends_the_container(start: Start, tmp_path: Path) -> None:
    box = start(handler_folder(tmp_path / "model"), EVENKEEL_RESTART_LIMIT="2", EVENKEEL_REQUEST_TIMEOUT_S="20")
    with ask(box, asking(1, "die")) as w:
        assert w.read().status >= 500
    wait_ready(box)
    with ask(box, asking(4)) as w:
        assert w.read().json() == {"x": 8}
    box = start(handler_folder(tmp_path / "other"), EVENKEEL_RESTART_LIMIT="2", EVENKEEL_FAULTS="crash:at=1")
    for n in range(10):  # of this one no life answers anything
        if box.exit_code() is not None:
            break
        try:
            with ask(box, asking(n)) as w:
                w.read()
        except (Closed, OSError):
            time.sleep(0.2)
    eventually(lambda: box.exit_code() is not None, "it gives up", 60.0)
    assert box.exit_code() not in (None, 0)


@pytest.mark.contract("12.39")
def test_a_wrong_setting_ends_the_start_with_one_line_and_an_unknown_one_does_not(start: Start) -> None:
    box = start("echo", ready=False, EVENKEEL_THREADS="many")
    eventually(lambda: box.exit_code() is not None, "it ends", 60.0)
    assert box.exit_code() not in (None, 0)
    # The container tool may say that it has ended a moment before it has written down what was said.
    eventually(lambda: "EVENKEEL_THREADS='many' must be" in box.story(), "the line that names the setting")
    box = start("echo", SAGEMAKER_SOMETHING_NEW="1", EVENKEEL_OF_A_LATER_VERSION="1")
    assert ping(box) == 200


@pytest.mark.contract("12.36")
def test_what_it_finds_of_the_machine_can_be_overridden_by_settings(start: Start) -> None:
    box = start("echo", EVENKEEL_FRONTS="2", EVENKEEL_REPLICAS="2", EVENKEEL_THREADS="3")
    (plan,) = [r for r in box.log() if r.get("event") == "plan"]
    assert "2 front, 2 engine with 3 threads" in str(plan)


@pytest.mark.image
@pytest.mark.contract("12.12")
@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.2, 0.4])
def test_a_stop_right_after_the_start_is_heard(start_image: Start, after_s: float) -> None:
    """The kernel keeps from a first process the signals that it has no handler for, and the platform would wait 30 s. It has
    one before it imports anything of ours; how long the interpreter takes until then is the machine's affair."""
    box = start_image("digits", ready=False)
    assert isinstance(box, ImageBox)
    eventually(lambda: hears_a_stop(box), "the first process has a handler")
    time.sleep(after_s)
    begun_s = time.monotonic()
    docker("stop", "-t", str(GRACE_S), box.name)
    assert time.monotonic() - begun_s < DRAINED_S
    assert box.exit_code() in (0, 128 + signal.SIGTERM)


def hears_a_stop(box: ImageBox) -> bool:
    """Whether SIGTERM is caught; taken for granted where the container's processes cannot be seen."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", box.name).stdout.strip()
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)
