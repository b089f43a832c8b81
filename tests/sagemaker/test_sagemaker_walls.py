"""What only a container has: its users, its walls, its limits, what is in the image and what is not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.conftest import Start
from tests.sagemaker.box import Box, Room, ping, wait_ready, wire
from tests.sagemaker.image_box import ImageBox, docker, image
from tests.support.tree import ROOT, eventually

pytestmark = pytest.mark.image
MIB = 1 << 20
CPU_BYTES_MAX, TORCH_BYTES_MAX = 450 * 10**6, 1_300 * 10**6
ASK = (  # what a client on the machine would do, from inside: a network of none has no other inside
    "import urllib.request as u; r = u.Request('http://127.0.0.1:8080/invocations', b'{\"instances\": [[1.0, 2.0]]}', "
    "{'Content-Type': 'application/json'}); print(u.urlopen(u.Request('http://127.0.0.1:8080/ping')).status, u.urlopen(r).status)"
)


@pytest.fixture
def config(start_image: Start) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("image", "inspect", image()).stdout)[0]
    return found


def python(box: Box, code: str) -> str:
    assert isinstance(box, ImageBox)
    done = box.run_inside("python", "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.contract("12.1")
@pytest.mark.parametrize("command", [("serve",), ()], ids=["as the platform says it", "with no word"])
def test_the_first_process_is_the_server(start_image: Start, command: tuple[str, ...]) -> None:
    box = start_image("echo", Room(command=command))
    assert python(box, "print(open('/proc/1/cmdline').read().split(chr(0))[1:3])") == "['/opt/evenkeel/bin/evenkeel', 'serve']"


@pytest.mark.contract("12.8", "12.9", "12.11")
@pytest.mark.parametrize("user", ["0:0", "54321:54321", "1000:0"])
def test_it_serves_as_any_user_with_nothing_to_write_to_but_tmp(start_image: Start, user: str) -> None:
    box = start_image("digits", Room(user=user))
    code = (
        "import os; s = os.statvfs('/dev/shm'); print(os.getuid(), s.f_blocks * s.f_frsize, os.access('/opt/ml/model', os.W_OK))"
    )
    assert python(box, code) == f"{user.split(':')[0]} {64 * MIB} False"
    assert box.stop() == 0


@pytest.mark.contract("12.9")
def test_it_serves_as_the_platform_starts_it_with_a_root_that_can_be_written(start_image: Start) -> None:
    box = start_image("digits", Room(user="0:0", read_only=False))
    assert isinstance(box, ImageBox)
    assert box.stop() == 0
    changed = [
        x for x in docker("diff", box.name).stdout.splitlines() if not re.match(r". /(tmp|opt|etc|run|dev|proc|sys)?(/|$)", x)
    ]
    assert changed == []


@pytest.mark.contract("12.10")
def test_it_starts_and_answers_without_any_network(start_image: Start) -> None:
    box = start_image("echo", Room(network=False), ready=False)
    assert isinstance(box, ImageBox)
    eventually(lambda: box.run_inside("python", "-c", ASK).stdout.strip() == "200 200", "it answers", 60.0)


@pytest.mark.contract("12.2", "12.29")
def test_it_listens_on_the_port_that_it_is_told_and_its_own_health_check_finds_it(start_image: Start) -> None:
    box = start_image("echo", Room({"SAGEMAKER_BIND_TO_PORT": "18181", "SAGEMAKER_SAFE_PORT_RANGE": "18180-18190"}))
    assert isinstance(box, ImageBox)
    assert ping(box) == 200
    health = json.loads(docker("image", "inspect", image()).stdout)[0]
    test = (health.get("HealthCheck") or health.get("Healthcheck") or health["Config"].get("Healthcheck"))["Test"]
    assert box.run_inside(*test[1:]).returncode == 0
    wrong = start_image("echo", ready=False)
    assert isinstance(wrong, ImageBox)
    broken = [*test[1:-1], test[-1].replace("8080", "8081")]
    assert wait_ready(wrong) and wrong.run_inside(*broken).returncode != 0


@pytest.mark.contract("12.36")
@pytest.mark.parametrize("cpus", [1, 1.5, 2])
def test_the_plan_counts_the_cpus_that_it_was_given(start_image: Start, cpus: float) -> None:
    box = start_image("echo", Room(cpus=cpus))
    (plan,) = [r for r in box.log() if r.get("event") == "plan"]
    whole = int(cpus)
    assert f"{whole} CPUs: 1 front, 1 engine with {whole} threads" in str(plan)


@pytest.mark.contract("12.36")
def test_it_knows_the_memory_that_it_was_given_and_serves_within_512_mb(start_image: Start) -> None:
    box = start_image("digits", Room(memory_mb=512))
    code = (
        "from pathlib import Path; from evenkeel.container.plan.machine import memory_left; "
        "print(memory_left(Path('/sys/fs/cgroup')))"
    )
    assert 0 < int(python(box, code)) < 512 * MIB
    with wire(box) as w:
        assert w.get("/ping").status == 200


@pytest.mark.contract("12.28")
def test_the_labels_name_what_is_implemented_and_the_commit(config: dict[str, Any]) -> None:
    labels = config["Config"]["Labels"]
    ours = {k: v for k, v in labels.items() if k.startswith("com.amazonaws")}
    assert ours == {"com.amazonaws.sagemaker.capabilities.accept-bind-to-port": "true"}
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels["org.opencontainers.image.version"])


@pytest.mark.contract("12.38")
def test_the_image_is_small_and_for_linux_on_amd64(config: dict[str, Any]) -> None:
    code = "import importlib.util as u; print(u.find_spec('torch') is not None)"
    with_torch = docker("run", "--rm", "--entrypoint", "python", image(), "-c", code).stdout.strip() == "True"
    assert (config["Os"], config["Architecture"]) == ("linux", "amd64")
    assert config["Size"] <= (TORCH_BYTES_MAX if with_torch else CPU_BYTES_MAX)


@pytest.mark.contract("12.38")
def test_every_package_has_the_version_of_the_lock_and_its_bytecode(start_image: Start) -> None:
    box = start_image("echo")
    code = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    names = {k.lower().replace("_", "-"): v.split("+")[0] for k, v in json.loads(python(box, code)).items()}
    lines = [x.split("==") for x in (ROOT / "requirements.lock").read_text().split() if "==" in x]
    locked = {k.lower().replace("_", "-"): v for k, v in lines}
    ours = {"evenkeel", "pip", "setuptools"}
    assert {k: v for k, v in names.items() if k not in ours and locked.get(k) != v} == {}
    code = "import os; from evenkeel import container, serve, sidecar; parts = container, serve, sidecar; "
    assert python(box, code + "print([os.path.exists(part.__cached__) for part in parts])") == "[True, True, True]"


def test_no_compiler_and_no_trace_of_the_build_is_in_the_image(start_image: Start) -> None:
    box = start_image("echo")
    code = "import shutil, os; print(shutil.which('gcc'), os.path.exists('/src'), [k for k in os.environ if k.startswith('PIP')])"
    assert python(box, code) == "None False []"
