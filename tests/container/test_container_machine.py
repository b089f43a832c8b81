"""How many CPUs there are, and what to run on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from container import plan
from container.machine import cpu_quota, cpus


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(("text", "quota"), [("200000 100000", 2.0), ("150000 100000", 1.5), ("max 100000", None), ("", None)])
def test_the_quota_of_cgroup_v2(tmp_path: Path, text: str, quota: float | None) -> None:
    assert cpu_quota(tree(tmp_path, cpu_dot_max=text)) == quota


@pytest.mark.parametrize(("quota_us", "period_us", "quota"), [("50000", "100000", 0.5), ("-1", "100000", None)])
def test_the_quota_of_cgroup_v1(tmp_path: Path, quota_us: str, period_us: str, quota: float | None) -> None:
    root = tree(tmp_path, cpu__cpu_dot_cfs_quota_us=quota_us, cpu__cpu_dot_cfs_period_us=period_us)
    assert cpu_quota(root) == quota


def test_half_a_quota_of_cgroup_v1_is_none(tmp_path: Path) -> None:
    assert cpu_quota(tree(tmp_path, cpu__cpu_dot_cfs_quota_us="50000")) is None


def test_no_cgroup_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


def test_there_is_always_one_cpu() -> None:
    assert cpus() >= 1


@pytest.mark.parametrize(
    ("have", "fronts", "replicas", "threads", "expected"),
    [
        (1, 0, 0, 0, (1, 1, 1)),
        (2, 0, 0, 0, (1, 1, 2)),
        (8, 0, 0, 0, (2, 1, 8)),
        (8, 0, 4, 0, (2, 4, 2)),
        (2, 0, 4, 0, (1, 4, 1)),
        (64, 0, 0, 0, (8, 1, 64)),
        (2, 3, 2, 5, (3, 2, 5)),
    ],
)
def test_the_plan_shares_the_cpus(have: int, fronts: int, replicas: int, threads: int, expected: tuple[int, ...]) -> None:
    made = plan.make(have, fronts, replicas, threads)
    assert (made.fronts, made.engines, made.threads) == expected


def test_the_plan_says_why() -> None:
    assert plan.make(8, 0, 4, 0).why(8).startswith("8 CPUs: 2 front")
