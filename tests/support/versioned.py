"""A model folder with versions, `<name>/<version>/`, whose answers tell which version gave them; and asking for one."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.tree import Tree

NAME = "told"

# Answers with its version, its own count and the caller's body: a reply to the wrong caller, or by the wrong version, shows.
HANDLER = """
import os, time
VERSION, LOAD_S, SLOW_S = {version!r}, {load_s}, {slow_s}

def model_fn(model_dir):
    time.sleep(LOAD_S)
    if {fails!r}:
        raise RuntimeError({fails!r})
    return [bytearray({bytes})]

def transform_fn(model, body, content_type, accept):
    time.sleep(SLOW_S)
    if body == b"die":
        os.kill(os.getpid(), 9)
    return VERSION.encode() + b" " + body, "text/plain"
"""

TENSORS = """backend = "echo"
[[inputs]]
name = "x"
dtype = "float32"
shape = ["rows", {columns}]
"""
BAD_GOLDEN = """
[[samples]]
input = "in.json"
output = "out.json"
"""


def handler_version(
    root: Path, version: str, *, load_s: float = 0.0, slow_s: float = 0.0, fails: str = "", bytes: int = 0
) -> Path:
    folder = root / NAME / version
    (folder / "code").mkdir(parents=True)
    text = HANDLER.format(version=version, load_s=load_s, slow_s=slow_s, fails=fails, bytes=bytes)
    (folder / "code" / "inference.py").write_text(text)
    return folder


def tensor_version(root: Path, version: str, *, columns: int = 4, golden: bool = True) -> Path:
    """Answers with the numbers that it was sent. `golden` False: its expected answer is another."""
    folder = root / NAME / version
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(TENSORS.format(columns=columns) + BAD_GOLDEN)
    (folder / "in.json").write_text(json.dumps([[1.0] * columns]))
    (folder / "out.json").write_text(json.dumps([[1.0 if golden else 2.0] * columns]))
    return folder


class _Admin(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("sidecar", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def ask(tree: Tree, version: str, name: str = NAME) -> tuple[int, dict[str, Any]]:
    """POST /models/{name}/versions over the Unix socket: status and reply."""
    (path,) = (tree.tmp / "tmp").glob("evenkeel-*/admin.sock")
    connection = _Admin(path)
    try:
        connection.request("POST", f"/models/{name}/versions", json.dumps({"version": version}))
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def versions(tree: Tree) -> dict[str, Any]:
    found: dict[str, Any] = tree.status()["versions"]
    return found


def phases(tree: Tree) -> Mapping[str, str]:
    return {v["version"]: v["phase"] for v in versions(tree)["versions"]}


def settled_on(tree: Tree, version: str) -> bool:
    now = versions(tree)
    return now["serving"] == version and now["phase"] == "steady"
