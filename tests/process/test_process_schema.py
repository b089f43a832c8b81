"""/openapi.json: complete, and true. Schemathesis asks every operation what the schema allows, and some things it does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evenkeel.serve.front.pages.data_pages import build
from tests.support.tree import Tree

SCHEMATHESIS = shutil.which("st", path=str(Path(sys.executable).parent))
# What a model takes as input is its own affair: 400 is a documented answer to a body that the schema allows.
LEFT_OUT = "positive_data_acceptance"


def test_the_schema_has_every_route_and_the_hot_paths_too(digits: Tree) -> None:
    with digits.wire() as wire:
        found = wire.get("/openapi.json").json()
    own = set(build().openapi()["paths"])
    assert set(found["paths"]) == own >= {"/invocations", "/ping", "/metrics", "/execution-parameters", "/v2/health/ready"}
    operations = [o for path in found["paths"].values() for o in path.values()]
    assert all(o["summary"] and "422" not in o["responses"] for o in operations)
    assert len({o["operationId"] for o in operations}) == len(operations)
    ask = found["paths"]["/invocations"]["post"]
    assert {"200", "400", "413", "415", "429", "500", "503", "504"} <= set(ask["responses"])
    assert {"application/json", "text/csv", "application/x-npy"} <= set(ask["requestBody"]["content"])


@pytest.mark.skipif(SCHEMATHESIS is None, reason="schemathesis is not installed: pip install 'evenkeel[dev]'")
def test_schemathesis_finds_nothing(digits: Tree, tmp_path: Path) -> None:
    """Bounded: 25 made requests an operation, always the same ones."""
    asked = ["--max-examples", "25", "--checks", "all", "--exclude-checks", LEFT_OUT, "--phases", "examples,coverage,fuzzing"]
    command = [str(SCHEMATHESIS), "run", f"http://127.0.0.1:{digits.port}/openapi.json", *asked, "--seed", "7", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "Failures:" not in done.stdout and "14 selected / 14 total" in done.stdout, done.stdout[-3000:]
    assert digits.ping() == 200
