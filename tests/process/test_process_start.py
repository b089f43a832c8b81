"""Starts that cannot work end with a non-zero exit code and one clear line; `evenkeel check` and `pack` say the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.support.tree import ARTIFACTS, EVENKEEL, ROOT, START_S, Tree, clean_environment, eventually, free_port, run_command

DIGITS, WINE = ARTIFACTS / "digits", ARTIFACTS / "wine"


def folder_of(source: Path, to: Path, *names: str) -> Path:
    to.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(source / name, to / name)
    return to


def toml(folder: Path, text: str) -> Path:
    (folder / "model.toml").write_text(text)
    return folder


def missing(tmp: Path) -> Path:
    return tmp / "nowhere"


def empty(tmp: Path) -> Path:
    return tmp


def truncated_onnx(tmp: Path) -> Path:
    folder_of(DIGITS, tmp, "model.onnx")
    whole = (tmp / "model.onnx").read_bytes()
    (tmp / "model.onnx").write_bytes(whole[: len(whole) // 2])
    return tmp


def empty_onnx(tmp: Path) -> Path:
    (tmp / "model.onnx").touch()
    return tmp


def onnx_of_another_format(tmp: Path) -> Path:
    (tmp / "model.onnx").write_bytes((WINE / "model.pt2").read_bytes())
    return tmp


def truncated_pt2(tmp: Path) -> Path:
    (tmp / "model.pt2").write_bytes((WINE / "model.pt2").read_bytes()[:9000])
    return tmp


def backend_against_file(tmp: Path) -> Path:
    return toml(folder_of(WINE, tmp, "model.pt2"), "backend = 'onnx'\nfile = 'model.pt2'\n")


def handler_with_a_syntax_error(tmp: Path) -> Path:
    (tmp / "code").mkdir()
    (tmp / "code/inference.py").write_text("def model_fn(model_dir:\n    pass\n")
    return tmp


def handler_that_cannot_load(tmp: Path) -> Path:
    (tmp / "code").mkdir()
    (tmp / "code/inference.py").write_text("def model_fn(model_dir):\n    raise RuntimeError('weights are missing')\n")
    return tmp


def handler_that_exits(tmp: Path) -> Path:
    (tmp / "code").mkdir()
    (tmp / "code/inference.py").write_text("import sys\n\ndef model_fn(model_dir):\n    sys.exit('no license')\n")
    return tmp


def manifest(text: str) -> Callable[[Path], Path]:
    return lambda tmp: toml(folder_of(DIGITS, tmp, "model.onnx"), text)


def wrong_golden(tmp: Path) -> Path:
    folder_of(DIGITS, tmp, "model.onnx")
    shutil.copytree(DIGITS / "samples", tmp / "samples")
    shutil.copy(tmp / "samples/sixteen.expected.json", tmp / "samples/three.expected.json")
    return toml(tmp, '[[samples]]\ninput = "samples/three.csv"\noutput = "samples/three.expected.json"\n')


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing folder": (missing, "does not exist"),
    "empty folder": (empty, "model.onnx"),
    "truncated ONNX": (truncated_onnx, "model.onnx"),
    "empty ONNX": (empty_onnx, "model.onnx"),
    "ONNX of another format": (onnx_of_another_format, "model.onnx"),
    "truncated pt2": (truncated_pt2, "model.pt2"),
    "handler with a syntax error": (handler_with_a_syntax_error, "code/inference.py:1"),
    "handler that cannot load": (handler_that_cannot_load, "weights are missing"),
    "handler that exits": (handler_that_exits, "no license"),
    "manifest that is no TOML": (manifest("name = digits\n"), "not valid TOML"),
    "manifest with an unknown key": (manifest("bachend = 'onnx'\n"), "bachend"),
    "manifest with an unknown backend": (manifest("backend = 'tensorflow'\n"), "tensorflow"),
    "manifest that names no file": (manifest("backend = 'onnx'\nfile = 'other.onnx'\n"), "other.onnx"),
    "manifest with a file outside": (manifest("file = '../model.onnx'\n"), "inside"),
    "manifest with a wrong type": (manifest("[batching]\nrows_max = 'many'\n"), "batching.rows_max"),
    "manifest out of range": (manifest("[batching]\nrows_max = 0\n"), "batching.rows_max"),
    "backend against file": (backend_against_file, "model.pt2"),
    "handler table for onnx": (manifest("[handler]\nbatched = true\n"), "[handler]"),
    "input that the model lacks": (
        manifest('[[inputs]]\nname = "no_such_input"\ndtype = "float32"\nshape = ["rows", 8, 8]\n'), "no_such_input"),
    "shape against the model": (
        manifest('[[inputs]]\nname = "image"\ndtype = "float32"\nshape = ["rows", 9, 9]\n'), "9"),
    "sample that is missing": (manifest("[[samples]]\ninput = 'samples/none.json'\n"), "samples/none.json"),
    "golden answer that differs": (wrong_golden, "golden check failed"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_model_that_cannot_be_served_stops_the_start_with_one_line(tmp_path: Path, name: str) -> None:
    make, expected = BROKEN[name]
    folder = make(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        checking = pool.submit(run_command, "check", folder)
        tree = Tree(folder)
        try:
            code = tree.process.wait(60)
            tree.assert_nothing_left()
            log, errors = tree.log(), tree.err.read_text()
        finally:
            tree.kill()
        checked = checking.result()
    assert code not in (0, -6, -11), "a clean refusal, not a crash"
    reasons = [r["message"] for r in log if expected in r.get("message", "")]
    reasons += [line for line in errors.splitlines() if expected in line]
    assert len(reasons) == 1 and "\n" not in reasons[0] and len(reasons[0]) < 600, (reasons, log, errors)
    assert "Traceback" not in errors
    assert not [r for r in log if r["event"] == "restart"], "another start could not help"
    assert checked.returncode == 1
    assert expected in checked.stderr and "Traceback" not in checked.stderr
    assert len([line for line in checked.stderr.splitlines() if expected in line]) == 1
    assert "it would serve" not in checked.stdout


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "eighty"),
        ("SAGEMAKER_BIND_TO_PORT", "70000"),
        ("EVENKEEL_REQUEST_TIMEOUT_S", "-1"),
        ("EVENKEEL_QUEUE_ROWS", "0"),
        ("EVENKEEL_SIDECAR_ADDRESS", "nonsense"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "20000-10000"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(setting: str, value: str) -> None:
    ended = run_command("serve", EVENKEEL_MODEL_DIR=str(ARTIFACTS / "echo"), **{setting: value})
    assert ended.returncode == 1
    lines = [line for line in (ended.stdout + ended.stderr).splitlines() if setting in line]
    assert len(lines) == 1 and value in lines[0], ended
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run_command("serve", EVENKEEL_MODEL_DIR=str(ARTIFACTS / "echo"), EVENKEEL_HOST="127.0.0.1",
                            SAGEMAKER_BIND_TO_PORT=port, EVENKEEL_SIDECAR_ADDRESS="127.0.0.1:0")  # fmt: skip
    assert ended.returncode == 1
    assert port in ended.stderr and "SAGEMAKER_BIND_TO_PORT" in ended.stderr and "Traceback" not in ended.stderr


def test_too_few_open_files_end_the_start_with_one_line() -> None:
    settings = clean_environment({"EVENKEEL_MODEL_DIR": str(ARTIFACTS / "echo"), "SAGEMAKER_BIND_TO_PORT": str(free_port())})
    done = subprocess.run(["sh", "-c", f"ulimit -n 64; exec {EVENKEEL} serve"], env=settings, capture_output=True, text=True,
                          timeout=START_S, cwd=ROOT)  # fmt: skip
    assert done.returncode == 1
    assert "ulimit -n" in done.stderr and done.stderr.count("\n") == 1


def test_a_bare_model_file_serves_without_any_manifest(tmp_path: Path) -> None:
    ended = run_command("check", folder_of(DIGITS, tmp_path, "model.onnx"))
    assert ended.returncode == 0, ended.stderr
    assert "it would serve" in ended.stdout


@pytest.mark.parametrize("name", ["digits", "echo"])
def test_check_says_what_the_model_is_and_what_it_costs(name: str) -> None:
    ended = run_command("check", ARTIFACTS / name)
    assert ended.returncode == 0, ended.stderr
    found = {line.split()[0] for line in ended.stdout.splitlines() if line and not line.startswith(" ")}
    assert {"model", "inputs", "outputs", "sample", "cost", "memory", "OK"} <= found, ended.stdout
    assert name in ended.stdout and "rows/s" in ended.stdout


def test_check_leaves_the_model_folder_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(DIGITS, folder)
    before = {p.relative_to(folder) for p in folder.rglob("*")}
    assert run_command("check", folder).returncode == 0
    assert {p.relative_to(folder) for p in folder.rglob("*")} == before


def test_pack_makes_the_tarball_that_sagemaker_wants(tmp_path: Path) -> None:
    output = tmp_path / "model.tar.gz"
    ended = run_command("pack", DIGITS, "-o", output)
    assert ended.returncode == 0, ended.stderr
    with tarfile.open(output) as archive:
        members = {m.name: m for m in archive.getmembers()}
        assert all(m.isfile() for m in members.values())
        expected = {p.relative_to(DIGITS).as_posix() for p in DIGITS.rglob("*") if p.is_file()}
        assert set(members) == expected | {"evenkeel-manifest.json"}
        contents = {name: archive.extractfile(member).read() for name, member in members.items()}  # type: ignore[union-attr]
    record = json.loads(contents.pop("evenkeel-manifest.json"))
    assert (record["name"], record["backend"]) == ("digits", "onnx")
    assert {n: f["sha256"] for n, f in record["files"].items()} == {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()}
    assert {n: f["bytes"] for n, f in record["files"].items()} == {n: len(c) for n, c in contents.items()}


def test_a_packed_model_unpacks_to_one_that_serves_and_packs_to_the_same_bytes(tmp_path: Path) -> None:
    first, second, unpacked = tmp_path / "first.tar.gz", tmp_path / "second.tar.gz", tmp_path / "model"
    assert run_command("pack", DIGITS, "-o", first).returncode == 0
    with tarfile.open(first) as archive:
        archive.extractall(unpacked, filter="data")
    assert run_command("check", unpacked).returncode == 0
    assert run_command("pack", unpacked, "-o", second).returncode == 0
    assert first.read_bytes() == second.read_bytes()


def test_pack_refuses_links_and_what_is_no_model_and_leaves_no_file(tmp_path: Path) -> None:
    folder = folder_of(DIGITS, tmp_path / "model", "model.onnx")
    (folder / "alias.onnx").symlink_to("model.onnx")
    output = tmp_path / "model.tar.gz"
    for wrong, expected in ((folder, "alias.onnx"), (tmp_path / "none", "does not exist")):
        ended = run_command("pack", wrong, "-o", output)
        assert ended.returncode == 1
        assert expected in ended.stderr and "Traceback" not in ended.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def slow_to_load(tmp: Path) -> Path:
    """It loads until there is a file called go."""
    (tmp / "code").mkdir()
    (tmp / "code/inference.py").write_text(
        "import os, time\n\ndef model_fn(model_dir):\n    print('begun to load', flush=True)\n"
        f"    while not os.path.exists({str(tmp / 'go')!r}):\n        time.sleep(0.01)\n    return 2\n\n"
        "def predict_fn(data, model):\n    return data * model\n"
    )
    return tmp


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_model_is_still_loading_ends_at_once_and_leaves_nothing(tmp_path: Path, signum: int) -> None:
    tree = Tree(slow_to_load(tmp_path))
    eventually(lambda: tree.events("user_output"), "the model begins to load")
    tree.stop(signum)


def test_before_the_model_is_ready_ping_says_503_and_why(tmp_path: Path) -> None:
    tree = Tree(slow_to_load(tmp_path))
    try:
        eventually(lambda: tree.events("user_output"), "the model begins to load")
        eventually(lambda: tree.ping() == 503, "an answer to /ping")
        with tree.wire(5.0) as wire:
            reply = wire.get("/ping")
            assert (reply.status, reply.code) == (503, "loading")
            refused = wire.post(b"[[1]]")
            assert (refused.status, refused.code) == (503, "not_ready")
            assert int(refused.headers["retry-after"]) >= 1
        (tmp_path / "go").touch()
        tree.wait_ready()
        with tree.wire() as wire:
            assert wire.post(b"[[1, 2]]").json() == [[2, 4]]
    except BaseException:
        tree.kill()
        raise
    tree.stop()


@pytest.mark.parametrize(("name", "sample"), [("wine", "one_of_each.json"), ("digits", "seven.json")])
def test_from_the_first_200_on_ping_every_request_is_answered(name: str, sample: str) -> None:
    """No client may meet a 503 after the platform has been told that traffic can come."""
    body = (ARTIFACTS / name / "samples" / sample).read_bytes()
    tree = Tree(name)
    try:
        eventually(lambda: tree.ping() == 200, "/ping says 200", 60)
        for _ in range(40):
            with tree.wire() as wire:
                reply = wire.post(body)
                assert reply.status == 200, reply.raw[:300]
    finally:
        tree.kill()


def test_serve_writes_nothing_into_the_model_folder_nor_into_the_home_of_the_user(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(DIGITS, folder)
    before = {p.relative_to(folder) for p in folder.rglob("*")}
    tree = Tree(folder).wait_ready()
    written = sorted(str(p.relative_to(tree.tmp)) for p in (tree.tmp / "home").rglob("*"))
    tree.stop()
    assert written == []
    assert {p.relative_to(folder) for p in folder.rglob("*")} == before


def test_the_command_without_arguments_explains_itself() -> None:
    ended = run_command()
    assert ended.returncode == 2 and "serve" in ended.stderr


def test_nothing_of_the_command_line_is_loaded_in_a_container() -> None:
    """Every process of the tree tells what it imports: on its stderr, which of all but the supervisor goes into the log."""
    tree = Tree("echo", PYTHONPROFILEIMPORTTIME="1").wait_ready()
    told = tree.err.read_text() + tree.out.read_text()
    tree.stop()
    loaded = {name.partition(".")[0] for name in re.findall(r"import time: +\d+ \| +\d+ \| +(\S+)", told)}
    assert {"evenkeel", "signal"} <= loaded
    assert loaded & {"cyclopts", "rich", "argparse", "docstring_parser"} == set()


SECOND_IS_SLOW = """
import os, time
HERE = os.path.dirname(__file__)
def model_fn(model_dir):
    try:
        os.close(os.open(os.path.join(HERE, "first"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        while not os.path.exists(os.path.join(HERE, "go")):
            time.sleep(0.02)
    return None
def transform_fn(model, body, content_type, accept):
    return body, content_type
"""


def test_the_first_200_waits_for_every_replica_and_later_one_is_enough(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "inference.py").write_text(SECOND_IS_SLOW)
    tree = Tree(tmp_path, EVENKEEL_REPLICAS="2")
    try:

        def states() -> list[str]:
            with contextlib.suppress(OSError):  # the sidecar starts, too
                return sorted(r["state"] for r in tree.status()["replicas"])
            return []

        eventually(lambda: states() == ["LOADING", "READY"], "one replica is ready and the other loads")
        with tree.wire() as wire:
            assert wire.get("/ping").status == 503
            answered = partial(wire.post, b"x", "text/plain")  # a handler without samples does not wait for its fronts to meet it
            eventually(lambda: answered().body == b"x", "who does not ask first is answered by the one that is ready")
        eventually(lambda: tree.status()["reason"] == "loading", "every front has met the one that is ready")
        told = tree.status()
        assert (told["state"], told["ready"]) == ("LOADING", False)
        lacks = [c for c in told["conditions"] if not c["ok"]]
        assert [c["name"] for c in lacks] == ["proven"] and lacks[0]["missing"].startswith("1 of 2 replicas")
        (code / "go").touch()
        tree.wait_ready()
        assert states() == ["READY", "READY"]
        os.kill(tree.pid_of("engine"), signal.SIGKILL)
        pings = [(time.sleep(0.02), tree.ping())[1] for _ in range(50)]
        assert set(pings) == {200}
        assert eventually(lambda: tree.status()["restarts"]["engine"], "the lost one is replaced") == 1
    finally:
        tree.stop()


def test_whoever_starts_it_may_have_blocked_signals(tmp_path: Path) -> None:
    """A mask outlives exec, and a stop would never be heard."""
    tree = Tree("echo", under=["python3", "-c", BLOCKING]).wait_ready()
    tree.stop()


BLOCKING = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); os.execv(sys.argv[1], sys.argv[1:])"


def test_a_working_directory_that_is_removed_ends_nothing(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    tree = Tree("echo", cwd=here).wait_ready()
    here.rmdir()
    gunicorn = int(Path(f"/proc/{tree.pid_of('front')}/stat").read_text().rpartition(")")[2].split()[1])
    for ends, pid in enumerate((gunicorn, tree.pid_of("engine"), tree.pid_of("sidecar")), 1):
        os.kill(pid, signal.SIGKILL)
        eventually(lambda ends=ends: len(tree.events("restart")) == ends and tree.status()["ready"], "it is back", 60)  # type: ignore[misc]
        with tree.wire() as wire:
            assert wire.post(b"[[1.0]]").json() == [[1.0]]
    tree.stop()


def test_a_start_in_a_working_directory_that_is_gone_works(tmp_path: Path) -> None:
    tree = Tree(
        "echo", under=["sh", "-c", f'mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir {tmp_path}/gone && exec "$@"', "sh"]
    )
    tree.wait_ready().stop()


def test_files_of_the_working_directory_are_no_modules(tmp_path: Path) -> None:
    for name in ("serve", "container", "sidecar", "queue", "types", "numpy", "orjson", "evenkeel", "logging"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    tree = Tree("digits", cwd=tmp_path).wait_ready()
    assert tree.status()["ready"]
    tree.stop()
    checked = subprocess.run(
        [EVENKEEL, "check", DIGITS], cwd=tmp_path, capture_output=True, text=True, timeout=START_S, env=clean_environment({})
    )
    assert checked.returncode == 0, checked.stderr
    judged = subprocess.run([EVENKEEL, "judge", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=START_S)
    assert judged.returncode == 0 and "usage" in judged.stdout


def test_a_check_whose_reader_leaves_ends_without_a_complaint() -> None:
    done = subprocess.run(["bash", "-c", f"{EVENKEEL} check {DIGITS} | head -1"], capture_output=True, text=True, timeout=START_S,
                          env=clean_environment({}))  # fmt: skip
    assert done.stdout.startswith("model ") and done.stderr == ""
