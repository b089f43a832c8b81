"""What a role does with its process at its start."""

from __future__ import annotations

import subprocess
import sys

DUMPABLE = "ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)"  # PR_GET_DUMPABLE


def test_a_process_that_hides_its_memory_starts_others_that_do_not() -> None:
    """Without it, code of the same user reads /proc/PID/environ, mem and fd."""
    code = f"""
import ctypes, os, subprocess, sys
from evenkeel.serve.contract.process_setup import hide_memory
hide_memory()
print({DUMPABLE}, flush=True)
subprocess.run([sys.executable, "-c", "import ctypes; print({DUMPABLE})"], check=True)
read, write = os.pipe()
os.close(os.open(f"/proc/self/fd/{{write}}", os.O_WRONLY | os.O_NONBLOCK))
print("its own descriptors can be opened again")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.split("\n")[:3] == ["0", "1", "its own descriptors can be opened again"]
