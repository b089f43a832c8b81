"""The end of a process that ran user code: in time, with its own exit code, and with a word about what was left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import atexit, signal, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from evenkeel.serve.engine.leaving import Leaving
leaving = Leaving()
wait = threading.Event()
"""
TIMEOUT_S = 60.0  # a bound on a busy machine; what is left behind would wait for ever


def ended(script: str, code: int = 0) -> str:
    """What the process wrote, which must have ended with this code."""
    command = [sys.executable, "-c", HEAD + script + f"\nleaving.begin({code})"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, start_new_session=True)
    assert done.returncode == code, done.stderr
    return done.stdout


LEFT = {
    "a thread": ("threading.Thread(target=wait.wait, name='refresher').start()", "thread 'refresher'"),
    "an executor at work": ("ThreadPoolExecutor(1, 'mine').submit(wait.wait)", "thread 'mine_0'"),
    "an atexit function": ("def clean_up(): wait.wait()\natexit.register(clean_up)", "atexit"),
    "a process": ("import multiprocessing\nmultiprocessing.Process(target=wait.wait, name='helper').start()", "process 'helper'"),
    "many threads": ("for _ in range(20): threading.Thread(target=wait.wait).start()", "12 more"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_never_ends_is_left_behind_and_named(case: str) -> None:
    script, named = LEFT[case]
    found = ended(script)
    assert found.count("left_behind") == 1 and (named in found or "clean_up()" in found)


@pytest.mark.parametrize(
    "script",
    [
        "pass",
        "ThreadPoolExecutor(2).submit(int).result()",
        "threading.Thread(target=wait.wait, daemon=True).start()",
        "threading.Thread(target=time.sleep, args=(0.01,)).start()",
        "atexit.register(sys.exit, 5)",
        "def refuse(): raise ValueError\natexit.register(refuse)",
        "sys.stdout = None",
    ],
)
def test_what_ends_by_itself_is_waited_for(script: str) -> None:
    assert "left_behind" not in ended(script, code=7)


def test_functions_of_the_script_run_and_its_files_are_flushed(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    found = ended(f"f = open({str(file)!r}, 'w'); f.write('all of it')\natexit.register(print, 'goodbye', end='')")
    assert found == "goodbye" and file.read_text() == "all of it"


def test_files_are_flushed_when_something_is_left_behind(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    ended(f"f = open({str(file)!r}, 'w'); f.write('all of it')\nthreading.Thread(target=wait.wait).start()")
    assert file.read_text() == "all of it"


def test_a_child_that_is_forked_keeps_its_own_exit_code() -> None:
    ended("import os\nif os.fork() == 0: sys.exit(5)\nassert os.waitstatus_to_exitcode(os.wait()[1]) == 5")
