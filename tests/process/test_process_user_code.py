"""What user code returns, sets, raises and leaves behind, in real processes: no engine ends on it, and every stop is quick."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import Tree, eventually, run_command, serving
from tests.support.wire import Response, request

ODD = """
import io, json, os, signal, sys
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"

class ApiError(Exception):
    def __init__(self, code): self.code = code
    def __str__(self): return self.code

class Surly:
    def __getattr__(self, name): raise RuntimeError(name)

def model_fn(model_dir): return 1
def input_fn(body, content_type): return body

def predict_fn(body, model, context):
    return eval(body)

def late(signum, frame): raise TimeoutError("late")

def alarm():
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.1)

def fail(error): raise error

def fork():
    child = os.fork()
    if child == 0: sys.exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def output_fn(prediction, accept):
    return prediction if prediction is not None else "well"
"""


def folder_of(to: Path, script: str) -> Path:
    (to / "code").mkdir(parents=True)
    (to / "code" / "inference.py").write_text(script)
    return to


def own_bytes(pid: int) -> int:
    """Memory of a process that no file or ring holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    with serving(folder_of(tmp_path_factory.mktemp("odd"), ODD)) as tree:
        yield tree


def ask(tree: Tree, statement: str) -> Response:
    with tree.wire() as wire:
        return wire.post(statement.encode(), "application/json", None)


@pytest.mark.parametrize(
    ("statement", "status", "message"),
    [
        ("context.set_response_header(0, ATTRIBUTES, 42)", 200, ""),
        ("context.set_response_header(0, ATTRIBUTES, b'abc')", 200, ""),
        (
            "context.set_response_header(0, ATTRIBUTES, {})",
            500,
            "predict_fn raised TypeError: the value of a header must be text",
        ),
        ("context.set_response_status('400', 'bad')", 400, "bad"),
        ("context.set_response_status(None, 'x')", 200, ""),
        ("context.set_response_status(400, 5)", 400, "5"),
        ("context.set_response_status(422, {'detail': 'bad'})", 422, "bad"),
        ("context.set_response_content_type(0, 5)", 500, "predict_fn raised TypeError: a content type must be text, not int"),
        (
            "type('R', (), {'mimetype': 5, 'get_data': lambda self: b'x'})()",
            500,
            "output_fn returned R: TypeError: a content type",
        ),
        ("Surly()", 500, "output_fn returned Surly: RuntimeError: mimetype"),
        ("fail(ApiError(422))", 500, "predict_fn raised ApiError: (its __str__ raised TypeError)"),
        ("fail(type('S', (Exception,), {'status_code': property(lambda self: 1 / 0)})('s'))", 500, "predict_fn raised S: s"),
        ("quit()", 500, "predict_fn raised SystemExit"),
        ("io.BytesIO(b'a')", 200, ""),
        ("fork()", 200, ""),
        ("alarm()", 200, ""),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)) and None", 200, ""),
    ],
)
def test_whatever_a_script_does_concerns_its_own_request(odd: Tree, statement: str, status: int, message: str) -> None:
    reply = ask(odd, statement)
    assert reply.status == status, reply.raw
    assert message in (reply.message if status != 200 else "")
    assert ask(odd, "'good'").body == b"good"
    assert odd.status()["restarts"]["engine"] == 0


def test_an_alarm_that_comes_late_is_told_and_hits_nobody(odd: Tree) -> None:
    ask(odd, "alarm()")
    eventually(lambda: odd.events("signal_handler_failed"), "the alarm came while nothing ran")
    assert ask(odd, "'good'").status == 200 and odd.status()["restarts"]["engine"] == 0


LEFT_BEHIND = """
import atexit, signal, threading
wait = threading.Event()
atexit.register(wait.wait)

def model_fn(model_dir):
    threading.Thread(target=wait.wait, name="refresher").start()

def transform_fn(model, body, content_type, accept):
    signal.signal(signal.SIGTERM, lambda *_: print("the script says goodbye"))
    return body
"""


def test_a_stop_waits_for_nothing_that_a_script_has_left_behind(tmp_path: Path) -> None:
    with serving(folder_of(tmp_path, LEFT_BEHIND)) as tree:
        assert ask(tree, "1").status == 200
        tree.tell(15)
        assert tree.process.wait(60) == 0
        (left,) = tree.events("left_behind")
        assert "thread 'refresher'" in left["message"]
        assert [r for r in tree.events("user_output") if r["message"] == "the script says goodbye"]
        assert "still there" not in tree.story()


RAISES = "class E(Exception):\n    def __str__(self): return 5\ndef model_fn(d): raise E"


@pytest.mark.parametrize("apart", ["os.setsid()", "os.setpgid(0, 0)"])
def test_a_child_that_lives_on_keeps_no_front_from_the_next_engine(tmp_path: Path, apart: str) -> None:
    """It has the sockets of the engine that forked it; while it had them open, no front would learn that this one has ended."""
    script = (
        ODD
        + f"""
def linger():
    child = os.fork()
    if child == 0:
        {apart}
        import time
        time.sleep(60)
        os._exit(0)
    return child
"""
    )
    with serving(folder_of(tmp_path / "model", script)) as tree:
        child = int(ask(tree, "linger()").body)
        try:
            os.kill(tree.pid_of("engine"), signal.SIGKILL)
            assert ask(tree, "41 + 1").json() == 42
            assert tree.status()["restart_reasons"] == {"engine/signal": 1}, "the first one that came could serve"
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_stop_does_not_wait_for_work_that_its_caller_has_given_up(tmp_path: Path) -> None:
    with serving(folder_of(tmp_path / "model", ODD + "\ndef long():\n    import time\n    time.sleep(3600)\n")) as tree:
        with tree.wire() as wire:
            wire.send(request(b"long()"))
            eventually(lambda: tree.status()["in_flight"] == 1, "it runs")
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leaves with RST
        tree.tell(signal.SIGTERM)
        assert tree.process.wait(60) == 0 and tree.events("abandoned") and not tree.events("killed"), tree.story()


def test_a_script_that_replaces_json_spoils_only_its_own_answers(tmp_path: Path) -> None:
    with serving(folder_of(tmp_path / "model", ODD)) as tree:
        assert ask(tree, "setattr(json, 'dumps', lambda *a, **k: '{}')").status == 200
        assert ask(tree, "'text'").body == b"text"
        assert not tree.events("restart"), tree.story()


FAILING = """
def model_fn(model_dir): return 1
def input_fn(body, content_type): return body

def predict_fn(body, model):
    parts = [body]
    try:
        parts[0].nothing
    except AttributeError as e:
        raise ValueError(len(parts[0])) from e
"""


def test_requests_that_fail_leave_none_of_their_bytes_behind(tmp_path: Path) -> None:
    mb, ask = 1 << 20, request(bytes(4 << 20), "application/octet-stream")
    with serving(folder_of(tmp_path, FAILING)) as tree, tree.wire() as wire:
        pids = {role: tree.pid_of(role) for role in ("engine", "front")}
        for _ in range(10):  # what each keeps for the next
            assert wire.ask(ask).status == 500
        before = {role: own_bytes(pid) for role, pid in pids.items()}
        for _ in range(60):
            assert wire.ask(ask).code == "model_error"
        grown = {role: own_bytes(pid) - before[role] for role, pid in pids.items()}
        assert max(grown.values()) < 60 * mb, f"of 240 MB that failed: {grown}"


def test_a_model_fn_whose_error_has_no_words_ends_the_start_in_one_line(tmp_path: Path) -> None:
    tree = Tree(folder_of(tmp_path, RAISES))
    try:
        assert tree.process.wait(60) != 0
        (told,) = tree.events("bad_model")
        assert told["message"].startswith("code/inference.py:3: model_fn raised E")
    finally:
        tree.kill()


CHECKED = {
    "a header": ("def transform_fn(m, b, c, a, context):\n    context.set_response_header(0, 'content-type', 5)",
                 "a content type must be text"),
    "an error without words": ("class E(Exception):\n    def __str__(self): return 5\n"
                               "def transform_fn(m, b, c, a): raise E", "raised E"),
    "a thread": ("import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
                 "def transform_fn(m, b, c, a): return b", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CHECKED)
def test_check_ends_with_one_line_and_waits_for_no_thread(tmp_path: Path, case: str) -> None:
    script, message = CHECKED[case]
    folder = folder_of(tmp_path, f"def model_fn(d): return 1\n{script}")
    (folder / "s.json").write_text(json.dumps({"a": 1}))
    (folder / "model.toml").write_text('[[samples]]\ninput = "s.json"\n')
    ended = run_command("check", folder)
    assert (ended.returncode == 0) is (message == ""), ended.stderr
    assert "Traceback" not in ended.stderr and message in ended.stderr


CHILDREN = """
import json, joblib, multiprocessing
from concurrent.futures import ProcessPoolExecutor

def square(x): return x * x
def model_fn(model_dir): return 1
def input_fn(body, content_type): return json.loads(body)

def predict_fn(ask, model):
    if ask["by"] == "joblib":
        return joblib.Parallel(n_jobs=2)(joblib.delayed(square)(x) for x in ask["rows"])
    with ProcessPoolExecutor(2, multiprocessing.get_context(ask["by"])) as pool:
        return list(pool.map(square, ask["rows"]))
"""


@pytest.mark.parametrize("by", ["joblib", "spawn", "forkserver", "fork"])
def test_functions_of_a_script_run_in_processes_that_it_starts(tmp_path: Path, by: str) -> None:
    with serving(folder_of(tmp_path / "model", CHILDREN)) as tree, tree.wire(60.0) as wire:
        assert wire.post(json.dumps({"by": by, "rows": [1, 2, 3]}).encode()).json() == [1, 4, 9]
        assert not tree.events("restart"), tree.story()


def test_names_that_are_ours_inside_are_the_scripts_outside(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", "from serve.util import A\nfrom sidecar import B\nimport container.deep as C\n" + ODD)
    for name, text in (("serve/util.py", "A = 1"), ("sidecar.py", "B = 2"), ("container/deep.py", "D = 3")):
        (folder / "code" / name).parent.mkdir(exist_ok=True)
        (folder / "code" / name).write_text(text)
    with serving(folder) as tree:
        assert ask(tree, "A + B + C.D").json() == 6
