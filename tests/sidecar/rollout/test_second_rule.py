"""Logs that an earlier revision of the second rule wrote replay to the record that they hold, whatever has been added since."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.sidecar.rollout import replay
from evenkeel.sidecar.rollout.rule import Rule

LOGS = sorted((Path(__file__).parent / "logs").glob("second-*.jsonl"))


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_log_of_the_second_rule_replays_to_the_record_that_it_holds(path: Path) -> None:
    found = replay.read(path.read_text().splitlines())
    assert isinstance(found.rule, Rule) and found.agrees
    assert found.decision["decision"] == path.stem.removeprefix("second-")


def test_there_is_a_log_of_every_verdict() -> None:
    assert [path.stem for path in LOGS] == ["second-hold", "second-promote", "second-rollback"]
