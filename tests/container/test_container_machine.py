"""How many CPUs there are, and what to run on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from container import plan
from container.environment import read
from container.machine import cpu_quota, cpus, gpus
from container.serve import require_gpu
from serve.errors import BadSetting
from tests.support.tree import run_command


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


# ---- GPUs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 2), ("0", 1), ("0,1", 2), ("0,1,2", 2), ("", 0), ("-1", 0), ("1,-1,0", 1), ("GPU-8f", 1)]
)
def test_gpus_are_counted_by_their_device_nodes_and_by_what_may_be_seen(tmp_path: Path, visible: str | None, count: int) -> None:
    assert gpus(tmp_path, visible) == 0
    tree(tmp_path, nvidia0="", nvidia1="", nvidiactl="", nvidia__uvm="")
    assert gpus(tmp_path, visible) == count


def test_a_gpu_that_is_required_and_missing_is_refused_with_the_reason(tmp_path: Path) -> None:
    require_gpu(read({}), tmp_path)
    with pytest.raises(BadSetting, match=r"EVENKEEL_REQUIRE_GPU=1, but no GPU is visible here: there is no .*nvidia0; start"):
        require_gpu(read({"EVENKEEL_REQUIRE_GPU": "1"}), tmp_path)
    tree(tmp_path, nvidia0="")
    require_gpu(read({"EVENKEEL_REQUIRE_GPU": "1"}), tmp_path)
    with pytest.raises(BadSetting, match="CUDA_VISIBLE_DEVICES='-1' hides them"):
        require_gpu(read({"EVENKEEL_REQUIRE_GPU": "1", "CUDA_VISIBLE_DEVICES": "-1"}), tmp_path)


@pytest.mark.skipif(gpus(Path("/dev"), None) > 0, reason="this machine has a GPU")
def test_a_start_without_the_gpu_that_it_requires_ends_with_one_line() -> None:
    done = run_command("serve", EVENKEEL_REQUIRE_GPU="1")
    assert done.returncode == 1 and done.stdout.count("\n") == 0
    assert done.stderr.count("\n") == 1 and "EVENKEEL_REQUIRE_GPU=1, but no GPU is visible here" in done.stderr
