"""Where a command writes: to nobody, to a full disk, in an encoding that lacks a character. No traceback, whatever it is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMAND = (sys.executable, "-P", "-m", "evenkeel.container")


def test_a_closed_stdout_is_no_reason_to_end() -> None:
    status = [*COMMAND, "status", "--socket", "/nowhere"]
    ended = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *status], stderr=subprocess.PIPE, check=False, timeout=60)
    assert ended.returncode == 1 and ended.stderr.startswith(b"evenkeel: nothing answers at /nowhere")


@pytest.mark.parametrize("words", [["--version"], ["--help"]])
def test_a_full_disk_is_told_in_one_line(words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run([*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert ended.returncode == 1 and ended.stderr == b"evenkeel: No space left on device\n"


def test_what_the_encoding_of_a_terminal_lacks_is_replaced() -> None:
    shown = "print('8 \u2713 a \u00b7 b\u2026')"
    code = f"from evenkeel.container.commands import standard_streams; standard_streams.make_writable(); {shown}"
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-P", "-c", code], env=environ, capture_output=True, check=False, timeout=60)
    assert ended.stdout == b"8 ? a - b...\n" and not ended.stderr
