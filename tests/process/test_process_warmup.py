"""Warm-up in the real tree: a wrong model does not start, the ledger is told, shapes come back at the next start."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from evenkeel.serve.contract import shape_uses
from tests.support.tree import ARTIFACTS, Tree, eventually, run_command, serving

DIGITS = ARTIFACTS / "digits"


def refused(tree: Tree) -> dict[str, object]:
    """The one line that says why the tree did not start."""
    try:
        code = tree.process.wait(60)
        tree.assert_nothing_left()
        lines = tree.events("bad_model")
        assert code == 1, tree.story()
        assert len(lines) == 1 and not tree.events("restart") and not tree.events("serving"), tree.story()
        return lines[0]
    finally:
        tree.kill()


def test_a_golden_check_that_fails_stops_the_start_with_one_line_that_names_the_difference(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(DIGITS, folder)
    expected = json.loads((folder / "samples/seven.expected.json").read_text())
    expected["predictions"][0][7] -= 0.25
    (folder / "samples/seven.expected.json").write_text(json.dumps(expected))
    message = str(refused(Tree(folder))["message"])
    for part in ("golden check failed", "sample seven.json", "answer.predictions[0][7]", "off by 0.25", "allowed"):
        assert part in message, message


SLOWLY_WRONG = """
import time

def model_fn(model_dir):
    time.sleep(2)  # while the front is up already

def predict_fn(data, model):
    return [1]
"""


def test_until_the_golden_check_has_passed_every_request_is_refused_as_not_ready(tmp_path: Path) -> None:
    """The rehearsal comes after it, so nothing that is unproven answers anybody: decision 0024."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/inference.py").write_text(SLOWLY_WRONG)
    (tmp_path / "in.json").write_text("[0]")
    (tmp_path / "out.json").write_text("[2]")
    (tmp_path / "model.toml").write_text('[[samples]]\ninput = "in.json"\noutput = "out.json"\n')
    tree, said = Tree(tmp_path), set()
    try:
        while tree.process.poll() is None:
            with contextlib.suppress(OSError), tree.wire(5.0) as wire:  # nobody listens yet, or nobody any more
                answer = wire.post(b"[0]")
                said.add((answer.status, answer.code, answer.headers.get("retry-after")))
            time.sleep(0.005)
        assert tree.process.wait(60) == 1 and tree.events("bad_model"), tree.story()
    finally:
        tree.kill()
    assert said == {(503, "not_ready", "1")}


MIXES = """
import json

PREDICT_TAKES_BATCH = True

def model_fn(model_dir):
    return 1

def predict_fn(items, model):
    return [len(items)] * len(items)
"""


def test_a_batched_handler_whose_requests_reach_each_other_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/inference.py").write_text(MIXES)
    (tmp_path / "in.json").write_text("[1]")
    (tmp_path / "model.toml").write_text('[[samples]]\ninput = "in.json"\n')
    message = str(refused(Tree(tmp_path))["message"])
    assert "request 0 of a batch of 2 (sample in.json)" in message and "expected 1" in message


torch = pytest.importorskip("torch")


class Centred(torch.nn.Module):  # type: ignore[misc]
    """Rows reach each other through the mean of the batch."""

    def forward(self, x: object) -> object:
        return x - x.mean(dim=0, keepdim=True)  # type: ignore[attr-defined]


def export(folder: Path, module: object, text: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    batch = torch.export.Dim("batch", max=256)
    program = torch.export.export(module.eval(), (torch.ones(2, 3),), dynamic_shapes=({0: batch},))  # type: ignore[attr-defined]
    torch.export.save(program, folder / "model.pt2")
    (folder / "model.toml").write_text(text)
    return folder


def test_check_names_a_model_whose_rows_depend_on_each_other(tmp_path: Path) -> None:
    folder = export(tmp_path, Centred(), '[[samples]]\ninput = "rows.json"\n')
    (folder / "rows.json").write_text('{"instances": [[1, 2, 3]]}')
    ended = run_command("check", folder)
    assert ended.returncode == 1
    assert "rows depend on each other: row 0 of a batch of 2" in ended.stderr and "rows_depend = true" in ended.stderr


def test_of_made_up_rows_check_says_that_they_run_one_at_a_time(tmp_path: Path) -> None:
    ended = run_command("check", export(tmp_path, Centred()))
    assert ended.returncode == 0
    assert "warning   batching is off: rows depend on each other" in ended.stdout and "[[samples]]" in ended.stdout


def test_such_a_model_that_says_so_is_served_request_by_request(tmp_path: Path) -> None:
    folder = export(tmp_path, Centred(), "[batching]\nrows_depend = true\n")
    with serving(folder) as tree, tree.wire() as wire:
        reply = wire.post(json.dumps({"instances": [[1, 2, 3], [3, 2, 1]]}).encode())
        assert reply.status == 200, reply.raw
        assert np.allclose(reply.json()["predictions"], [[-1, 0, 1], [1, 0, -1]])


def test_compile_is_done_once_at_start_and_the_answers_stay(tmp_path: Path) -> None:
    folder = export(tmp_path, torch.nn.Softmax(dim=1), "compile = true\n")
    tree = Tree(folder)
    try:
        tree.wait_ready()
        told = tree.status()["replicas"][0]
        assert told["startup"]["compile_s"] > 0
        assert told["facts"]["compiled"].startswith(("by torch.compile", "no: ")), told["facts"]
        with tree.wire() as wire:
            assert np.allclose(wire.post(b"[[1, 1, 1]]").json(), [[1 / 3] * 3], atol=1e-5)
    except BaseException:
        tree.kill()
        raise
    tree.stop()


def test_without_a_compiler_the_model_is_served_as_it_is_and_a_line_says_why(tmp_path: Path) -> None:
    folder = export(tmp_path, torch.nn.Softmax(dim=1), "compile = true\n")
    with serving(folder, CXX="/nonexistent/g++") as tree:
        (line,) = tree.events("not_compiled")
        assert "compile = true" in line["message"] and "install g++" in line["message"]
        with tree.wire() as wire:
            assert np.allclose(wire.post(b"[[1, 1, 1]]").json(), [[1 / 3] * 3], atol=1e-5)


def test_the_status_tells_what_the_start_took_what_was_warmed_and_what_is_served() -> None:
    with serving("digits") as tree:
        told = tree.status()["replicas"][0]
        startup, warmup = told["startup"], told["warmup"]
        assert all(startup[phase] > 0 for phase in ("import_s", "load_s", "warm_s"))
        assert startup["unpack_s"] is startup["device_copy_s"] is startup["compile_s"] is None
        spent = sum(seconds for phase, seconds in startup.items() if seconds is not None and phase != "total_s")
        assert 0.5 * startup["total_s"] < spent <= startup["total_s"]
        assert warmup["golden"]["checked"] == warmup["golden"]["passed"] >= 8
        assert {entry["rows"] for entry in warmup["plan"]} >= {1, 2, 4}
        assert all(entry["key"] == "8x8" and entry["runs"] > 1 for entry in warmup["plan"])
        eventually(lambda: tree.status()["replicas"][0]["model"]["sha256"], "the sum of the model's files")
        assert len(tree.status()["replicas"][0]["model"]["sha256"]) == 64
        (ready,) = tree.events("ready")
        assert ready["warm_s"] > 0 and ready["golden"] == f"{warmup['golden']['checked']} of {warmup['golden']['checked']}"


def test_what_warm_up_and_rehearsal_did_is_not_counted_as_traffic() -> None:
    with serving("digits", EVENKEEL_FRONTS="2", EVENKEEL_REPLICAS="2") as tree:

        def clean() -> bool:
            told = tree.status()
            fronts = all(f["ok"] == 0 and not f["latency_us"] for f in told["fronts"])
            return fronts and all(r["batches"] <= len(told["fronts"]) for r in told["replicas"])

        # Where the rehearsal outlasts the time that engines wait, each front may have one request on the way.
        eventually(clean, f"no traffic is counted: {tree.status()}")


def test_shapes_met_in_service_are_warmed_at_the_next_start(tmp_path: Path) -> None:
    log = tmp_path / "shapes.json"
    body = json.dumps({"instances": [{"x": list(range(33))}]}).encode()
    with serving("echo", EVENKEEL_SHAPE_LOG=str(log)) as tree, tree.wire() as wire:
        for _ in range(20):
            assert wire.post(body).status == 200
    (use,) = [u for u in shape_uses.read(str(log)) if u.dims == ((33,),)]
    assert use.runs == ((1, 20),)
    assert b"32" not in log.read_bytes().replace(b"33", b""), "sizes and counts only"
    with serving("echo", EVENKEEL_SHAPE_LOG=str(log)) as tree:
        plan = tree.status()["replicas"][0]["warmup"]["plan"]
        assert {entry["rows"] for entry in plan if entry["key"] == "33"} >= {1}
        assert len({entry["key"] for entry in plan}) == 2, "the sample's shape and the one of the log"


@pytest.mark.parametrize("damage", [b"", b"\0" * 1000, b'{"format": 1, "shapes": [{"dims": [[99999999999]], "runs": {}}]}'])
def test_a_damaged_shape_log_costs_one_line_of_each_reader_and_nothing_else(tmp_path: Path, damage: bytes) -> None:
    log = tmp_path / "shapes.json"
    log.write_bytes(damage)
    with serving("digits", EVENKEEL_SHAPE_LOG=str(log)) as tree:
        lines = tree.events("bad_shape_log")
        assert sorted(line["process"] for line in lines) == ["engine-0", "sidecar"]
        assert all(str(log) in line["message"] for line in lines)
        assert tree.status()["replicas"][0]["warmup"]["golden"]["passed"] >= 8
