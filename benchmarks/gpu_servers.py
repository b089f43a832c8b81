"""The servers of benchmarks/gpu.py, each in a process group of its own on loopback: evenkeel, peers, one that does nothing.

Who starts one may ask it, and ends it with all its processes; nothing is left behind. A server is ready when it answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from benchmarks.gpu_load import ROOT
from benchmarks.gpu_peers import READY, Setting
from benchmarks.gpu_wire import ask, npy, request

READY_S_MAX = 100.0  # a first start on a card: import, load, compile, warm
STOP_S_MAX = 10.0
LOG_CHARS_MAX = 1500


class Server:
    """Answers requests on `port`. `module`: what Python runs, with its arguments."""

    running: ClassVar[set[Server]] = set()

    def __init__(self, module: Sequence[str], port: int, probe: bytes, settings: Mapping[str, str]) -> None:
        self.port, self._probe = port, probe
        self.tmp = Path(tempfile.mkdtemp(prefix="ekg-"))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("EVENKEEL_", "SAGEMAKER_"))}
        with (self.tmp / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *module], cwd=ROOT, env={**kept, "TMPDIR": str(self.tmp), **settings}, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        self._ready_by_s = time.monotonic() + READY_S_MAX  # those that start together are waited for together
        Server.running.add(self)

    def __enter__(self) -> Self:
        try:
            while not self.ready():
                if self._process.poll() is not None or time.monotonic() > self._ready_by_s:
                    raise RuntimeError(f"the server did not start: {self.said()}")
                time.sleep(0.05)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S_MAX)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what is left of it
        self._process.wait()
        shutil.rmtree(self.tmp, ignore_errors=True)
        Server.running.discard(self)

    def said(self) -> str:
        return (self.tmp / "log").read_text(errors="replace")[-LOG_CHARS_MAX:]

    def ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as wire:
            return ask(wire, self._probe)[0] == 200
        return False

    def ask(self, array: Any) -> tuple[int, bytes]:
        with socket.create_connection(("127.0.0.1", self.port), 60) as wire:
            return ask(wire, request(npy(array)))


class Evenkeel(Server):
    """`evenkeel serve` from the source tree."""

    def __init__(self, folder: Path, **settings: str) -> None:
        port, self._side, self.folder = free_port(), free_port(), folder
        ours = {"EVENKEEL_MODEL_DIR": str(folder), "SAGEMAKER_BIND_TO_PORT": str(port), "EVENKEEL_QUIET_S": "0",
                "EVENKEEL_SIDECAR_ADDRESS": f"127.0.0.1:{self._side}"}  # fmt: skip
        super().__init__(("container", "serve"), port, b"", {**ours, **settings})

    def ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5) as reply:
            return bool(reply.status == 200)
        return False

    def replica(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._side}/status", timeout=10) as reply:
            found: dict[str, Any] = json.load(reply)["replicas"][0]
        return found

    def pid(self) -> int:
        """Of the engine."""
        return int(self.replica()["pid"])

    def back_s(self, old_pid: int, limit_s: float = 60.0) -> float | None:
        """Until another engine is ready; from now."""
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < limit_s:
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
                replica = self.replica()
                if replica["pid"] not in (0, old_pid) and str(replica["state"]).upper() == "READY":
                    return time.monotonic() - begun_s
            time.sleep(0.05)
        return None


class Peer(Server):
    """`installed`: a folder of packages that this process alone sees."""

    def __init__(self, name: str, work: str, tiny: bool, setting: Setting, installed: Path | None, probe: Any) -> None:
        self._workers, port = setting.workers, free_port()
        args = (work, str(port), json.dumps(asdict(setting)), *(["--tiny"] if tiny else []))
        super().__init__((f"benchmarks.gpu_{name}", *args), port, request(npy(probe)), seeing(installed))

    def ready(self) -> bool:
        """All of its workers: it answers as soon as it has one."""
        return (self.tmp / "log").read_bytes().count(READY.encode()) >= self._workers and super().ready()


def fixed(processes: int) -> Server:
    port = free_port()
    return Server(("benchmarks.gpu_fixed", str(port), str(processes)), port, request(b""), {})


def seeing(installed: Path | None) -> dict[str, str]:
    path = os.pathsep.join(str(p) for p in (installed, os.environ.get("PYTHONPATH")) if p)
    return {"PYTHONPATH": path} if path else {}


def version(name: str, installed: Path | None) -> str:
    """Of a peer. Raises RuntimeError where it cannot be imported."""
    code = f"import {name};from importlib.metadata import version;print(version('{name}'))"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **seeing(installed)}, capture_output=True, text=True,
                          timeout=60)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"it cannot be imported here: {done.stderr.strip().rpartition(chr(10))[2]}")
    return done.stdout.strip().rpartition("\n")[2]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
