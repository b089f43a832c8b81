"""A rollout judged by the sidecar of a real tree, over real HTTP, while real requests are served; and the sidecar killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.test_process_judge import load, version
from tests.support.scrape import Scrape
from tests.support.sidecar_app import ask
from tests.support.tree import Tree, eventually, serving

TOKEN = "a-token-that-nobody-may-see"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
JUDGED_S = 120.0  # an upper bound on a busy machine, not a bar


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Tree]:
    with serving(version(tmp_path / "old"), EVENKEEL_ADMIN_TOKEN=TOKEN, EVENKEEL_EMF="1", EVENKEEL_EMF_PERIOD_S="1") as tree:
        yield tree


def order(old: Tree, new: Tree) -> dict[str, Any]:
    return {"baseline": [f"127.0.0.1:{old.port}"], "candidate": [f"127.0.0.1:{new.port}"], "id": "real", "window_s": 0.5,
            "block_s": 1, "min_minutes": 0.1, "max_minutes": 10, "min_requests": 200, "budget": 0.02, "latency_budget": 0.2,
            "split": "unchecked"}  # fmt: skip


def decision(tree: Tree) -> dict[str, Any]:
    return dict(ask(tree.side, "/rollout/decision").json)


def gauges(port: int) -> tuple[float, float]:
    told = Scrape(ask(port, "/metrics").text)
    return told["evenkeel_rollout_rollback_wanted"], told["evenkeel_rollout_evidence_insufficient"]


def alarms(tree: Tree) -> list[tuple[int, int]]:
    lines = [r for r in tree.log() if "_aws" in r and "RollbackWanted" in r]
    return [(r["RollbackWanted"], r["EvidenceInsufficient"]) for r in lines]


def test_a_failing_version_is_rolled_back_even_when_the_sidecar_is_killed_on_the_way(old: Tree, tmp_path: Path) -> None:
    with serving(version(tmp_path / "new", fail_share=0.02)) as new:
        assert ask(old.side, "/rollout", "POST", order(old, new)).status == 401
        assert ask(old.side, "/rollout/decision").status == 404
        wanted = {**order(old, new), "budget": 0.005}  # what fails is outside of it
        assert ask(old.side, "/rollout", "POST", wanted, **BEARER).status == 202
        eventually(lambda: decision(old)["windows"] >= 3, "it looks")
        assert gauges(old.side) == gauges(old.port) == (0, 1)
        before, pid = decision(old), old.pid_of("sidecar")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: old.status()["sidecar"]["pid"] != pid, "a successor")
        resumed = decision(old)
        assert resumed["windows"] >= before["windows"] and resumed["judge"]["phase"] == "judging"
        assert len(old.events("rollout_resumed")) == 1
        with load(old, new):
            last = eventually(lambda: (d := decision(old))["decision"] == "rollback" and d, "it is rolled back", JUDGED_S)
        assert last["final"] and "gap" not in last["flags"]
        assert gauges(old.side) == gauges(old.port) == (1, 0)
        assert ask(old.side, "/rollout/flagger/rollback", "POST", {}).status == 200
        eventually(lambda: (1, 0) in alarms(old), "the line for CloudWatch says so")
        assert (0, 1) in alarms(old)
    assert ask(old.side, "/rollout", "DELETE", **BEARER).json == {"ended": "real"}
    assert ask(old.side, "/rollout/decision").status == 404
