"""The home folder of an endpoint: its lock, and the note that tells commands which process has it and at which ports."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

DEFAULT = ".evenkeel"


class HomeError(Exception):
    """The message is for a person."""


@dataclass(frozen=True, slots=True)
class HomeNote:
    pid: int
    port: int
    router_port: int
    region: str


def home_of(given: str, environ: Mapping[str, str]) -> Path:
    """--home, or EVENKEEL_HOME, or ~/.evenkeel; always absolute."""
    return Path(given or environ.get("EVENKEEL_HOME") or Path(environ.get("HOME", "/")) / DEFAULT).absolute() / "endpoint"


def locked(home: Path) -> int | None:
    """A descriptor that holds the lock while it is open, or None where another process has it."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def is_up(home: Path) -> bool:
    if not (home / "lock").exists():
        return False
    fd = locked(home)
    if fd is not None:
        os.close(fd)
    return fd is None


def write_note(home: Path, note: HomeNote) -> None:
    fresh = home / "up.new"
    fresh.write_bytes(orjson.dumps(asdict(note)))
    fresh.replace(home / "up.json")


def note_of(home: Path) -> HomeNote:
    """Raises HomeError where no endpoint is up there."""
    try:
        note = HomeNote(**orjson.loads((home / "up.json").read_bytes()))
    except (OSError, orjson.JSONDecodeError, TypeError):
        note = None
    if note is None or not is_up(home):
        raise HomeError(f"nothing is up in {home}: start it with `evenkeel endpoint up`")
    return note


def exports(note: HomeNote) -> dict[str, str]:
    """What sends every call of an AWS SDK here, and none to AWS."""
    control, router = f"http://127.0.0.1:{note.port}", f"http://127.0.0.1:{note.router_port}"
    return {
        "AWS_ENDPOINT_URL": control, "AWS_ENDPOINT_URL_SAGEMAKER": control, "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": router,
        "AWS_ENDPOINT_URL_STS": control, "AWS_ENDPOINT_URL_S3": control,
        "AWS_REGION": note.region, "AWS_DEFAULT_REGION": note.region,
        "AWS_ACCESS_KEY_ID": "evenkeel", "AWS_SECRET_ACCESS_KEY": "evenkeel", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
    }  # fmt: skip
