"""How many CPUs there are, and what to run on them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from evenkeel.container.environment import read
from evenkeel.container.plan import processes
from evenkeel.container.plan.machine import cpu_quota, cpus, gpus
from evenkeel.container.plan.start_checks import bound_engines
from evenkeel.container.plan.start_checks import gpus as required
from evenkeel.container.supervise import engine_children, front_child
from evenkeel.container.supervise.run_dir import RunDir
from evenkeel.container.supervise.sidecar_child import SidecarChild
from evenkeel.container.versions.deployer import Deployer, SwapRules
from evenkeel.serve import settings as serve_settings
from evenkeel.serve.contract import catalogue
from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.errors import BadSetting
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
    made = processes.make(have, fronts, replicas, threads)
    assert (made.fronts, made.engines, made.threads) == expected


def test_the_plan_says_why() -> None:
    assert processes.make(8, 0, 4, 0).why(8).startswith("8 CPUs: 2 front")


# ---- GPUs --------------------------------------------------------------------------------------------------------------


MIG, OTHER = "MIG-c6d4f1ef", "MIG-cba663e8"  # UUIDs of slices


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, ("0", "1")), ("0", ("0",)), ("1,0", ("1", "0")), ("0, 1", ("0", "1")), ("0,1,2", ("0", "1")), ("", ()),
        ("-1", ()), ("1,-1,0", ("1",)), ("NoDevFiles", ()), ("GPU-8f", ("GPU-8f",)), ("2,0", ()), ("0,0", ("0",)),
        (f"{MIG},{OTHER},MIG-GPU-8f/1/0", (MIG, OTHER, "MIG-GPU-8f/1/0")),
    ],
)  # fmt: skip
def test_gpus_are_found_by_their_device_nodes_and_by_what_may_be_seen(
    tmp_path: Path, visible: str | None, found: tuple[str, ...]
) -> None:
    assert gpus(tmp_path, visible) == ()
    tree(tmp_path, nvidia0="", nvidia3="", nvidiactl="", nvidia__uvm="")  # whatever their numbers outside, CUDA counts from 0
    assert gpus(tmp_path, visible) == found


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, ("0",)), ("", ("0",)), ("all", ("0",)), ("void", ("0",)), ("none", ()), ("5", ("0",)), ("GPU-8f", ("0",)),
        (MIG, (MIG,)), (f"{MIG},{OTHER}", (MIG, OTHER)), (f"{MIG},{MIG}", (MIG,)), ("0:0", ("0",)),
    ],
)  # fmt: skip
def test_slices_of_a_gpu_are_known_by_what_the_container_runtime_was_told(
    tmp_path: Path, given: str | None, found: tuple[str, ...]
) -> None:
    assert gpus(tmp_path, None, given) == ()
    tree(tmp_path, nvidia0="")
    assert gpus(tmp_path, None, given) == found
    assert gpus(tmp_path, "0", given) == (("0",) if given != "none" else ()), "what was set for CUDA decides"


def test_a_gpu_that_is_required_and_missing_is_refused_with_the_reason(tmp_path: Path) -> None:
    assert required(read({}), tmp_path) == required(read({"EVENKEEL_REQUIRE_GPU": "auto"}), tmp_path) == ()
    with pytest.raises(BadSetting, match=r"EVENKEEL_REQUIRE_GPU=1, but no GPU is visible here: there is no .*nvidia0; start"):
        required(read({"EVENKEEL_REQUIRE_GPU": "1"}), tmp_path)
    tree(tmp_path, nvidia0="")
    assert required(read({"EVENKEEL_REQUIRE_GPU": "1"}), tmp_path) == ("0",)
    with pytest.raises(BadSetting, match="CUDA_VISIBLE_DEVICES='-1' hides them"):
        required(read({"EVENKEEL_REQUIRE_GPU": "1", "CUDA_VISIBLE_DEVICES": "-1"}), tmp_path)
    with pytest.raises(BadSetting, match="NVIDIA_VISIBLE_DEVICES='none'"):
        required(read({"EVENKEEL_REQUIRE_GPU": "1", "NVIDIA_VISIBLE_DEVICES": "none"}), tmp_path)
    with pytest.raises(BadSetting, match="EVENKEEL_REQUIRE_GPU='yes' must be 0, 1 or auto"):
        read({"EVENKEEL_REQUIRE_GPU": "yes"})


def test_each_gpu_has_its_engines_and_both_slots_of_a_place_have_the_same_gpu() -> None:
    made = processes.make(16, 0, 2, 0, slots=2, devices=("0", "1", MIG))
    assert (made.engines, made.threads, made.places) == (6, 2, 12)
    assert [made.device(place) for place in range(12)] == ["0", "1", MIG] * 4
    assert processes.make(8, 0, 0, 0, devices=("0", "1")).engines == 2
    assert made.why(16).startswith(f"16 CPUs, GPUs 0 1 {MIG}: 4 front, 6 engine with 2 threads each, 2 on each GPU")
    assert processes.make(8, 0, 4, 0).device(3) == ""


def test_engines_of_both_slots_are_started_on_their_gpu_and_fronts_and_the_sidecar_on_none(
    tmp_path: Path, short_path: Path
) -> None:
    for version in ("1", "2"):
        tree(tmp_path, **{f"root__m__{version}__model_dot_toml": 'backend = "echo"'})
    env = read({"EVENKEEL_MODEL_DIR": str(tmp_path / "root"), "EVENKEEL_REQUIRE_GPU": "auto", "EVENKEEL_LOG": "json"})
    made, page, run_dir = processes.make(4, 1, 2, 1, slots=2, devices=("0", MIG)), StatusPage.create(), RunDir(str(short_path))
    versions = Deployer(page, catalogue.read(env.model_dir), "1", SwapRules(), {})
    sockets = [run_dir.listen(f"engine-{place}.sock") for place in range(made.places)]
    children = engine_children.engines(env, made, page, sockets, run_dir.path, False, versions)
    versions.places.slots[1].revision = versions.serving
    told = [serve_settings.parse(serve_settings.EngineSettings, c.command(1)[-1]) for c in children]
    assert [t.device for t in told] == [c.device for c in children] == ["0", MIG] * 4 and all(t.require_gpu for t in told)
    assert {t.sharers for t in told} == {2}, "of one version: the other one's come when there is room for both"
    assert [(c.environ or {})["CUDA_VISIBLE_DEVICES"] for c in children] == ["0", MIG] * 4
    with socket.create_server(("127.0.0.1", 0)) as sock:
        others = [
            front_child.front(env, made, page, sock, sockets, False, 0),
            SidecarChild(env, page, sock, run_dir, False, 8080).child,
        ]
        assert [(c.environ or {})["CUDA_VISIBLE_DEVICES"] for c in others] == ["-1", "-1"]
    for listener in sockets:
        listener.close()


def test_more_engines_than_the_status_page_has_places_for_are_refused_with_what_to_change() -> None:
    bound_engines(processes.make(8, 0, 4, 0, slots=2, devices=("0", "1", "2", "3")))
    with pytest.raises(BadSetting, match=r"EVENKEEL_REPLICAS=5 on each of 4 GPUs .*with versions: at most 16; .*CUDA_VISIBLE"):
        bound_engines(processes.make(8, 0, 5, 0, slots=2, devices=("0", "1", "2", "3")))
    with pytest.raises(BadSetting, match="EVENKEEL_REPLICAS=17 is too many for a folder with versions: at most 16"):
        bound_engines(processes.make(8, 0, 17, 0, slots=2))


def test_an_engine_sees_its_gpu_alone_and_nobody_else_sees_any() -> None:
    env = read({"CUDA_VISIBLE_DEVICES": "0,1", "HOME": "/h"})
    assert env.on_device(env.for_engines(Path("/s")), "1")["CUDA_VISIBLE_DEVICES"] == "1"
    assert env.on_device(env.inherited, "")["CUDA_VISIBLE_DEVICES"] == "0,1", "without a plan for one, nothing is changed"
    assert (env.without_devices["CUDA_VISIBLE_DEVICES"], env.without_devices["HOME"]) == ("-1", "/h")


@pytest.mark.skipif(bool(gpus(Path("/dev"), None)), reason="this machine has a GPU")
def test_a_start_without_the_gpu_that_it_requires_ends_with_one_line() -> None:
    done = run_command("serve", EVENKEEL_REQUIRE_GPU="1")
    assert done.returncode == 1 and done.stdout.count("\n") == 0
    assert done.stderr.count("\n") == 1 and "EVENKEEL_REQUIRE_GPU=1, but no GPU is visible here" in done.stderr
