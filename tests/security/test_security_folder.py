"""The model folder and what is packed from it: nothing outside it is read, nothing from a request is run or unpickled."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

from evenkeel.container.commands import pack_command
from evenkeel.serve.contract import manifest
from evenkeel.serve.errors import BadModel

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted(ROOT.glob("Dockerfile.*"))
REQUEST_PATH = ("serve/front", "serve/codec", "serve/transport", "serve/batching", "serve/engine", "sidecar")
RUNS_OR_UNPICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "subprocess", "pty", "commands"}
CALLS = {
    "os.system",
    "os.popen",
    "eval",
    "exec",
    "torch.load",
    "joblib.load",
    "yaml.load",
    "os.execv",
    "os.execvp",
    "os.posix_spawn",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "model"
    (inside / "samples").mkdir(parents=True)
    (inside / "model.onnx").write_bytes(b"x")
    (inside / "samples" / "a.json").write_text("[[1]]")
    (tmp_path / "secret.json").write_text("[[1]]")
    return inside


@pytest.mark.parametrize("key", ["input", "output"])
@pytest.mark.parametrize(
    "name", ["../secret.json", "samples/../../secret.json", "{outside}/secret.json", "link.json", "linked/secret.json"]
)
def test_samples_outside_of_the_model_folder_are_refused(folder: Path, key: str, name: str) -> None:
    os.symlink(folder.parent / "secret.json", folder / "link.json")
    os.symlink(folder.parent, folder / "linked")
    sample = {"input": "samples/a.json", key: name.format(outside=folder.parent)}
    with pytest.raises(BadModel, match=r"model\.toml: samples\[0\]"):
        manifest.parse({"samples": [sample]}, folder)


@pytest.mark.parametrize("name", ["../model.onnx", "{outside}/model.onnx", "linked.onnx"])
def test_a_model_file_outside_of_the_model_folder_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "model.onnx").write_bytes(b"x")
    os.symlink(folder.parent / "model.onnx", folder / "linked.onnx")
    with pytest.raises(BadModel, match="model folder"):
        manifest.parse({"file": name.format(outside=folder.parent)}, folder)


def test_a_bare_model_or_script_that_is_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder.parent / "inference.py").write_text("raise SystemExit")
    (folder / "code").mkdir()
    os.symlink(folder.parent / "inference.py", folder / "code" / "inference.py")
    with pytest.raises(BadModel, match=r"code/inference\.py is a link out of"):
        manifest.parse({}, folder)


def test_links_inside_the_folder_and_a_folder_that_is_a_link_are_fine(folder: Path) -> None:
    """Kubernetes mounts ConfigMaps and volumes as links of this kind."""
    os.symlink("a.json", folder / "samples" / "b.json")
    os.symlink(folder, folder.parent / "current")
    found = manifest.parse({"samples": [{"input": "samples/b.json"}]}, folder.parent / "current")
    assert found.samples[0].input.name == "b.json"


def test_pack_refuses_links_and_names_no_path_outside(folder: Path) -> None:
    assert all(not name.startswith(("/", "..")) for name in pack_command.collect(folder, folder.parent / "out.tar.gz"))
    os.symlink(folder.parent / "secret.json", folder / "samples" / "c.json")
    with pytest.raises(BadModel, match="symbolic link"):
        pack_command.collect(folder, folder.parent / "out.tar.gz")


def sources() -> list[Path]:
    return [path for part in REQUEST_PATH for path in sorted((ROOT / part).rglob("*.py"))]


def name_of(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def offences(text: str) -> list[str]:
    """Imports and calls that run a command, evaluate text or unpickle; NumPy files must say allow_pickle=False."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in RUNS_OR_UNPICKLES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in RUNS_OR_UNPICKLES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            words = {k.arg: k.value for k in node.keywords}
            if name_of(node.func) in CALLS:
                found.append(name_of(node.func))
            if isinstance(value := words.get("shell"), ast.Constant) and value.value:
                found.append("shell=True")
            if name_of(node.func) in ("np.load", "numpy.load", "np.lib.format.read_array"):
                value = words.get("allow_pickle")
                if not (isinstance(value, ast.Constant) and value.value is False):
                    found.append(f"{name_of(node.func)} without allow_pickle=False")
    return found


# The only places, and why.
ALLOWED: dict[str, set[str]] = {}


def test_nothing_in_the_path_of_a_request_runs_a_command_or_unpickles() -> None:
    seen = {str(p.relative_to(ROOT)): o for p in sources() if (o := offences(p.read_text()))}
    assert {name: [x for x in o if x not in ALLOWED.get(name, set())] for name, o in seen.items()} == {k: [] for k in ALLOWED}


OFFENCES = (
    "import pickle",
    "from subprocess import run",
    "os.system('ls')",
    "np.load(f)",
    "f(shell=True)",
    "torch.load(f)",
    "eval(x)",
)


@pytest.mark.parametrize("text", OFFENCES)
def test_the_scan_finds_what_it_looks_for(text: str) -> None:
    assert offences(text)


# Dockerfiles, as hadolint would look at them --------------------------------------------------------------------------


def instructions(text: str) -> list[tuple[str, str]]:
    """Comments left out, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(w[0].upper(), w[1].strip()) for line in joined.splitlines() if len(w := line.strip().split(None, 1)) == 2]


def wrong(text: str) -> list[str]:
    found, given = [], instructions(text)
    stages = {m[1] for k, v in given if k == "FROM" and (m := re.search(r"\bAS\s+(\S+)", v, re.I))}
    starts = [n for n, (kind, _) in enumerate(given) if kind == "FROM"]
    for kind, value in given:
        image = value.split()[0]
        if kind == "FROM" and image not in stages and (":" not in image or image.endswith(":latest")):
            found.append(f"FROM {image}: no tag, or latest")
        if kind in ("ENTRYPOINT", "CMD") and not value.startswith("["):
            found.append(f"{kind} is not in exec form")
        if kind == "ADD":
            found.append("ADD: use COPY, which fetches and unpacks nothing")
        if kind == "RUN" and re.search(r"\bsudo\b|curl[^|]*\|\s*(ba)?sh", value):
            found.append("sudo, or a script from the network")
        if kind == "RUN" and "apt-get install" in value and "--no-install-recommends" not in value:
            found.append("apt-get install with recommended packages")
    last = dict(given[starts[-1] :]) if starts else {}
    reached, base = given[starts[-1] :], given[starts[-1]][1].split()[0]
    while base in stages:  # the stages that the last one stands on are in the image too
        at = next(n for n in starts if re.search(rf"\bAS\s+{re.escape(base)}$", given[n][1], re.I))
        end = next((n for n in starts if n > at), len(given))
        reached, base = [*given[at:end], *reached], given[at][1].split()[0]
    for kind, value in reached:
        if kind == "RUN" and "apt-get install" in value and not re.search(r"rm -rf [^&]*/var/lib/apt/lists", value):
            found.append("apt lists are left in the image")
    if "ENTRYPOINT" not in last or "STOPSIGNAL" not in last:
        found.append("the last stage needs ENTRYPOINT and STOPSIGNAL")
    if last.get("USER", "").split(":")[0] in ("root", "0"):
        found.append("USER root is said on purpose: leave it out, or name another")
    if any(re.search(r"(TOKEN|SECRET|PASSWORD|_KEY)\s*=", v) for k, v in given if k in ("ENV", "ARG")):
        found.append("a secret in ENV or ARG stays in the image")
    return found


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_a_dockerfile_keeps_the_rules(path: Path) -> None:
    assert wrong(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('FROM debian\nSTOPSIGNAL SIGTERM\nENTRYPOINT ["x"]', "no tag"),
        ('FROM a:latest\nSTOPSIGNAL SIGTERM\nENTRYPOINT ["x"]', "latest"),
        ("FROM a:1\nSTOPSIGNAL SIGTERM\nENTRYPOINT x", "exec form"),
        (
            'FROM a:1 AS b\nRUN apt-get install --no-install-recommends c\nFROM b\nSTOPSIGNAL SIGTERM\nENTRYPOINT ["x"]',
            "apt lists",
        ),
        ('FROM a:1\nENTRYPOINT ["x"]', "STOPSIGNAL"),
        ('FROM a:1\nADD http://x /\nSTOPSIGNAL SIGTERM\nENTRYPOINT ["x"]', "ADD"),
        ('FROM a:1\nUSER root\nSTOPSIGNAL SIGTERM\nENTRYPOINT ["x"]', "USER root"),
        ('FROM a:1\nENV API_KEY=1\nSTOPSIGNAL SIGTERM\nENTRYPOINT ["x"]', "secret"),
    ],
)
def test_the_rules_find_what_they_look_for(text: str, what: str) -> None:
    assert any(what in each for each in wrong(text)), wrong(text)
