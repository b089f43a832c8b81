"""Two versions as two real process trees under real load, and the judge that looks at their /metrics."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import ARTIFACTS, EVENKEEL, ROOT, Tree, clean_environment, serving
from tests.support.wire import request

LOAD_CONNECTIONS = 4
JUDGED_S = 120.0  # an upper bound on a busy machine, not a bar

INFERENCE = """
import random, time

SLOW_S, SLOW_SHARE, FAIL_SHARE = {slow_s}, {slow_share}, {fail_share}
luck = random.Random(7)

def model_fn(model_dir):
    return None

def predict_fn(data, model):
    if luck.random() < SLOW_SHARE:
        time.sleep(SLOW_S)
    if luck.random() < FAIL_SHARE:
        raise RuntimeError("it does this now and then")
    return data
"""


def version(folder: Path, slow_s: float = 0.0, slow_share: float = 0.0, fail_share: float = 0.0) -> Path:
    code = folder / "code"
    code.mkdir(parents=True)
    (code / "inference.py").write_text(INFERENCE.format(slow_s=slow_s, slow_share=slow_share, fail_share=fail_share))
    return folder


@contextlib.contextmanager
def load(*trees: Tree) -> Iterator[None]:
    """Requests to every tree, one after another on each connection, until the block ends."""
    stop = threading.Event()
    body = request(b"[[1.0, 2.0]]")

    def ask(tree: Tree) -> None:
        with tree.wire() as wire:
            while not stop.is_set():
                wire.ask(body)

    threads = [threading.Thread(target=ask, args=(tree,)) for tree in trees for _ in range(LOAD_CONNECTIONS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def verdict(folder: Path, baseline: Tree, candidate: Tree, *options: str) -> tuple[int, dict[str, object]]:
    """What `evenkeel judge` says after looking every second, with floors that fit a test."""
    done = subprocess.run(
        [str(EVENKEEL), "judge", "--baseline", f"http://127.0.0.1:{baseline.port}", "--candidate",
         f"http://127.0.0.1:{candidate.port}", "--window-s", "1", "--block-s", "1", "--min-minutes", "0.2", "--max-minutes",
         "0.8", "--min-requests", "500", "--budget", "0.02", "--latency-budget", "0.2", "--split", "unchecked",
         "--log", str(folder / "log.jsonl"), "--plot", str(folder / "plot.svg"), "--json", *options],
        env=clean_environment({}), capture_output=True, text=True, timeout=JUDGED_S, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.strip(), done.stderr
    return done.returncode, json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture
def baseline(tmp_path: Path) -> Iterator[Tree]:
    with serving(version(tmp_path / "old")) as tree:
        yield tree


def test_a_version_that_fails_now_and_then_is_rolled_back(baseline: Tree, tmp_path: Path) -> None:
    with serving(version(tmp_path / "new", fail_share=0.3)) as candidate, load(baseline, candidate):
        code, record = verdict(tmp_path, baseline, candidate)
    assert (code, record["decision"]) == (1, "rollback"), record


def test_a_version_that_is_slow_now_and_then_is_rolled_back(baseline: Tree, tmp_path: Path) -> None:
    with serving(version(tmp_path / "new", slow_s=0.25, slow_share=0.3)) as candidate, load(baseline, candidate):
        code, record = verdict(tmp_path, baseline, candidate)
    assert (code, record["decision"]) == (1, "rollback"), record


def test_an_equal_version_is_not_rolled_back(baseline: Tree, tmp_path: Path) -> None:
    with serving(version(tmp_path / "new")) as candidate, load(baseline, candidate):
        code, record = verdict(tmp_path, baseline, candidate)
    assert code in (0, 2) and record["decision"] != "rollback", record


def test_an_equal_version_is_promoted_for_its_errors(baseline: Tree, tmp_path: Path) -> None:
    """By errors alone: on a machine that others use too the latencies of two equal trees differ for reasons of their own."""
    with serving(version(tmp_path / "new")) as candidate, load(baseline, candidate):
        code, record = verdict(tmp_path, baseline, candidate, "--no-latency")
    assert (code, record["decision"]) == (0, "promote"), record


def test_a_version_that_fails_its_golden_check_whenever_it_starts_is_rolled_back(baseline: Tree, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(ARTIFACTS / "digits", wrong)
    (wrong / "samples" / "seven.expected.json").write_text(json.dumps({"predictions": [[0.0] * 10]}))
    candidate = Tree(wrong)
    try:
        assert candidate.process.wait(60) != 0
        with load(baseline):
            code, record = verdict(tmp_path, baseline, candidate, "--ready-minutes", "0.1")
    finally:
        candidate.kill()
    assert (code, record["decision"], record["reasons"][0]["code"]) == (1, "rollback", "never_ready"), record  # type: ignore[index]
