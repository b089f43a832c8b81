"""The sidecar of a real tree: every dialect of the verdict, authority, drains, and what a successor remembers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from evenkeel.container.supervise.listeners import reserve_grpc
from evenkeel.serve.errors import BadSetting
from tests.support.tree import ARTIFACTS, Tree, eventually, free_port, run_command, serving

TOKEN = "a-token-that-nobody-may-see"
SAMPLE = (ARTIFACTS / "digits/samples/seven.json").read_bytes()


@dataclass(frozen=True)
class Said:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Said:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        reply = connection.getresponse()
        return Said(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read().decode())
    finally:
        connection.close()


def admin_socket(tree: Tree) -> Path:
    (found,) = (tree.tmp / "tmp").glob("evenkeel-*/admin.sock")
    return found


@pytest.fixture(scope="module")
def tree() -> Iterator[Tree]:
    with serving("digits", EVENKEEL_ADMIN_TOKEN=TOKEN, EVENKEEL_GRPC_HEALTH_PORT=str(free_port())) as tree:
        yield tree


READY_PATHS = ["/readyz", "/readyz?verbose", "/livez", "/livez?verbose", "/startupz", "/v2/health/live", "/v2/health/ready",
               "/v2/models/digits/ready", "/v2/models/digits/versions/1/ready"]  # fmt: skip


@pytest.mark.parametrize("path", READY_PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_dialect_of_the_sidecar_says_ready(tree: Tree, path: str, method: str) -> None:
    said = ask(tree.side, path, method)
    assert said.status == 200
    assert bool(said.text) is (method == "GET")


@pytest.mark.parametrize("path", [p for p in READY_PATHS if p.startswith("/v2")])
def test_the_data_port_says_the_same_in_the_open_inference_protocol(tree: Tree, path: str) -> None:
    there, here = ask(tree.port, path), ask(tree.side, path)
    assert (there.status, there.json) == (here.status, here.json)


def test_before_the_model_is_loaded_every_dialect_says_no_but_live(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/inference.py").write_text(
        "import time\n\ndef model_fn(model_dir):\n    time.sleep(60)\n\ndef predict_fn(data, model):\n    return data\n"
    )
    grpc_port = free_port()
    tree = Tree(tmp_path, EVENKEEL_GRPC_HEALTH_PORT=str(grpc_port))
    try:
        eventually(lambda: tree.ping() == 503 and tree.status()["reason"] == "loading", "it loads")
        for path in ("/readyz", "/startupz", "/v2/health/ready", "/v2/models/digits/ready"):
            assert ask(tree.side, path).status == 503, path
        for path in ("/v2/health/ready", "/v2/models/digits/ready"):
            assert ask(tree.port, path).json["reason"] == "loading"
        assert ask(tree.side, "/livez").status == ask(tree.port, "/v2/health/live").status == 200
        verbose = ask(tree.side, "/readyz?verbose").text
        assert "[+]running ok\n[-]loaded failed: " in verbose and verbose.endswith("readyz check failed\n")
        eventually(lambda: grpc_status(grpc_port, "") == health_pb2.HealthCheckResponse.NOT_SERVING, "gRPC says no")
        told = tree.status()
        assert (told["state"], told["ready"], told["clears_when"]) == ("LOADING", False, "the model is loaded")
        assert [c["name"] for c in told["conditions"] if not c["ok"]] == ["loaded", "warm", "proven", "moving"]
    finally:
        tree.kill()


def grpc_status(port: int, service: str) -> int | None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        except grpc.RpcError as e:
            assert e.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)
            return None
        return int(reply.status)


def test_grpc_health_says_serving_for_the_container_and_its_model_and_knows_no_other(tree: Tree) -> None:
    port = int(tree.settings["EVENKEEL_GRPC_HEALTH_PORT"])
    serving_status = health_pb2.HealthCheckResponse.SERVING
    eventually(lambda: grpc_status(port, "") == serving_status, "gRPC says serving")
    eventually(lambda: grpc_status(port, "digits") == serving_status, "and for the model")
    assert grpc_status(port, "other") is None


def test_a_grpc_port_that_is_taken_stops_the_start_with_its_name() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run_command("serve", EVENKEEL_MODEL_DIR="model_artifacts/echo", EVENKEEL_HOST="127.0.0.1",
                            SAGEMAKER_BIND_TO_PORT="0", EVENKEEL_SIDECAR_ADDRESS="127.0.0.1:0",
                            EVENKEEL_GRPC_HEALTH_PORT=str(taken.getsockname()[1]))  # fmt: skip
    assert ended.returncode == 1 and "EVENKEEL_GRPC_HEALTH_PORT" in ended.stderr and "Traceback" not in ended.stderr


def test_a_grpc_port_without_the_package_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadSetting, match=r"EVENKEEL_GRPC_HEALTH_PORT=9091 .* pip install 'evenkeel\[grpc\]'"):
        reserve_grpc("127.0.0.1", 9091)
    assert reserve_grpc("127.0.0.1", 0) is None, "off costs nothing"


# ---- clear errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("GET", "/status/", 404, "not_found"),
        ("GET", "/v2/models/other/ready", 404, "not_found"),
        ("GET", "/v2/models/digits/versions/7/ready", 404, "not_found"),
        ("GET", "/../etc/passwd", 404, "not_found"),
        ("POST", "/status", 405, "method_not_allowed"),
        ("DELETE", "/", 405, "method_not_allowed"),
        ("GET", "/drain", 405, "method_not_allowed"),
        ("GET", "/status?points_after_s=x", 400, "bad_request"),
        ("GET", "/status?points_after_s=nan", 400, "bad_request"),
        ("GET", "/status?points_after_s=", 400, "bad_request"),
    ],
)
def test_what_is_wrong_with_a_request_is_said_as_json(tree: Tree, method: str, path: str, status: int, code: str) -> None:
    said = ask(tree.side, path, method)
    assert (said.status, said.code) == (status, code)
    assert said.json["error"]["message"] and set(said.json) == {"error"}
    assert ("allow" in said.headers) is (status == 405)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("POST", "/v2/health/ready", 405, "method_not_allowed"), ("GET", "/v2/models/other/ready", 404, "not_found"),
     ("GET", "/v2/health/ready/", 404, "not_found"), ("GET", "/v2/health", 404, "not_found")],
)  # fmt: skip
def test_the_data_port_is_as_clear(tree: Tree, method: str, path: str, status: int, code: str) -> None:
    before = tree.errors().get(code, 0)
    said = ask(tree.port, path, method)
    assert (said.status, said.code) == (status, code)
    assert tree.errors()[code] == before + 1


# ---- authority ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer x"}, 403),
    ],
)
def test_without_authority_nothing_changes(tree: Tree, headers: dict[str, str], status: int) -> None:
    said = ask(tree.side, "/drain", "POST", **headers)
    assert said.status == status and TOKEN not in said.text
    assert ("www-authenticate" in said.headers) is (status == 401)
    assert tree.ping() == 200 and tree.status()["reason"] == "ready"


def test_without_a_token_in_the_settings_http_changes_nothing(digits: Tree) -> None:
    said = ask(digits.side, "/drain", "POST", Authorization="Bearer ")
    assert (said.status, said.code) == (403, "forbidden")
    assert digits.ping() == 200


def test_the_token_is_in_no_argument_in_no_childs_environment_and_in_no_log_line(tree: Tree) -> None:
    secret = TOKEN.encode()
    for pid in tree.pids():
        assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes()
        if pid != tree.process.pid:
            assert secret not in Path(f"/proc/{pid}/environ").read_bytes()
    assert TOKEN not in tree.story()
    assert TOKEN not in json.dumps(tree.status())


def test_a_token_that_cannot_be_one_stops_the_start_and_is_not_shown() -> None:
    ended = run_command("serve", EVENKEEL_MODEL_DIR="model_artifacts/echo", EVENKEEL_ADMIN_TOKEN="too-short")
    assert ended.returncode == 1 and "EVENKEEL_ADMIN_TOKEN must be" in ended.stderr
    assert "too-short" not in ended.stdout + ended.stderr


def test_only_our_own_user_can_open_the_socket_for_changes(tree: Tree) -> None:
    path = admin_socket(tree)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o077 == 0


# ---- drains ------------------------------------------------------------------------------------------------------------


def drained(tree: Tree) -> None:
    assert tree.process.wait(60) == 0, tree.story()
    tree.assert_nothing_left()
    assert [e["message"] for e in tree.events("draining")] == ["asked to drain: finishing what has been accepted"]


def test_a_drain_over_http_with_the_token_ends_the_container_in_good_order() -> None:
    tree = Tree("digits", EVENKEEL_ADMIN_TOKEN=TOKEN).wait_ready()
    try:
        said = ask(tree.side, "/drain", "POST", Authorization=f"Bearer {TOKEN}")
        assert (said.status, said.json) == (202, {"draining": True, "already": False})
        drained(tree)
    finally:
        tree.kill()


def test_evenkeel_drain_needs_no_token_on_the_socket_and_the_platforms_signal_after_it_is_not_impatience() -> None:
    """As a preStop hook does it: the drain first, SIGTERM while it lasts. The quiet time must still be kept."""
    tree = Tree("digits", EVENKEEL_QUIET_S="10").wait_ready()
    try:
        path = admin_socket(tree)
        assert run_command("drain", "--socket", path).returncode == 0
        eventually(lambda: tree.status()["reason"] == "draining", "it drains")
        again = run_command("drain", "--socket", path)
        assert again.returncode == 0 and "already" in again.stdout
        tree.tell(signal.SIGTERM)
        with tree.wire() as wire:
            assert wire.post(SAMPLE).status == 200, "what still comes in the quiet time is answered"
        assert ask(tree.side, "/v2/health/ready").json["reason"] == "draining"
        drained(tree)
        assert not tree.events("killed")
    finally:
        tree.kill()


def test_evenkeel_drain_finds_the_container_by_its_run_directory_and_says_when_there_is_none(short_path: Path) -> None:
    tree = Tree("digits", EVENKEEL_RUN_DIR=str(short_path)).wait_ready()
    try:
        assert run_command("drain", EVENKEEL_RUN_DIR=str(short_path)).returncode == 0
        drained(tree)
    finally:
        tree.kill()
    ended = run_command("drain", EVENKEEL_RUN_DIR=str(short_path))
    assert ended.returncode == 1 and "no container of yours runs here" in ended.stderr


def test_a_grpc_watcher_is_told_of_a_drain_and_many_watchers_leave_room_for_checks() -> None:
    port = free_port()
    tree = Tree("digits", EVENKEEL_QUIET_S="8", EVENKEEL_GRPC_HEALTH_PORT=str(port)).wait_ready()
    try:
        eventually(lambda: grpc_status(port, "") == health_pb2.HealthCheckResponse.SERVING, "gRPC says serving")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=30) for _ in range(20)]
            assert [next(w).status for w in watches] == [health_pb2.HealthCheckResponse.SERVING] * 20
            assert grpc_status(port, "digits") == health_pb2.HealthCheckResponse.SERVING
            tree.tell(signal.SIGTERM)
            assert [next(w).status for w in watches] == [health_pb2.HealthCheckResponse.NOT_SERVING] * 20
        assert tree.process.wait(60) == 0, tree.story()
        tree.assert_nothing_left()
    finally:
        tree.kill()


# ---- the whole truth, and a successor that goes on from it -------------------------------------------------------------


def test_status_tells_replicas_models_transitions_and_ten_minutes_of_measures(tree: Tree) -> None:
    with tree.wire() as wire:
        for _ in range(20):
            assert wire.post(SAMPLE).status == 200
    told = eventually(
        lambda: (
            (t := tree.status())["measures"]["now"]["requests_per_s"] > 0 and t["replicas"][0]["saturation"] is not None and t
        ),
        "the requests are measured",
    )
    assert (told["state"], told["reason"], told["ready_in_s"]) == ("READY", "ready", 0.0)
    assert [(m["name"], m["version"], m["replicas"]) for m in told["models"]] == [("digits", "1", [0])]
    assert told["transitions"][0]["at_s"] >= told["transitions"][-1]["at_s"], "the newest first"
    assert {"READY", "ready"} <= {t["new"] for t in told["transitions"]}
    fields, points = told["measures"]["fields"], told["measures"]["points"]
    assert len(points) >= 1 and all(len(p) == len(fields) for p in points)
    last_s = points[-1][fields.index("at_s")]
    later = ask(tree.side, f"/status?points_after_s={last_s}").json["measures"]["points"]
    assert all(p[fields.index("at_s")] > last_s for p in later)


def test_a_killed_sidecar_leaves_its_memory_to_its_successor_which_says_that_it_is_new() -> None:
    with serving("digits") as tree:
        os.kill(tree.pid_of("engine"), signal.SIGKILL)
        eventually(lambda: any(f["reason"] == "signal" for f in tree.status()["faults"]), "the crash is remembered")
        eventually(lambda: tree.status()["ready"] and tree.ping() == 200, "it is mended")
        before = tree.status()
        assert before["sidecar"]["restarted"] is False
        os.kill(tree.pid_of("sidecar"), signal.SIGKILL)
        after = eventually(lambda: (t := tree.status())["sidecar"]["pid"] != before["sidecar"]["pid"] and t, "a successor")
        assert (after["sidecar"]["restarted"], after["sidecar"]["life"]) == (True, 2)
        old = [(t["subject"], t["new"]) for t in before["transitions"]]
        new = [(t["subject"], t["new"]) for t in after["transitions"]]
        assert new[-len(old) :] == old and ("sidecar", "restarted") in new
        assert any(f["reason"] == "signal" and f["subject"] == "engine 0" for f in after["faults"])
        assert tree.ping() == 200


def test_evenkeel_status_asks_the_running_sidecar(tree: Tree) -> None:
    address = {"EVENKEEL_SIDECAR_ADDRESS": f"127.0.0.1:{tree.side}"}
    shown = run_command("status", **address)
    assert shown.returncode == 0 and shown.stdout.startswith("READY: ready for ") and "\x1b" not in shown.stdout
    assert json.loads(run_command("status", "--json", **address).stdout)["models"][0]["name"] == "digits"
