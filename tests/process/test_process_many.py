"""A whole container of many models: the platform's sequence, neighbours of broken models, and the end of the shared engine."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.tree import ARTIFACTS, Tree, eventually, serving

pytestmark = pytest.mark.slow
ENGINE = b"evenkeel.serve.engine.process"
ROW = (ARTIFACTS / "digits" / "samples" / "seven.json").read_bytes()
NAMES = ("plain", "a/b%2F..", "ü ?#", "f" * 1024)


class Client:
    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.tree.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def load(self, name: str, folder: Path) -> int:
        return self.ask("POST", "/models", json.dumps({"model_name": name, "url": str(folder)}).encode())[0]

    def unload(self, name: str) -> int:
        return self.ask("DELETE", f"/models/{quote(name, safe='')}")[0]

    def invoke(self, name: str) -> int:
        return self.ask("POST", f"/models/{quote(name, safe='')}/invoke", ROW)[0]

    def names(self) -> list[str]:
        return [model["modelName"] for model in self.ask("GET", "/models")[1]["models"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of models: one that is good, one that is none, one whose file is damaged."""
    models = tmp_path / "models"
    shutil.copytree(ARTIFACTS / "digits", models / "good" / "model")
    (models / "empty").mkdir()
    shutil.copytree(ARTIFACTS / "digits", models / "broken")
    (models / "broken" / "model.onnx").write_bytes(b"no model")
    return models


@pytest.fixture
def client(tmp_path: Path, folder: Path) -> Iterator[Client]:
    with serving(tmp_path, SAGEMAKER_MULTI_MODEL="true", EVENKEEL_MODELS_DIR=str(folder)) as tree:
        yield Client(tree)


def test_the_sequence_of_the_platform(client: Client, folder: Path) -> None:
    good = folder / "good" / "model"
    assert client.tree.ping() == 200 and client.ask("GET", "/models") == (200, {"models": []})
    assert client.unload("plain") == client.invoke("plain") == 404
    for name in NAMES:
        assert client.load(name, good) == 200 and client.load(name, good) == 409
        shown = {"modelName": name, "modelUrl": str(good)}
        assert client.ask("GET", f"/models/{quote(name, safe='')}") == (200, shown) and client.invoke(name) == 200
    assert client.names() == list(NAMES)
    status, page = client.ask("GET", "/models?limit=3")
    assert status == 200 and [m["modelName"] for m in page["models"]] == list(NAMES[:3])
    status, rest = client.ask("GET", f"/models?limit=3&next_page_token={page['nextPageToken']}")
    assert [m["modelName"] for m in rest["models"]] == [NAMES[3]] and "nextPageToken" not in rest
    for name in NAMES:
        assert client.unload(name) == 200 and client.unload(name) == client.invoke(name) == 404
        assert client.load(name, good) == 200 and client.invoke(name) == 200, "and it can come back"
    assert client.tree.ping() == 200


def test_without_the_platform_each_folder_is_a_model_from_the_start(tmp_path: Path, folder: Path) -> None:
    shutil.rmtree(folder / "good")
    shutil.copytree(ARTIFACTS / "digits", folder / "digits")
    with serving(tmp_path, EVENKEEL_MODELS_DIR=str(folder)) as tree:
        client = Client(tree)
        eventually(lambda: client.names() == ["digits"], "what is a model is loaded, and what is none is not")
        assert client.invoke("digits") == 200 and client.invoke("broken") == 404 and tree.ping() == 200


def test_a_model_that_cannot_be_loaded_harms_no_neighbour(client: Client, folder: Path) -> None:
    assert client.load("good", folder / "good" / "model") == 200
    for name, where, status in (("empty", "empty", 400), ("broken", "broken", 400), ("none", "none", 404), ("out", "..", 400)):
        assert client.load(name, folder / where) == status and client.invoke("good") == 200
    assert client.names() == ["good"] and client.ask("POST", "/invocations", ROW)[0] == 404 and client.tree.ping() == 200


def test_ten_callers_of_one_model_cause_one_load(client: Client, folder: Path) -> None:
    statuses: list[int] = []
    callers = [threading.Thread(target=lambda: statuses.append(client.load("one", folder / "good" / "model"))) for _ in range(10)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(statuses) == [200] + [409] * 9 and len(client.tree.events("model_loaded")) == 1


def test_the_end_of_the_shared_engine_costs_no_request_and_no_model(client: Client, folder: Path) -> None:
    for name in NAMES:
        assert client.load(name, folder / "good" / "model") == 200
    statuses: list[int] = []
    stop = threading.Event()

    def invoke(name: str) -> None:
        while not stop.is_set():
            statuses.append(client.invoke(name))

    callers = [threading.Thread(target=invoke, args=(name,)) for name in NAMES]
    for caller in callers:
        caller.start()
    try:
        for _ in range(2):
            before = len(client.tree.events("model_loaded"))
            engine = next(p for p in client.tree.pids() if ENGINE in Path(f"/proc/{p}/cmdline").read_bytes())
            os.kill(engine, signal.SIGKILL)
            eventually(
                lambda before=before: len(client.tree.events("model_loaded")) == before + len(NAMES), "all are loaded again"
            )
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert set(statuses) == {200} and client.names() == list(NAMES)
