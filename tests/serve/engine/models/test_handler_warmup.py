"""Warm-up of scripted handlers on their samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evenkeel.serve.contract.manifest import ModelSample
from evenkeel.serve.engine.backends.base import RawReply
from evenkeel.serve.engine.models.golden import GoldenFailed
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.warmup import Warmup
from evenkeel.serve.errors import BadModel, ModelFailed
from tests.support.models import ScriptedHandler, raw_replica


def handler(folder: Path, answer: Callable[[Sequence[Any]], list[Any]], batched: bool = True) -> Replica:
    (folder / "in.json").write_text("[1]")
    made = raw_replica(answer, rows_max=8)
    assert isinstance(made.backend, ScriptedHandler)
    made.backend.batched = batched  # type: ignore[attr-defined]
    sample = ModelSample(folder / "in.json", "application/json", None, 1e-3, 1e-5)
    made.manifest = replace(made.manifest, samples=(sample,))
    return made


def reply(value: object) -> RawReply:
    return RawReply(json.dumps(value).encode(), "application/json")


def test_a_handler_warms_on_its_samples(tmp_path: Path) -> None:
    report = Warmup(handler(tmp_path, lambda requests: [reply(1) for _ in requests])).run()
    assert [(e.key, e.rows) for e in report.plan] == [("in.json", 1)]
    assert report.golden.passed == 2 + 4 + 8


def test_a_batched_handler_that_mixes_up_its_requests_fails_the_start(tmp_path: Path) -> None:
    with pytest.raises(GoldenFailed, match=r"request 0 of a batch of 2 \(sample in.json\).*answer is 2, expected 1"):
        Warmup(handler(tmp_path, lambda requests: [reply(len(requests)) for _ in requests])).run()


def test_a_handler_whose_sample_fails_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"sample in.json fails: model_error: out of ideas"):
        Warmup(handler(tmp_path, lambda requests: [ModelFailed("out of ideas") for _ in requests])).run()
