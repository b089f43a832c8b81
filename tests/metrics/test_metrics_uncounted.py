"""The copy that the benchmark measures counting with: the same server, without a single counter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import uncounted
from tests.support import digits_model as model
from tests.support.scrape import Scrape
from tests.support.tree import ARTIFACTS, clean_environment, eventually, free_port
from tests.support.wire import Wire

SOURCE = '''
def answer(self, start_s):
    """Counts."""
    now_s, total_s = self._clock(), 0.0
    if start_s:
        self._count[_OK] += 1
    took_s = now_s - start_s
    total_s += took_s
    mantissa, exponent = frexp(took_s)
    count[_LATENCY + exponent] += 1
    self._block.value[_SUM] += total_s
    count[_BATCHES] += 1
    count[_ROWS_NOW] = 5
    kept = self.other()
    self.rows[3] += 1
    return start_s
'''
WITHOUT = '''def answer(self, start_s):
    """Counts."""
    if start_s:
        pass
    count[_BATCHES] += 1
    count[_ROWS_NOW] = 5
    kept = self.other()
    self.rows[3] += 1
    return start_s'''


def test_what_counts_is_taken_out_with_what_only_it_needed_and_nothing_else() -> None:
    assert uncounted.strip(SOURCE) == WITHOUT


@pytest.mark.parametrize("name", uncounted.COUNTING)
def test_there_is_something_to_take_out_of_each_file(name: str) -> None:
    source = (uncounted.ROOT / name).read_text()
    assert len(uncounted.strip(source).splitlines()) < len(uncounted.ast.unparse(uncounted.ast.parse(source)).splitlines())


def test_every_file_that_counts_requests_or_batches_is_among_them() -> None:
    """Counting moves with the hot path; a copy that still counts there would show counting as free."""
    seldom = {"serve/front/arbiter.py", "serve/front/worker.py"}  # once a worker
    found = set()
    for path in [*uncounted.ROOT.glob("serve/front/**/*.py"), *uncounted.ROOT.glob("serve/engine/**/*.py")]:
        tree = uncounted.ast.parse(path.read_text())
        if any(uncounted.counts(n) for n in uncounted.ast.walk(tree) if isinstance(n, uncounted.ast.stmt)):
            found.add(str(path.relative_to(uncounted.ROOT)))
    assert found - seldom == set(uncounted.COUNTING)


def test_the_copy_answers_rightly_and_counts_nothing(tmp_path: Path) -> None:
    copy, port, side = uncounted.make(tmp_path / "copy"), free_port(), free_port()
    environ = clean_environment({
        "EVENKEEL_MODEL_DIR": str(ARTIFACTS / "digits"), "SAGEMAKER_BIND_TO_PORT": str(port), "EVENKEEL_HOST": "127.0.0.1",
        "EVENKEEL_SIDECAR_ADDRESS": f"127.0.0.1:{side}", "PYTHONPATH": str(copy), "TMPDIR": str(tmp_path),
    })  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "evenkeel.container", "serve"], env=environ, cwd=copy, stdout=log, stderr=log
        )
    try:

        def ready() -> bool:
            with Wire(port) as wire:
                return wire.get("/ping").status == 200

        eventually(ready, "the copy is ready", 60)
        rows = model.some_rows(np.random.default_rng(4), 30)
        with Wire(port) as wire:
            for i in range(30):
                reply = wire.post(model.to_npy(rows[i : i + 1]), "application/x-npy")
                assert model.close(model.from_npy(reply.body), model.answers(rows[i : i + 1]))
            assert wire.post(b"no").status == 400
        scrape = Scrape.of_port(port)
        for name in ("evenkeel_requests_total", "evenkeel_queue_seconds_count", "evenkeel_run_seconds_count",
                     "evenkeel_batch_rows_count", "evenkeel_batch_rows_sum"):  # fmt: skip
            assert scrape[name] == 0, f"{name}: a counter is left in the copy; see benchmarks/uncounted.py"
    finally:
        process.terminate()
        process.wait(30)
    assert os.path.exists(copy / "evenkeel" / "serve" / "front" / "request" / "invocations.py")
