"""The handlers that evenkeel serves in the table answer as the peers' do: both do the same work."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks.peers import work
from benchmarks.table import handlers
from benchmarks.table.bodies import fault, samples
from benchmarks.table.dialects import Plain
from benchmarks.table.workloads import WORKLOADS


def script(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "work", work)
    spec = importlib.util.spec_from_file_location(f"inference_of_{folder.name}", folder / "code" / "inference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["handler-64", "handler-rows-16", "together-64", "texts-64", "picture-64", "tensor-8"])
def test_a_handler_answers_what_the_table_expects(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workload, plain = WORKLOADS[name], Plain("/")
    handlers.ensure(tmp_path)
    module = script(tmp_path / workload.model, monkeypatch)
    model = module.model_fn(str(tmp_path))
    for sample in samples(workload, tmp_path)[:3]:
        body = plain.request(workload.wire, sample.value).body
        data = module.input_fn(body, "") if hasattr(module, "input_fn") else np.asarray(sample.value)
        together = getattr(module, "PREDICT_TAKES_BATCH", False)
        prediction = module.predict_fn([data, data], model)[1] if together else module.predict_fn(data, model)
        answer, _ = module.output_fn(prediction, "")
        assert fault(plain.answer(workload.wire, {}, answer), sample.answer) is None


def test_the_work_beside_a_handler_is_the_peers(tmp_path: Path) -> None:
    handlers.ensure(tmp_path)
    assert {p.read_bytes() for p in tmp_path.glob("*/code/work.py")} == {handlers.WORK.read_bytes()}


def test_rows_are_the_same_alone_and_in_a_batch() -> None:
    rows = np.random.default_rng(1).random((64, work.COLUMNS), np.float32)
    alone = np.concatenate([work.predict(row[None]) for row in rows])
    assert fault(work.predict(rows), alone) is None
    assert len({tuple(row) for row in alone.round(3).tolist()}) > 60, "an answer tells which row it belongs to"
