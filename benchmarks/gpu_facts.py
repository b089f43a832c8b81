"""What benchmarks/gpu.py measures on, as lines of its report: card, driver, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu_load import ROOT

TORCH_S_MAX = 120


def cores() -> int:
    return len(os.sched_getaffinity(0))


def machine() -> list[tuple[str, str]]:
    code = ("import torch;c=torch.cuda;print(torch.__version__,torch.version.cuda,"
            "c.get_device_name(0) if c.is_available() else 'none: the CPU',sep='|')")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TORCH_S_MAX)
    version, cuda, card = done.stdout.strip().split("|") if done.returncode == 0 else ("", "", "")
    driver = Path("/proc/driver/nvidia/version")
    return [
        ("card", card),
        ("driver", driver.read_text().splitlines()[0].partition(": ")[2].strip() if driver.exists() else ""),
        ("torch", f"{version}, CUDA {cuda}"),
        ("Python", platform.python_version()),
        ("cores", str(cores())),
        ("commit", commit()),
    ]


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return found or "uncommitted"
