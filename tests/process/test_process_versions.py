"""Versions inside one container, on real process trees under load: no request fails, and each goes wholly to one version."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.load import Load, Plan
from tests.support.scrape import Scrape
from tests.support.tree import ARTIFACTS, Tree, eventually, run_command, serving
from tests.support.versioned import NAME, ask, handler_version, phases, settled_on, tensor_version, versions
from tests.support.wire import request

HEADER = "x-evenkeel-model"


class Crowd:
    """Callers in a closed loop. Each payload is unique, and each reply has to name the version that its body tells."""

    def __init__(self, tree: Tree, callers: int = 6) -> None:
        self.told: Counter[str] = Counter()  # replies by version
        self.last: dict[int, str] = {}  # by caller
        self.wrong: list[str] = []
        self._tree, self._stop, self._lock = tree, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(callers)]

    def _ask(self, caller: int) -> None:
        n = 0
        try:
            with self._tree.wire() as wire:
                while not self._stop.is_set():
                    n += 1
                    payload = f"{caller}.{n}".encode()
                    reply = wire.post(payload, "text/plain")
                    version, _, echoed = reply.body.partition(b" ")
                    named = reply.headers.get(HEADER, "")
                    with self._lock:
                        if reply.status != 200 or echoed != payload or not named.startswith(f"{NAME}/{version.decode()}@"):
                            self.wrong.append(f"{reply.status} {reply.body[:200]!r} {named}")
                        self.told[version.decode()] += 1
                        self.last[caller] = version.decode()
        except OSError as e:
            self.wrong.append(repr(e))

    def all_on(self, version: str) -> bool:
        """Soon every caller has an answer by it: what was sent before the switch may still be out."""
        with self._lock:
            self.last.clear()
        everyone = dict.fromkeys(range(len(self._threads)), version)
        eventually(lambda: self.last == everyone or bool(self.wrong), f"every caller is on {version}")
        assert self.wrong == []
        return True

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def two_versions(tmp_path: Path, load_s: float = 0.0, **settings: str) -> Iterator[Tree]:
    """1 serves, 2 is on disk."""
    handler_version(tmp_path, "1")
    handler_version(tmp_path, "2", load_s=load_s)
    with serving(tmp_path, EVENKEEL_MODEL_VERSION="1", **settings) as tree:
        yield tree


def swapped_to(tree: Tree, version: str) -> None:
    assert ask(tree, version)[0] == 202
    eventually(lambda: settled_on(tree, version), f"version {version} serves", 60)


def answered(tree: Tree, version: str) -> float:
    return Scrape.of_port(tree.port).of("evenkeel_requests_total", code="200", model=NAME, version=version)


def wait_for(look: Callable[[], bool], what: str) -> None:
    eventually(look, what, 60)


def test_under_load_no_request_fails_over_many_swaps_and_counts_stay_with_their_version(tmp_path: Path) -> None:
    tensor_version(tmp_path, "1")
    tensor_version(tmp_path, "2")
    with serving(tmp_path, EVENKEEL_MODEL_VERSION="1", EVENKEEL_FRONTS="2") as tree:
        load = Load(Plan(tree.port))
        try:
            wait_for(lambda: answered(tree, "1") > 0, "the load has begun")
            for n in range(1, 11):
                swapped_to(tree, "12"[n % 2])
            tally = load.stop()
        finally:
            load.kill()
        counted = {v: answered(tree, v) for v in "12"}
    assert tally.failures == [] and tally.sent == tally.right > 100
    assert sum(counted.values()) == tally.right and all(counted.values())


def test_the_version_that_a_reply_names_is_the_one_that_gave_it(tmp_path: Path) -> None:
    with two_versions(tmp_path) as tree, Crowd(tree) as crowd:
        assert crowd.all_on("1")
        for version in "2121":
            swapped_to(tree, version)
            assert crowd.all_on(version), "after the switch every front has gone over"
    assert crowd.wrong == []


def test_without_a_setting_the_highest_version_serves_and_numbers_count_as_numbers(tmp_path: Path) -> None:
    for version in ("9", "10", "1.10"):
        handler_version(tmp_path, version)
    with serving(tmp_path) as tree, tree.wire() as wire:
        assert wire.post(b"x", "text/plain").body == b"10 x"
        assert phases(tree) == {"1.10": "on disk", "9": "on disk", "10": "serving"}


@pytest.mark.parametrize("broken", ["load", "golden", "crash"])
def test_a_version_that_cannot_serve_takes_no_traffic_and_the_old_one_goes_on(tmp_path: Path, broken: str) -> None:
    tensor_version(tmp_path, "1")
    bad = tensor_version(tmp_path, "2", golden=broken != "golden")
    if broken == "load":
        (bad / "model.toml").write_text("backend = 'onnx'\nfile = 'nothing.onnx'\n")
    with serving(tmp_path, EVENKEEL_MODEL_VERSION="1") as tree:
        load = Load(Plan(tree.port))
        try:
            wait_for(lambda: answered(tree, "1") > 0, "the load has begun")
            if broken == "crash":
                (bad / "model.toml").unlink()
                (bad / "code").mkdir()
                (bad / "code" / "inference.py").write_text("import os\ndef model_fn(d):\n    os.kill(os.getpid(), 11)\n")
            assert ask(tree, "2")[0] == 202
            wait_for(lambda: bool(versions(tree)["failures"]), "the failure is told")
            wait_for(lambda: phases(tree) == {"1": "serving", "2": "on disk"}, "its engines have ended")
            tally = load.stop()
        finally:
            load.kill()
        failure = versions(tree)["failures"][0]
        assert failure["version"] == "2" and failure["message"] in tree.events("swap_failed")[0]["message"]
        assert failure["reason"] == {"load": "bad_model", "golden": "golden_failed", "crash": "crashed"}[broken]
        assert settled_on(tree, "1") and tree.ping() == 200
        assert answered(tree, "2") == 0
    assert tally.failures == [] and tally.sent == tally.right > 0


def test_where_memory_is_short_the_new_version_takes_the_old_ones_place_and_says_so_before(tmp_path: Path) -> None:
    with two_versions(tmp_path, EVENKEEL_MEMORY_MB="1") as tree:
        with Crowd(tree, 3) as crowd:
            status, said = ask(tree, "2")
            assert (status, said["how"]) == (202, "in place") and "MiB are left" in said["why"] and "503" in said["why"]
            wait_for(lambda: settled_on(tree, "2"), "version 2 serves")
            assert crowd.all_on("2")
        begins, swapped = tree.events("swap_begins")[0], tree.events("swapped")[0]
        assert begins["how"] == "in place" and begins["time"] <= swapped["time"]
        assert phases(tree) == {"1": "on disk", "2": "serving"}
    assert crowd.wrong == [], "requests waited for the new version"


def test_in_place_a_version_that_fails_brings_the_old_one_back(tmp_path: Path) -> None:
    handler_version(tmp_path, "1")
    handler_version(tmp_path, "2", fails="no weights")
    with serving(tmp_path, EVENKEEL_MODEL_VERSION="1", EVENKEEL_SWAP="in_place") as tree, Crowd(tree, 3) as crowd:
        ask(tree, "2")
        wait_for(lambda: bool(versions(tree)["failures"]) and settled_on(tree, "1"), "version 1 is back")
        assert crowd.all_on("1")
    assert crowd.wrong == []


def test_the_version_before_stands_by_for_its_window_and_then_its_engines_end(tmp_path: Path) -> None:
    with two_versions(tmp_path, EVENKEEL_ROLLBACK_WINDOW_S="1.5") as tree:
        swapped_to(tree, "2")
        assert phases(tree) == {"1": "standby", "2": "serving"}
        wait_for(lambda: phases(tree) == {"1": "on disk", "2": "serving"}, "its engines have ended")
        assert tree.events("restart") == [] and tree.status()["restarts"]["engine"] == 0


def test_asking_for_the_version_that_serves_ends_a_swap_that_is_under_way(tmp_path: Path) -> None:
    with two_versions(tmp_path, load_s=30) as tree:
        ask(tree, "2")
        wait_for(lambda: versions(tree)["phase"] == "loading", "version 2 loads")
        _, said = ask(tree, "1")
        assert "given up" in said["why"]
        wait_for(lambda: settled_on(tree, "1") and phases(tree)["2"] == "on disk", "version 2 is gone")
        assert versions(tree)["failures"] == []


def test_kill_9_of_the_new_versions_engine_while_it_loads_costs_nothing_but_time(tmp_path: Path) -> None:
    with two_versions(tmp_path, load_s=1.0) as tree, Crowd(tree) as crowd:
        ask(tree, "2")
        killed = eventually(
            lambda: next((r["pid"] for r in tree.status()["replicas"] if not r["serves"] and r["alive"]), 0), "2 loads"
        )
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: settled_on(tree, "2"), "version 2 serves")
    assert crowd.wrong == []


def test_kill_9_of_the_old_versions_engine_while_the_new_one_loads_loses_no_request(tmp_path: Path) -> None:
    with two_versions(tmp_path, load_s=1.0) as tree, Crowd(tree) as crowd:
        ask(tree, "2")
        wait_for(lambda: versions(tree)["phase"] == "loading", "version 2 loads")
        os.kill(tree.pid_of("engine"), signal.SIGKILL)
        wait_for(lambda: settled_on(tree, "2"), "version 2 serves")
        assert crowd.all_on("2")
    assert crowd.wrong == []


def test_kill_9_of_the_sidecar_while_a_version_loads_does_not_stop_the_swap(tmp_path: Path) -> None:
    with two_versions(tmp_path, load_s=1.0) as tree, Crowd(tree) as crowd:
        ask(tree, "2")
        os.kill(tree.pid_of("sidecar"), signal.SIGKILL)
        wait_for(lambda: settled_on(tree, "2"), "version 2 serves")
        swapped_to(tree, "1")
    assert crowd.wrong == []


@pytest.mark.parametrize("how", ["beside", "in_place"])
def test_sigterm_in_the_middle_of_a_swap_ends_all_in_order(tmp_path: Path, how: str) -> None:
    with two_versions(tmp_path, load_s=30, EVENKEEL_SWAP=how) as tree:
        ask(tree, "2")
        wait_for(lambda: versions(tree)["phase"] == "loading", "version 2 loads")
        # `serving` ends the tree by SIGTERM, and asserts the exit code and that nothing is left.


def test_requests_that_wait_for_a_version_in_place_are_answered_though_sigterm_comes(tmp_path: Path) -> None:
    with two_versions(tmp_path, load_s=3, EVENKEEL_SWAP="in_place") as tree:
        ask(tree, "2")
        wait_for(lambda: versions(tree)["phase"] == "loading", "version 2 loads")
        with tree.wire() as wire:
            wire.send(request(b"waits", "text/plain"))
            eventually(lambda: tree.status()["fronts"][0]["queue_rows"] == 1, "it waits in its front")
            tree.tell(signal.SIGTERM)
            reply = wire.read()
        assert (reply.status, reply.body) == (200, b"2 waits")
        assert tree.process.wait(30) == 0


def test_requests_of_the_old_version_are_finished_by_it_and_not_run_twice(tmp_path: Path) -> None:
    handler_version(tmp_path, "1", slow_s=1.0)
    handler_version(tmp_path, "2")
    with serving(tmp_path, EVENKEEL_MODEL_VERSION="1", EVENKEEL_ROLLBACK_WINDOW_S="0") as tree:
        swap = threading.Thread(target=ask, args=(tree, "2"))
        swap.start()
        with Crowd(tree, 3) as crowd:
            wait_for(lambda: settled_on(tree, "2"), "version 2 serves")
            assert crowd.all_on("2")
        swap.join()
        assert tree.status()["fronts"][0]["resubmitted"] <= 2, "only what no batch had begun"
    assert crowd.wrong == []


def test_a_reply_to_a_wrong_request_names_the_version_that_refused_it(tmp_path: Path) -> None:
    tensor_version(tmp_path, "1")
    with serving(tmp_path) as tree, tree.wire() as wire:
        reply = wire.post(b'{"instances": "no"}')
        assert reply.status == 400 and reply.headers[HEADER].startswith(f"{NAME}/1@") and len(reply.headers[HEADER]) == 19


def test_a_version_with_other_inputs_answers_its_own_clients_and_refuses_the_others(tmp_path: Path) -> None:
    tensor_version(tmp_path, "1", columns=4)
    tensor_version(tmp_path, "2", columns=2)
    with serving(tmp_path, EVENKEEL_MODEL_VERSION="1") as tree, tree.wire() as wire:
        swapped_to(tree, "2")
        assert wire.post(b'{"instances": [[1, 2]]}').json() == {"predictions": [[1, 2]]}
        assert wire.post(b'{"instances": [[1, 2, 3, 4]]}').status == 400


def test_a_plain_folder_has_no_versions_and_says_so(echo: Tree) -> None:
    status, said = ask(echo, "2", "echo")
    assert status == 409 and "NAME/VERSION/" in said["error"]["message"]
    assert ask(echo, "2", "other")[0] == 404


def test_the_command_asks_waits_and_says_what_came_of_it(tmp_path: Path) -> None:
    handler_version(tmp_path, "1")
    handler_version(tmp_path, "2")
    handler_version(tmp_path, "3", fails="no weights")
    assert run_command("check", tmp_path).stdout.startswith("version 3 of 1, 2, 3\n")
    with serving(tmp_path, EVENKEEL_MODEL_VERSION="1") as tree:

        def use(*words: str) -> tuple[int, str]:
            done = run_command("use", *words, TMPDIR=str(tree.tmp / "tmp"))
            return done.returncode, done.stdout + done.stderr

        code, said = use("2")
        assert code == 0 and said.startswith("beside: version 2 loads") and said.endswith("version 2 serves\n")
        assert use("2") == (0, "stays: version 2 serves already\nversion 2 serves\n")
        code, said = use("3")
        assert code == 1 and "version 3 failed: code/inference.py" in said and said.endswith("2 goes on\n")
        code, said = use("4")
        assert code == 1 and "there is 1, 2, 3" in said

        def shown() -> bool:
            said = run_command("status", "--url", f"http://127.0.0.1:{tree.side}").stdout
            return "versions: 1 (on disk), 2 (serving), 3 (on disk)" in said and "version 3 was not taken: code/" in said

        eventually(shown, "the engines of versions 1 and 3 have left, and status says so")


def test_check_refuses_what_serve_refuses_of_a_folder_of_versions(tmp_path: Path) -> None:
    """Copies of one model as two versions, both calling themselves 1 in model.toml: the first thing that anybody tries."""
    for version in "12":
        shutil.copytree(ARTIFACTS / "digits", tmp_path / "digits" / version)
    ended = run_command("check", tmp_path)
    assert ended.returncode == 1
    assert "version = '1', but the folder says '2': leave it out, or make it so" in ended.stderr


def test_check_and_serve_take_the_same_script(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/other.py").write_text("def model_fn(d): return 1\ndef predict_fn(x, m): return x\n")
    assert "expected one of" in run_command("check", tmp_path).stderr
    ended = run_command("check", tmp_path, SAGEMAKER_PROGRAM="other.py")
    assert ended.returncode == 0 and "backend handler" in ended.stdout


def test_over_http_a_version_is_asked_for_only_with_the_token(tmp_path: Path) -> None:
    handler_version(tmp_path, "1")
    handler_version(tmp_path, "2")
    with serving(tmp_path, EVENKEEL_MODEL_VERSION="1", EVENKEEL_ADMIN_TOKEN="correct-horse-battery") as tree:
        url = f"http://127.0.0.1:{tree.side}"
        refused = run_command("use", "2", "--url", url)
        assert refused.returncode == 1 and "refused with 401" in refused.stderr
        assert run_command("use", "2", "--url", url, EVENKEEL_ADMIN_TOKEN="wrong-horse-battery").returncode == 1
        assert run_command("use", "2", "--url", url, EVENKEEL_ADMIN_TOKEN="correct-horse-battery").returncode == 0
        assert settled_on(tree, "2")


def test_an_engine_hears_commands_though_its_script_has_forked(tmp_path: Path) -> None:
    """Version 2 is described before it takes the traffic, and version 1 drained when its window is over, both by command."""
    for version in "12":
        handler_version(tmp_path, version)
        script = tmp_path / NAME / version / "code" / "inference.py"
        script.write_text("import os, time\nif os.fork() == 0:\n    time.sleep(600)\n" + script.read_text())
    with serving(tmp_path, EVENKEEL_MODEL_VERSION="1", EVENKEEL_ROLLBACK_WINDOW_S="0") as tree, Crowd(tree, 2) as crowd:
        swapped_to(tree, "2")
        wait_for(lambda: phases(tree) == {"1": "on disk", "2": "serving"}, "its engines have ended")
        assert crowd.all_on("2")
    assert crowd.wrong == []
