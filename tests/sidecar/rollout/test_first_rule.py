"""Logs that the first rule wrote replay under it, whatever the rule of today says of the same windows."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.sidecar.rollout import plot, replay
from evenkeel.sidecar.rollout.first_rule.first_settings import FirstRule
from evenkeel.sidecar.rollout.judge_errors import BadLog

LOGS = sorted((Path(__file__).parent / "logs").glob("first-*.jsonl"))


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_an_old_log_replays_to_the_record_that_it_holds(path: Path) -> None:
    found = replay.read(path.read_text().splitlines())
    assert isinstance(found.rule, FirstRule) and found.agrees
    assert found.decision["decision"] == path.stem.removeprefix("first-")


def test_an_old_log_has_its_picture() -> None:
    found = replay.read(LOGS[0].read_text().splitlines())
    assert "count witness" in plot.svg(found.rule, found.lines, found.decision["decision"], found.decision["elapsed_s"])


def test_a_log_of_an_unknown_rule_is_refused() -> None:
    with pytest.raises(BadLog, match="not a replay log of format"):
        replay.read(['{"format": "evenkeel rollout log 3", "rule": {}}'])
