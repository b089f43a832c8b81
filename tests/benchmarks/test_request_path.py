"""How far a reader has to walk to follow one request. The ceilings only ever come down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FILES_MAX, RETURNS_MAX = 12, 12


def test_one_plain_row_passes_few_files_and_returns_to_few() -> None:
    """In a process of its own, since it looks at every call that is made."""
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-m", "benchmarks.request_path"], cwd=root, env=os.environ,
                          capture_output=True, text=True, timeout=120, check=True).stdout  # fmt: skip
    words = said.splitlines()[-1].split()
    files, returns = int(words[2]), int(words[4])
    assert files <= FILES_MAX and returns <= RETURNS_MAX, said
    assert "engine/cycle/cycle.py" in said and "front/http/whole_requests.py" in said, "the way leads through both"
