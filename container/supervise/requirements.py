"""`code/requirements.txt` installed at start, for those who ask for it: EVENKEEL_INSTALL_REQUIREMENTS=1.

Into a folder of the run directory, which goes with it, by a pip of its own, once for all engines and within a bound of time.
What the image has stays as it is: every package that is installed is a constraint, so a requirement that contradicts it is a
clear failure here and not a riddle later.
"""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from evenkeel.serve.contract.logline import log
from evenkeel.serve.errors import BadSetting

REQUIREMENTS = Path("code") / "requirements.txt"
LINES_TOLD = 12  # of what pip said last


def requirements(model_dir: Path, into: Path, timeout_s: float, environ: Mapping[str, str]) -> Path | None:
    """The folder to import from, or None when the model asks for nothing. Raises BadSetting with what pip said."""
    file = model_dir / REQUIREMENTS
    if not file.is_file():
        return None
    into.mkdir()
    (into / "constraints.txt").write_text("".join(sorted(f"{name}=={version}\n" for name, version in _installed())))
    log("installing", f"pip installs {REQUIREMENTS} (EVENKEEL_INSTALL_REQUIREMENTS=1), for at most {timeout_s:g} s")
    began_s = time.monotonic()
    _run_pip(file, into, timeout_s, environ)
    log("installed", f"{REQUIREMENTS} is installed", seconds=round(time.monotonic() - began_s, 2))
    return next(iter(sorted(into.rglob("site-packages")) or sorted(into.rglob("dist-packages"))), into)


def _installed() -> Iterator[tuple[str, str]]:
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name and name != "evenkeel":
            yield name, distribution.version


def _run_pip(file: Path, into: Path, timeout_s: float, environ: Mapping[str, str]) -> None:
    command = [
        sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-cache-dir",
        "--no-warn-script-location", "--prefix", str(into), "--constraint", str(into / "constraints.txt"), "-r", str(file),
    ]  # fmt: skip
    scratch = {**environ, "TMPDIR": str(into), "HOME": str(into)}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=scratch, start_new_session=True,
        text=True, errors="replace", cwd=file.parent,
    )  # fmt: skip
    try:
        with _ended_by_signals():
            text, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as e:
        raise BadSetting(
            f"{REQUIREMENTS} was not installed within {timeout_s:g} s (EVENKEEL_INSTALL_TIMEOUT_S): is there a network? "
            "It can be installed into the image instead"
        ) from e
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        log("not_installed", f"pip could not install {REQUIREMENTS}", level="error", pip=text.splitlines()[-LINES_TOLD:])
        errors = [line for line in text.splitlines() if line.startswith(("ERROR", sys.executable))] or text.splitlines() or [""]
        raise BadSetting(f"{REQUIREMENTS} cannot be installed: {errors[-1].removeprefix('ERROR: ')}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Nobody serves yet: anyone who wants us to stop need not wait. The first process of a container has no default for that."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = {s: signal.signal(s, leave) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
