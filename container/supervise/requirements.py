"""`requirements.txt` beside the handler: installed at start where that is asked for (EVENKEEL_INSTALL_REQUIREMENTS=1), else told.

Into a folder of the run directory, which goes with it, by a pip of its own, once for all engines and within a bound of time.
What the image has stays as it is: every package that is installed is a constraint, so a requirement that contradicts it is a
clear failure here and not a riddle later.
"""

from __future__ import annotations

import os
import re
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

LINES_TOLD = 12  # of what pip said last
DIFFERING_TOLD = 8
FILE_BYTES_MAX = 1 << 20
PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^]]*\])?\s*(?:==\s*([0-9][A-Za-z0-9.!+_-]*))?\s*(?:[<>=!~;#].*)?")
CONFLICT = "The conflict is caused by:"


def file_of(model_dir: Path, program: str) -> Path | None:
    """In `code`, or beside a handler that lies elsewhere in the model folder."""
    places = [model_dir / "code", *([(model_dir / program).parent] if program and (model_dir / program).is_file() else [])]
    return next((file for place in places if (file := place / "requirements.txt").is_file()), None)


def requirements(file: Path, into: Path, timeout_s: float, environ: Mapping[str, str]) -> Path:
    """Install what it names. The folder to import from. Raises BadSetting with what pip said."""
    into.mkdir()
    (into / "constraints.txt").write_text("".join(sorted(f"{name}=={version}\n" for name, version in _installed())))
    name = name_of(file)
    log("installing", f"pip installs {name} (EVENKEEL_INSTALL_REQUIREMENTS=1), for at most {timeout_s:g} s")
    began_s = time.monotonic()
    _run_pip(file, into, timeout_s, environ)
    log("installed", f"{name} is installed", seconds=round(time.monotonic() - began_s, 2))
    return next(iter(sorted(into.rglob("site-packages")) or sorted(into.rglob("dist-packages"))), into)


def tell_not_installed(file: Path) -> None:
    """One line, with what it asks for and the image does not have: a pin that nobody heeds is a riddle later."""
    try:
        text = file.read_bytes()[:FILE_BYTES_MAX].decode("utf-8", "replace")
    except OSError as e:
        log("requirements_unread", f"{name_of(file)} cannot be read: {e.strerror}", level="warning")
        return
    odd = differing(text, dict(_installed()))
    told = "nothing that it names plainly is missing" if not odd else f"it asks for {', '.join(odd[:DIFFERING_TOLD])}"
    more = f" and {len(odd) - DIFFERING_TOLD} more" if len(odd) > DIFFERING_TOLD else ""
    log("requirements_not_installed", f"{name_of(file)} is not installed: {told}{more}. Install it in the image, or at a start "
        "with EVENKEEL_INSTALL_REQUIREMENTS=1", level="warning" if odd else "info")  # fmt: skip


def differing(text: str, installed: Mapping[str, str]) -> list[str]:
    """What a requirements.txt names plainly and is not here, or pins to another version than is here. Options, addresses and
    ranges are pip's to judge."""
    here = {_canonical(name): version for name, version in installed.items()}
    found = []
    for line in text.splitlines():
        match = PINNED.fullmatch(line.strip())
        if match is None:
            continue
        name, pin = match[1], match[2]
        version = here.get(_canonical(name))
        if version is None:
            found.append(f"{name}{f' {pin}' if pin else ''} (absent)")
        elif pin and pin != version:
            found.append(f"{name} {pin} (here {version})")
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


def reason_of(text: str) -> str:
    """Why pip gave up, out of all that it wrote: what contradicts what, else its last error."""
    _, found, rest = text.partition(CONFLICT)
    if found:
        lines = rest.strip("\n").splitlines()
        sides = [line.strip() for line in lines[: next((i for i, x in enumerate(lines) if not x.strip()), len(lines))]]
        return "; ".join(sides)[:1000].replace("(constraint)", "(as installed here)")
    errors = [line for line in text.splitlines() if line.startswith(("ERROR", sys.executable))] or text.splitlines() or [""]
    return errors[-1].removeprefix("ERROR: ")


def _installed() -> Iterator[tuple[str, str]]:
    import importlib.metadata  # which takes 5 MB, and few models bring requirements

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
            f"{name_of(file)} was not installed within {timeout_s:g} s (EVENKEEL_INSTALL_TIMEOUT_S): is there a network? "
            "It can be installed into the image instead"
        ) from e
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        log("not_installed", f"pip could not install {name_of(file)}", level="error", pip=text.splitlines()[-LINES_TOLD:])
        raise BadSetting(f"{name_of(file)} cannot be installed: {reason_of(text)}")


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
