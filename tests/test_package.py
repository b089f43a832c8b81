"""One package, however it was installed: no module of ours under a second name, and no name of ours in anybody's way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fastapi
import pytest

import evenkeel
from tests.support.tree import ARTIFACTS, EVENKEEL, ROOT, START_S, Tree, clean_environment

TRAPS = ("serve", "container", "sidecar", "endpoint", "queue", "types", "numpy", "orjson", "logging", "evenkeel")
EVERY_MODULE = """
import importlib, json, pathlib, pkgutil, sys
import evenkeel
names = [m.name for m in pkgutil.walk_packages(evenkeel.__path__, "evenkeel.") if "__main__" not in m.name]
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as e:
        if (e.name or "").partition(".")[0] == "evenkeel":
            raise
files = {}
for name, module in list(sys.modules.items()):
    if getattr(module, "__file__", None):
        files.setdefault(str(pathlib.Path(module.__file__).resolve()), []).append(name)
print(json.dumps({"modules": len(names), "twice": [n for n in files.values() if len(n) > 1 and "evenkeel" in str(n)],
                  "top": sorted(n for n in sys.modules if n in ("serve", "container", "sidecar", "endpoint"))}))
"""


def python(code: str, cwd: Path, *flags: str, executable: Path | str = sys.executable) -> str:
    done = subprocess.run(
        [executable, *flags, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=START_S, env=clean_environment({})
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("cwd", [ROOT, Path("/")], ids=["in the checkout", "elsewhere"])
def test_every_module_of_ours_has_one_name(cwd: Path) -> None:
    found = json.loads(python(EVERY_MODULE, cwd))
    assert found["modules"] > 200 and found["twice"] == [] and found["top"] == []


def test_no_test_loads_a_module_of_ours_under_another_name() -> None:
    assert {"serve", "container", "sidecar", "endpoint"}.isdisjoint(sys.modules)


def test_it_says_which_version_it_is() -> None:
    said = subprocess.run([EVENKEEL, "--version"], capture_output=True, text=True, timeout=START_S)
    assert said.returncode == 0 and said.stdout.split() == ["evenkeel", evenkeel.__version__]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a wheel in an environment of its own, which has what we depend on from ours."""
    made = tmp_path_factory.mktemp("wheel")
    source = made / "source"
    for name in ("src", "container", "endpoint", "serve", "sidecar"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", made, source], check=True, timeout=300)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made / "venv"], check=True)
    [wheel] = made.glob("*.whl")
    subprocess.run([*pip, "--python", made / "venv/bin/python", "install", "--no-deps", wheel], check=True, timeout=300)
    site = Path(python("import sysconfig; print(sysconfig.get_path('purelib'))", made, executable=made / "venv/bin/python"))
    (site / "dependencies.pth").write_text(str(Path(fastapi.__file__).parents[1]))
    (site / "serve").mkdir()  # somebody else's package of that name
    (site / "serve" / "__init__.py").write_text("raise SystemExit('the wrong module')")
    return made / "venv" / "bin" / "evenkeel"


def test_a_wheel_holds_everything_once_and_nothing_else(installed: Path) -> None:
    import zipfile

    [wheel] = installed.parents[2].glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.partition("/")[0] for n in names} == {"evenkeel", f"evenkeel-{evenkeel.__version__}.dist-info"}
    ours = {
        f"evenkeel/{p.relative_to(ROOT)}"
        for part in ("container", "endpoint", "serve", "sidecar")
        for p in (ROOT / part).rglob("*.py")
    }
    assert ours | {"evenkeel/py.typed", "evenkeel/__init__.py", "evenkeel/sidecar/page.html"} <= set(names)


def test_a_wheel_serves_checks_and_judges_in_a_folder_full_of_traps(installed: Path, tmp_path: Path) -> None:
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    tree = Tree("digits", command=[str(installed), "serve"], cwd=tmp_path).wait_ready()
    assert tree.status()["ready"]
    tree.stop()
    for command in (["check", ARTIFACTS / "digits"], ["judge", "--help"], ["--version"]):
        done = subprocess.run(
            [installed, *command], cwd=tmp_path, capture_output=True, text=True, timeout=START_S, env=clean_environment({})
        )
        assert done.returncode == 0, done.stderr
    found = json.loads(python(EVERY_MODULE, tmp_path, "-P", executable=installed.with_name("python")))
    assert found["twice"] == [] and found["top"] == [] and os.listdir(tmp_path)
