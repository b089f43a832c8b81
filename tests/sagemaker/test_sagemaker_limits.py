"""Where a container has less than it wants, or is treated badly: memory, processes, stops under load, a cleared folder."""

from __future__ import annotations

import collections
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.sagemaker.box import GRACE_S, Box, Room, ping, wait_ready, wire
from tests.sagemaker.image_box import ImageBox, docker
from tests.support.handler_model import asking, handler_folder
from tests.support.stream_model import ask_for, stream_folder
from tests.support.tree import eventually
from tests.support.wire import Closed, request

pytestmark = pytest.mark.image
LARGE_BYTES = 40 << 20
RUN_DIR = "/tmp/run"
PAUSE_S = 35.0  # beyond every patience of the default settings but the deadlines of requests


def together(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()


def events(box: Box, event: str) -> list[str]:
    return [r["message"] for r in box.log() if r.get("event") == event]


def oom_kills(box: Box) -> int:
    assert isinstance(box, ImageBox)
    lines = box.run_inside("cat", "/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control").stdout.splitlines()
    return max(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def test_large_bodies_in_a_small_container_are_answered_or_refused_and_nobody_is_killed(
    start_image: Start, tmp_path: Path
) -> None:
    box = start_image(handler_folder(tmp_path / "model"), Room(memory_mb=512))
    body = json.dumps({"x": 1, "pad": "p" * LARGE_BYTES}).encode()
    seen: collections.Counter[int] = collections.Counter()

    def ask_three_times(n: int) -> None:
        for _ in range(3):
            with wire(box, 120.0) as w:
                reply = w.post(body)
                assert reply.status != 429 or "retry-after" in reply.headers
                seen[reply.status] += 1

    together(12, ask_three_times)
    assert set(seen) <= {200, 429} and seen[200] > 0, seen
    assert oom_kills(box) == 0, box.story()
    with wire(box) as w:
        assert w.post(asking(4)).json() == {"x": 8}


def test_a_body_that_can_never_fit_is_refused_before_it_is_read(start_image: Start, tmp_path: Path) -> None:
    box = start_image(handler_folder(tmp_path / "model"), Room(memory_mb=300))
    assert events(box, "bodies_limited")
    with wire(box) as w:
        w.send(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 99000000\r\nContent-Type: application/json\r\n\r\n")
        assert w.read().status == 413


def test_a_kill_for_want_of_memory_meets_an_engine_first_and_is_named(start_image: Start, tmp_path: Path) -> None:
    folder = handler_folder(tmp_path / "model")
    code = folder / "code" / "inference.py"
    code.write_text(code.read_text() + "\ndef predict_fn(data, model):\n    return {'x': len(b'1' * (data['mb'] << 20))}\n")
    box = start_image(folder, Room({"EVENKEEL_RESTART_LIMIT": "1"}, memory_mb=400))
    with wire(box) as w:
        assert w.post(b'{"mb": 1}').status == 200
        for _ in range(3):  # on one connection: the front that holds it is never the victim
            assert w.post(b'{"mb": 600}').status >= 500
        assert w.post(b'{"mb": 1}').status == 200
    assert any(
        "oom" in str(r.get("reason")) or r.get("reason") == "out_of_memory" for r in box.log() if r.get("event") == "restart"
    )


def test_less_memory_than_the_model_needs_ends_it_with_words(start_image: Start) -> None:
    box = start_image("digits", Room({"EVENKEEL_RESTART_LIMIT": "1"}, memory_mb=70), ready=False)
    eventually(lambda: box.exit_code() is not None, "it ends", 120.0)
    assert box.exit_code() != 0 and [m for m in events(box, "giving_up") if "the memory limit is" in m], box.story()


def ends_with_one_line(box: Box, words: str) -> None:
    eventually(lambda: box.exit_code() is not None, "it ends", 30.0)
    # The container tool may say that it has ended a moment before it has written down what was said.
    eventually(lambda: words in box.story(), words)
    assert box.exit_code() != 0 and box.story().count("cannot_start") == 1 and "Traceback" not in box.story()


def test_too_few_processes_end_the_start_with_one_line(start_image: Start) -> None:
    ends_with_one_line(start_image("echo", Room(pids=8), ready=False), "processes and threads are needed")


def test_too_few_files_end_the_start_with_one_line(start_image: Start) -> None:
    ends_with_one_line(start_image("echo", Room(files=64), ready=False), "64 open files are allowed (ulimit -n)")


def test_an_address_of_another_machine_ends_the_start_with_one_line(start_image: Start) -> None:
    ends_with_one_line(start_image("echo", ready=False, EVENKEEL_HOST="192.0.2.1"), "cannot listen on 192.0.2.1:8080")


@pytest.mark.parametrize("files", [128, 512])
def test_where_few_files_may_be_open_two_thirds_of_them_are_for_connections(start_image: Start, files: int) -> None:
    box = start_image("echo", Room(files=files))
    assert [m for m in events(box, "few_files") if m.endswith(f"limited to {files - files // 3}")]
    seen: collections.Counter[int] = collections.Counter()

    def ask_on_one_connection(n: int) -> None:
        with wire(box) as w:
            for _ in range(20):
                seen[w.post(b"[[1.0]]").status] += 1

    together(40, ask_on_one_connection)
    assert seen == {200: 800}


def test_a_folder_of_somebody_else_ends_the_start_with_one_line(start_image: Start, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    folder = handler_folder(tmp_path / "model")
    folder.chmod(0o700)
    ends_with_one_line(start_image(folder, ready=False), "model folder /opt/ml/model cannot be read")


def test_all_addresses_may_be_written_as_in_a_url(start_image: Start) -> None:
    assert ping(start_image("echo", EVENKEEL_HOST="[::]")) == 200


@pytest.mark.parametrize("user", ["0:0", "54321:54321"])
@pytest.mark.parametrize("keep", [False, True], ids=["a connection per request", "connections that last"])
def test_stops_under_load_lose_nothing_as_any_user_without_capabilities(start_image: Start, user: str, keep: bool) -> None:
    box = start_image("echo", Room(user=user))
    for stop in range(3):
        if stop:
            assert isinstance(box, ImageBox)
            box.again()
            wait_ready(box)
        seen: collections.Counter[str] = collections.Counter()

        def visit(n: int, seen: collections.Counter[str] = seen) -> None:
            while True:
                try:
                    w = wire(box)
                except OSError:  # the port is closed, or the container's address has gone
                    return
                with w:
                    try:
                        seen[str(ask_on(w, keep))] += 1
                    except (Closed, OSError) as e:
                        seen[repr(e)] += 1

        def ask_on(w: object, keep: bool) -> str:
            from tests.support.wire import Wire, request

            assert isinstance(w, Wire)
            while True:
                reply = w.ask(request(b"[[1.0]]", headers=() if keep else ("Connection: close",)))
                if reply.status != 200 or reply.headers.get("connection") == "close":
                    return str(reply.status)

        visitors = threading.Thread(target=together, args=(16, visit))
        visitors.start()
        eventually(lambda seen=seen: sum(seen.values()) > 50 or keep, "they are served")  # type: ignore[misc]
        assert box.stop() == 0
        visitors.join(60)
        assert set(seen) == {"200"}, seen
    assert not events(box, "no_door")


def test_after_a_pause_requests_a_stream_and_an_upload_go_on_and_nobody_was_ended(start_image: Start, tmp_path: Path) -> None:
    folder, _ = stream_folder(tmp_path, "/tmp/notes")
    box = start_image(folder)
    assert isinstance(box, ImageBox)
    before = docker("top", box.name, "pid").stdout
    whole = request(b'{"whole": "' + b"x" * 200_000 + b'"}')
    with wire(box, 60.0) as stream, wire(box, 60.0) as upload, wire(box, 60.0) as head, wire(box, 60.0) as visitor:
        kept = [wire(box, 60.0) for _ in range(4)]
        assert visitor.post(b'{"whole": 0}').json() == 0  # what a request takes is known: a first one is believed, pause and all
        stream.send(request(ask_for(20, s=0.1)))
        assert stream.begin()[0] == 200
        upload.send(whole[: len(whole) // 2])
        head.send(whole[:20])
        for n, w in enumerate(kept):
            w.send(request(b'{"whole": %d}' % n))
        # A runtime gives up a freeze that takes long ("unable to freeze"), and thaws: on a busy machine it is asked again.
        eventually(lambda: docker("pause", box.name, check=False).returncode == 0, "the container is paused")
        time.sleep(PAUSE_S)
        visitor.send(request(b'{"whole": "in the pause"}'))
        docker("unpause", box.name)
        time.sleep(1.5)  # a look at silent clients comes before they go on
        upload.send(whole[len(whole) // 2 :])
        head.send(whole[20:])
        assert [w.read().json() for w in (*kept, visitor)] == [0, 1, 2, 3, "in the pause"]
        assert [w.read().status for w in (upload, head)] == [200, 200]
        assert sum(1 for _ in iter(stream.chunk, b"")) >= 20
    assert ping(box) == 200 and docker("top", box.name, "pid").stdout == before
    assert not events(box, "restart") and not events(box, "stuck") and not events(box, "gunicorn")


def test_a_reader_of_the_log_that_stops_holds_up_neither_requests_nor_the_end(start_image: Start, tmp_path: Path) -> None:
    box = start_image(handler_folder(tmp_path / "model"))
    assert isinstance(box, ImageBox)
    found = docker("inspect", "--format", "{{.State.Pid}} {{.State.ConmonPid}}", box.name, check=False).stdout.split()
    if len(found) != 2:
        pytest.skip("only podman says which process reads the log")
    first, reader = map(int, found)
    os.kill(reader, signal.SIGSTOP)
    try:
        with wire(box) as w:
            for n in range(300):
                assert w.post(asking(n, "raise", say="y" * 500)).status == 500
                assert w.post(asking(n, "print", say="z" * 500)).json() == {"x": 2 * n}
            assert re.search(r"\nevenkeel_log_lines_lost_total [1-9]", w.get("/metrics").body.decode())
        assert ping(box) == 200
        begun_s = time.monotonic()
        stopping = subprocess.Popen(["docker", "stop", "-t", str(GRACE_S), box.name])
        eventually(lambda: not runs(first), "the first process ends", GRACE_S)
        assert time.monotonic() - begun_s < GRACE_S - 5
    finally:
        os.kill(reader, signal.SIGCONT)
    assert stopping.wait(60) == 0 and box.exit_code() == 0


def runs(pid: int) -> bool:
    """Whether the process is there, and no zombie that nobody has looked at."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_cleared_run_directory_costs_no_request(start_image: Start) -> None:
    box = start_image("echo", Room({"EVENKEEL_RUN_DIR": RUN_DIR}))
    assert isinstance(box, ImageBox)
    box.run_inside("rm", "-rf", RUN_DIR)
    engine = docker("exec", box.name, "python", "-c", ENGINE_PID).stdout.strip()
    box.run_inside("python", "-c", f"import os; os.kill({engine}, 9)")
    with wire(box) as w:
        for n in range(6):
            assert w.post(b"[[%d]]" % n).json() == [[n]]
    eventually(lambda: ping(box) == 200, "/ping says 200")
    eventually(lambda: box.run_inside("test", "-d", RUN_DIR).returncode == 0, "the directory is made anew")


ENGINE_PID = (
    "import glob; print(*[p.split('/')[2] for p in glob.glob('/proc/[0-9]*/cmdline') "
    "if b'evenkeel.serve.engine.process' in open(p, 'rb').read() and b'import glob' not in open(p, 'rb').read()])"
)
