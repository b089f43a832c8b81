"""The running image as a black box, between the platform's walls: a random UID, a read-only root, no capabilities, 64 MB of
shared memory, the model folder read only, and a network that leads nowhere.

The network is internal: the pings and requests come over it from this machine, as on the platform with network isolation,
and nothing gets out. Plain docker commands, so it runs wherever `docker` does on Linux.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from tests.sagemaker.box import GRACE_S, Room, folder_of
from tests.support.tree import ROOT

NAMED = "EVENKEEL_TEST_IMAGE"  # the image to test; without it evenkeel:cpu if it is of this commit
DEFAULT_IMAGE = "evenkeel:cpu"
COMMAND_S = 120.0  # for one docker command; a bound, not a bar
PORT = 8080


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=COMMAND_S)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done


def image() -> str:
    return os.environ.get(NAMED, "") or DEFAULT_IMAGE


@cache
def missing() -> str:
    """Why no image can be tested here; empty when one can. One that was asked for by name must be there."""
    if not shutil.which("docker"):
        why = "docker is missing"
    elif docker("image", "inspect", image(), check=False).returncode:
        why = f"the image {image()} is missing: make image"
    elif not os.environ.get(NAMED) and (stale := _stale()):
        why = stale
    else:
        return ""
    assert not os.environ.get(NAMED), f"{NAMED}={image()}: {why}"
    return why


def _stale() -> str:
    label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    built = docker("image", "inspect", "--format", label, image()).stdout.strip()
    here = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return "" if built == here else f"the image {image()} is of commit {built[:7]}, not of {here[:7]}: make image"


@cache
def network() -> str:
    """One for all boxes of this run. Nothing leads out of it."""
    name = f"evenkeel-test-{uuid.uuid4().hex[:8]}"
    docker("network", "create", "--internal", name)
    atexit.register(docker, "network", "rm", name, check=False)
    return name


class ImageBox:
    kind = "image"

    def __init__(self, model: str | Path, room: Room) -> None:
        self.name = f"evenkeel-test-{uuid.uuid4().hex[:12]}"
        self.port = int(room.settings.get("SAGEMAKER_BIND_TO_PORT", PORT))
        self._room = room
        docker("create", "--name", self.name, *self._walls(folder_of(model)), image(), *room.command)
        self.host = ""
        self.again()

    def _walls(self, folder: Path) -> list[str]:
        room = self._room
        walls = ["--user", room.user, "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--shm-size", "64m"]
        walls += ["--network", f"container:{room.beside}" if room.beside else network() if room.network else "none"]
        walls += ["--read-only", "--tmpfs", "/tmp"] if room.read_only else []
        walls += ["--volume", f"{folder.resolve()}:/opt/ml/model:ro"] if room.mounts_model else []
        walls += ["--cpus", f"{room.cpus:g}"] if room.cpus else []
        walls += ["--memory", f"{room.memory_mb}m"] if room.memory_mb else []
        walls += ["--pids-limit", str(room.pids)] if room.pids else []
        walls += ["--ulimit", f"nofile={room.files}:{room.files}"] if room.files else []
        for name, value in room.settings.items():
            walls += ["--env", f"{name}={value}"]
        return walls

    def log(self) -> list[dict[str, Any]]:
        lines = docker("logs", self.name).stdout.splitlines()
        records = [json.loads(line) for line in lines]
        assert all(isinstance(r, dict) for r in records), lines
        return records

    def story(self) -> str:
        done = docker("logs", "--tail", "100", self.name, check=False)
        return done.stdout[-6000:] + done.stderr[-3000:]

    def exit_code(self) -> int | None:
        running, code = docker("inspect", "--format", "{{.State.Running}} {{.State.ExitCode}}", self.name).stdout.split()
        return None if running == "true" else int(code)

    def stop(self) -> int:
        docker("stop", "-t", str(GRACE_S), self.name)
        code = self.exit_code()
        assert code is not None, "docker stop returns when it has ended"
        return code

    def kill(self) -> None:
        docker("kill", "--signal", "KILL", self.name)
        docker("wait", self.name)

    def again(self) -> None:
        docker("start", self.name)
        address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        self.host = docker("inspect", "--format", address, self._room.beside or self.name).stdout.strip()

    def run_inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As `docker exec`: what the image's own health check does."""
        return docker("exec", self.name, *command, check=False)

    def remove(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            docker("rm", "--force", "--volumes", self.name, check=False)
